"""At every moment `last.pth` is a whole checkpoint; a damaged one is passed over with a word."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ssd_graph.cli import InputError
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import StateLayout
from ssd_graph.training.run_folder import RunFolder
from tests import REPOSITORY
from tests.training.kill_points import CONFIG, save


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    model = SSD300(CONFIG)
    layout = StateLayout.of(model)
    return layout.new_state(model), layout


def folder_with(path, start, steps, keep=3):
    folder = RunFolder(path, keep)
    for step in steps:
        save(folder, *start, step)
    return folder


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_a_kill_at_any_point_of_writing_leaves_a_readable_last_checkpoint(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "tests.training.kill_points", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    print(len(json.loads(done.stdout or "[]")), "points")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 50
    for where, last, resumed in found:
        assert last in (1, 2), where
        assert resumed in (last, 2), where
    assert {last for _, last, _ in found} == {1, 2}  # points before and after the switch were tried


def test_the_newest_and_the_best_checkpoints_stay(tmp_path, start):
    folder = RunFolder(tmp_path, keep=2)
    for step in (5, 10, 15, 20):
        save(folder, *start, step)
        folder.mark_best(5)
    kept = [f"step-{step:08}.pth" for step in (5, 15, 20)]
    assert names(tmp_path) == sorted([*kept, *(f"{name}.sha256" for name in kept), "best.pth", "last.pth"])
    assert folder.last.resolve().name == "step-00000020.pth"
    assert folder.best.resolve().name == "step-00000005.pth"


def test_the_sum_is_what_sha256sum_checks(tmp_path, start):
    folder_with(tmp_path, start, [5])
    done = subprocess.run(["sha256sum", "-c", "step-00000005.pth.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "step-00000005.pth: OK\n"


@pytest.mark.parametrize("damage", ["truncate", "flip a byte", "empty"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, start, damage):
    folder = folder_with(tmp_path, start, [5, 10])
    content = bytearray(folder.last.read_bytes())
    content[len(content) // 2] ^= 1  # inside the weights, where unzipping would not notice
    changed = {"truncate": content[:-100], "flip a byte": content, "empty": b""}[damage]
    folder.last.resolve().write_bytes(changed)
    checkpoint, notes = folder.load_last()
    assert checkpoint.step == 5
    assert len(notes) == 1
    assert "step-00000010.pth is damaged" in notes[0]
    assert notes[0].endswith("continuing from step-00000005.pth")


def test_a_folder_of_damaged_checkpoints_is_refused(tmp_path, start):
    folder = folder_with(tmp_path, start, [5])
    folder.last.resolve().write_bytes(b"")
    with pytest.raises(InputError, match="is whole"):
        folder.load_last()


def test_an_empty_or_missing_folder_has_nothing_to_resume(tmp_path):
    assert RunFolder(tmp_path).load_last() == (None, [])
    assert RunFolder(tmp_path / "missing").load_last() == (None, [])


def test_rewinding_forgets_newer_checkpoints_and_leftovers(tmp_path, start):
    folder = folder_with(tmp_path, start, [5, 10, 15])
    (tmp_path / ".step-00000020.pth.abc.tmp").touch()
    folder.rewind(10)
    kept = ["step-00000005.pth", "step-00000010.pth"]
    assert names(tmp_path) == sorted([*kept, *(f"{name}.sha256" for name in kept), "last.pth"])
    assert folder.last.resolve().name == "step-00000010.pth"
    folder.rewind(0)
    assert names(tmp_path) == []
