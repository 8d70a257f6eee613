"""A run that is killed at any moment and resumed ends with the bits, and the log, of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.training.metrics import read_records
from tests import PATIENCE, REPOSITORY

NUM_STEPS = 16


def start(data, out, *flags, launcher=()):
    """tools/train_graph.py in a process group of its own."""
    command = [
        *(*launcher, "tools/train_graph.py", "--data", data, "--out", out, "--max-steps", NUM_STEPS, "--seed", 5),
        *("--preset", "ssd300-nano", "--recipe", "shapes", "--batch-size", 2, "--epochs", 100, "--backend", "eager"),
        *("--evaluation", 1, 2, "--print-every", 3, "--save-every", 5, "--ema", 0.9, *flags),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with (Path(out).parent / f"{Path(out).name}.txt").open("a") as console:
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=REPOSITORY,
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process, out):
    assert process.wait(timeout=300 * PATIENCE) == 0, (Path(out).parent / f"{Path(out).name}.txt").read_text()


def wait_for_step(process, out, step):
    """Return when the run has recorded a step of at least `step`."""
    metrics = Path(out) / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and any(r["step"] >= step for r in read_records(metrics, "train")):
            return
        time.sleep(0.01)
    pytest.fail(f"the run ended before step {step}")


def interrupt(data, out, rng, *flags):
    """Kill a run with all its processes at a random moment, then resume it."""
    process = start(data, out, *flags)
    wait_for_step(process, out, rng.choice([0, 5, 9, 12]))
    time.sleep(rng.uniform(0, 0.3))
    os.killpg(process.pid, signal.SIGKILL)  # ranks have process groups of their own and die with their launcher
    process.wait()
    finish(start(data, out, *flags, "--resume", "auto"), out)


def assert_same_bits(a, b):
    first, second = (load_checkpoint(folder / "last.pth") for folder in (a, b))
    assert first.step == second.step == NUM_STEPS
    for name, tensor in {**first.tensors, **first.optimizer, "ema": first.ema}.items():
        assert torch.equal(tensor, {**second.tensors, **second.optimizer, "ema": second.ema}[name]), name


def assert_same_run(a, b):
    assert_same_bits(a, b)
    for event in ("train", "validation"):
        records = [read_records(folder / "metrics.jsonl", event) for folder in (a, b)]
        for record in (*records[0], *records[1]):
            record.pop("images_per_second", None)
        assert records[0] == records[1]
    assert (a / "best.pth").resolve().name == (b / "best.pth").resolve().name
    one, two = ({f.name for f in folder.iterdir()} for folder in (a, b))
    assert one == two, (one - two, two - one)


def stopped_and_resumed(number, flags, straight, data, out):
    """SIGTERM is what Slurm and Kubernetes send; its exit code is neither an error's nor restarted."""
    process = start(data, out, *flags)
    wait_for_step(process, out, 6)  # so that no record is due where it stops
    process.send_signal(number)
    assert process.wait(timeout=60 * PATIENCE) == 128 + number
    told = (out.parent / "run.txt").read_text()
    step = load_checkpoint(out / "last.pth").step
    assert 5 <= step < NUM_STEPS
    assert read_records(out / "metrics.jsonl", "train")[-1]["step"] == step
    assert f"{number.name}: saved at step {step}; go on with --resume auto" in told
    assert "Traceback" not in told
    assert "restart 1" not in told
    finish(start(data, out, *flags, "--resume", "auto"), out)
    assert_same_bits(straight, out)


@pytest.fixture(scope="module")
def straight(tiny_coco, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "run"
    finish(start(tiny_coco, out), out)
    return out


def test_the_log_of_a_run_has_every_window_and_validation_once(straight):
    steps = [r["step"] for r in read_records(straight / "metrics.jsonl", "train")]
    # Saves at multiples of 5 and at the validations after 1 and 2 epochs of 11 images end a window too.
    expected = {*range(3, NUM_STEPS, 3), *range(5, NUM_STEPS + 1, 5), 6, 11, NUM_STEPS}
    assert steps == sorted(expected)
    assert [r["step"] for r in read_records(straight / "metrics.jsonl", "validation")] == [6, 11, NUM_STEPS]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_and_resumed_run_has_the_same_bits(straight, tiny_coco, tmp_path, workers):
    interrupt(tiny_coco, tmp_path / "run", random.Random(workers), "--workers", workers)
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_with_the_same_bits(straight, tiny_coco, tmp_path, number):
    stopped_and_resumed(number, ("--workers", 2), straight, tiny_coco, tmp_path / "run")
