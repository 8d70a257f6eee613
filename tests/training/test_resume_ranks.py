"""Two ranks that are killed, or asked to stop, at any moment and resumed end with the bits of a run left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.training.metrics import read_records
from ssd_graph.training.run_folder import RunFolder
from tests import REPOSITORY
from tests.training.test_resume import (
    NUM_STEPS,
    assert_same_bits,
    assert_same_run,
    finish,
    interrupt,
    start,
    stopped_and_resumed,
    wait_for_step,
)

PAIR = ("--cpus", 2, "--workers", 0, "--keep", 9)
"""The least that two ranks start; `make kills` starts their loaders too."""

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--max-restarts", 1)


@pytest.fixture(scope="module")
def straight_pair(tiny_coco, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight_pair") / "run"
    finish(start(tiny_coco, out, *PAIR), out)
    return out


@pytest.fixture
def half_done(straight_pair, tmp_path):
    """A copy of the run as it was after step 5."""
    out = tmp_path / "run"
    shutil.copytree(straight_pair, out, symlinks=True)
    RunFolder(out).rewind(5)
    metrics = out / "metrics.jsonl"
    records = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(r for r in records if json.loads(r)["step"] <= 5))
    return out


def resume(out, *flags, file="last.pth", launcher=()):
    """The run that `out` holds, by its file and in another folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *launcher, REPOSITORY / "tools" / "train_graph.py", "--resume", out / file, *flags]
    with out.with_name("run.txt").open("a") as console:
        return subprocess.Popen(
            list(map(str, command)), cwd=out.parent, env=environment, stdout=console, stderr=console
        )


def test_two_processes_train_and_validate_as_one(straight_pair):
    told = straight_pair.with_name("run.txt").read_text()
    assert "batch 2 x 2 on cpu" in told
    assert told.count("Final Train Accuracy") == 1
    # 11 images, four a step
    assert [r["step"] for r in read_records(straight_pair / "metrics.jsonl", "validation")] == [3, 6, NUM_STEPS]


def test_two_killed_and_resumed_ranks_have_the_same_bits(straight_pair, tiny_coco, tmp_path):
    interrupt(tiny_coco, tmp_path / "run", random.Random(7), *PAIR)
    assert_same_run(straight_pair, tmp_path / "run")


def test_a_killed_rank_is_restarted_and_the_run_has_the_same_bits(straight_pair, tiny_coco, tmp_path):
    out = tmp_path / "run"
    process = start(tiny_coco, out, *PAIR)
    wait_for_step(process, out, 5)
    victim = random.Random(3).choice(children(process.pid))
    os.kill(victim, signal.SIGKILL)
    finish(process, out)
    assert "killed by signal 9; restart 1 of 3" in (tmp_path / "run.txt").read_text()
    assert_same_run(straight_pair, out)


def test_a_run_that_is_resumed_by_its_file_is_restarted_in_its_folder(half_done, tmp_path):
    """Without --out the restart would begin anew in the default folder."""
    process = resume(half_done)
    wait_for_step(process, half_done, 9)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    finish(process, half_done)
    assert "restart 1 of 3" in (tmp_path / "run.txt").read_text()
    assert load_checkpoint(half_done / "last.pth").step == NUM_STEPS
    assert sorted(f.name for f in tmp_path.iterdir()) == ["run", "run.txt"]


def test_torchrun_restarts_a_killed_rank_and_the_run_has_the_same_bits(half_done, straight_pair):
    """Its store keeps the old ranks' addresses, and the file is no longer the newest then."""
    process = resume(half_done, file="step-00000005.pth", launcher=TORCHRUN)
    wait_for_step(process, half_done, 11)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    finish(process, half_done)
    assert_same_bits(straight_pair, half_done)


def test_a_command_that_is_refused_is_refused_again_when_torchrun_restarts_it(half_done, tiny_coco, tmp_path):
    process = start(tiny_coco, half_done, "--cpus", 2, launcher=TORCHRUN)
    assert process.wait(timeout=300) == 1
    assert "holds a run's checkpoints" in (tmp_path / "run.txt").read_text()
    assert load_checkpoint(half_done / "last.pth").step == 5


def test_two_devices_become_one(half_done, tmp_path):
    finish(resume(half_done, "--cpus", 1, "--max-steps", 9), half_done)
    told = (tmp_path / "run.txt").read_text()
    assert f"unlike the run so far: max_steps {NUM_STEPS} -> 9, world_size 2 -> 1\n" in told
    assert "2 images a step instead of 4: it goes on behind the 20 images seen, at epoch 1.82" in told
    records = read_records(half_done / "metrics.jsonl", "train")
    assert [(r["step"], r["epoch"]) for r in records] == [
        (step, round(images / 11, 4)) for step, images in ((3, 12), (5, 20), (6, 22), (9, 28))
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_that_are_asked_to_stop_save_and_go_on_with_the_same_bits(straight_pair, tiny_coco, tmp_path, number):
    stopped_and_resumed(number, PAIR, straight_pair, tiny_coco, tmp_path / "run")


def children(pid):
    """Processes that are ranks of a launcher."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks = [int(p) for p in found if b"train_graph.py" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(ranks) == 2
    return ranks
