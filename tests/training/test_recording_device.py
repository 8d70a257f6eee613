"""The order in which a run asks things of its devices, seen on NPUs that only write it down."""

import os
import subprocess
import sys

import pytest

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from tests import REPOSITORY
from tests.training.rank_failures import with_bad_image

FLAGS = ("--preset", "ssd300-nano", "--recipe", "shapes", "--batch-size", "2", "--workers", "0", "--print-every", "1")
NEEDED_BY_GROUPS = ["set_device", "init", "compile", "synchronize", "reset", "destroy"]


def run(command, logs, *arguments):
    """A command on recording devices: its exit code, its stderr, and what each rank was asked for."""
    logs.mkdir()
    environment = {
        "RECORD": str(logs),
        "COMMAND": command,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")},
    }
    line = [sys.executable, "-m", "tests.training.recording_device", *map(str, arguments)]
    done = subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    ranks = {f.stem: f.read_text().splitlines() for f in logs.iterdir()}
    return done.returncode, done.stderr, ranks


def kinds(calls):
    """Each kind of call once, in order; reset is called at captures too, so its last one counts."""
    last = [c.split()[0] for c in calls if not c.startswith("HCCL")]
    return list(dict.fromkeys(last))


def test_training_asks_in_the_right_order(tiny_coco, tmp_path):
    in_order(tiny_coco, tmp_path, 2, ["train"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 8])
def test_resuming_and_evaluating_ask_in_the_right_order_too(tiny_coco, tmp_path, count):
    in_order(tiny_coco, tmp_path, count, ["train", "resume", "evaluate"])
    assert load_checkpoint(tmp_path / "run" / "last.pth").step == 3


def in_order(data, folder, count, parts):
    out = folder / "run"
    commands = {
        "train": ("train_graph", "--data", data, "--out", out, "--npus", count, *FLAGS, "--max-steps", 2),
        "resume": ("train_graph", "--resume", "auto", "--out", out, "--max-steps", 3),
        "evaluate": ("eval_graph", out / "last.pth", "--data", data, "--npus", count, "--batch-size", 2),
    }
    for name in parts:
        code, error, ranks = run(commands[name][0], folder / name, *commands[name][1:])
        assert (code, error) == (0, ""), f"{name}: {error}"
        processes = [f"rank{r}" for r in range(count)] if count > 1 else ["ranklauncher"]
        for number, process in enumerate(processes):
            calls = ranks[process]
            assert f"set_device {number}" in calls
            if count > 1:
                assert kinds(calls) == NEEDED_BY_GROUPS, (name, calls)
                assert calls[-1] == "destroy"
            else:
                assert kinds(calls) == ["set_device", "compile"]


def test_a_failed_rank_ends_without_leaving_the_group(tiny_coco, tmp_path):
    data = with_bad_image(tiny_coco, tmp_path / "data")
    arguments = ("--data", data, "--out", tmp_path / "run", "--npus", 2, *FLAGS, "--max-steps", 9)
    code, error, ranks = run("train_graph", tmp_path / "logs", *arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert "rank 1: cannot decode" in error
    assert ranks["rank1"][-1] == "exit 2"
    assert ranks["rank0"][-1] in ("exit 2", "SIGTERM")  # it has noticed, or the launcher was quicker
    assert "destroy" not in ranks["rank0"] + ranks["rank1"]
