"""Two ranks that are killed, or asked to stop, at any moment and resumed end with the bits of a run left alone."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from tests import REPOSITORY
from tests.training.test_resume import (
    NUM_STEPS,
    assert_same_run,
    finish,
    interrupt,
    start,
    stopped_and_resumed,
    wait_for_step,
)


@pytest.fixture(scope="module")
def straight_pair(tiny_coco, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight_pair") / "run"
    finish(start(tiny_coco, out, "--cpus", 2), out)
    return out


def test_two_killed_and_resumed_ranks_have_the_same_bits(straight_pair, tiny_coco, tmp_path):
    interrupt(tiny_coco, tmp_path / "run", random.Random(7), "--cpus", 2)
    assert_same_run(straight_pair, tmp_path / "run")


def test_a_killed_rank_is_restarted_and_the_run_has_the_same_bits(straight_pair, tiny_coco, tmp_path):
    out = tmp_path / "run"
    process = start(tiny_coco, out, "--cpus", 2)
    wait_for_step(process, out, 9)
    victim = random.Random(3).choice(children(process.pid))
    os.kill(victim, signal.SIGKILL)
    finish(process, out)
    assert "killed by signal 9; restart 1 of 3" in (tmp_path / "run.txt").read_text()
    assert_same_run(straight_pair, out)


def test_a_run_that_is_resumed_by_its_file_is_restarted_in_its_folder(tiny_coco, tmp_path):
    """Without --out the restart would begin anew in the default folder."""
    out = tmp_path / "run"
    finish(start(tiny_coco, out, "--cpus", 2, "--max-steps", 10), out)
    command = [
        sys.executable,
        REPOSITORY / "tools" / "train_graph.py",
        "--resume",
        out / "last.pth",
        "--max-steps",
        NUM_STEPS,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with (tmp_path / "run.txt").open("a") as console:
        process = subprocess.Popen(
            list(map(str, command)), cwd=tmp_path, env=environment, stdout=console, stderr=console
        )
        wait_for_step(process, out, 15)
        os.kill(children(process.pid)[0], signal.SIGKILL)
    finish(process, out)
    assert "restart 1 of 3" in (tmp_path / "run.txt").read_text()
    assert load_checkpoint(out / "last.pth").step == NUM_STEPS
    assert sorted(f.name for f in tmp_path.iterdir()) == ["run", "run.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_that_are_asked_to_stop_save_and_go_on_with_the_same_bits(straight_pair, tiny_coco, tmp_path, number):
    stopped_and_resumed(number, ("--cpus", 2), straight_pair, tiny_coco, tmp_path / "run")


def children(pid):
    """Processes that are ranks of a launcher."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks = [int(p) for p in found if b"train_graph.py" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(ranks) == 2
    return ranks
