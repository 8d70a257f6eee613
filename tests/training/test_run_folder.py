"""At every moment `last.pth` is a whole checkpoint; a damaged one is passed over with a word."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_graph.cli import InputError
from ssd_graph.training.run_folder import RunFolder
from tests import REPOSITORY
from tests.training import kill_points
from tests.training.kill_points import save


@pytest.fixture(scope="module")
def start():
    return kill_points.start()


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
    for path in (tmp_path, tmp_path / "missing"):
        assert RunFolder(path).load_last() == (None, [f"no checkpoint in {path}: the run begins at step 0"])


def test_rewinding_forgets_newer_checkpoints_and_leftovers(tmp_path, start):
    folder = folder_with(tmp_path, start, [5, 10, 15])
    for name in (".step-00000020.pth.abc.tmp", ".last.pth.tmp", ".metrics.jsonl.x.tmp", "step-00000001.pth.sha256"):
        (tmp_path / name).touch()
    folder.rewind(10)
    kept = ["step-00000005.pth", "step-00000010.pth"]
    assert names(tmp_path) == sorted([*kept, *(f"{name}.sha256" for name in kept), "last.pth"])
    assert folder.last.resolve().name == "step-00000010.pth"
    folder.rewind(0)
    assert names(tmp_path) == []


@pytest.mark.parametrize("left", ["step-00000005.pth", "last.pth", "best.pth"])
def test_any_checkpoint_makes_a_folder_a_runs(tmp_path, left):
    mine = [tmp_path / name for name in ("step-final.pth", "step-final.pth.sha256", "step-1.pth.sha256")]
    for file in mine:
        file.touch()
    folder = RunFolder(tmp_path)
    assert not folder.holds_run()
    folder.rewind(0)
    assert all(file.exists() for file in mine)
    (tmp_path / left).touch()
    assert folder.holds_run()


def test_a_disk_without_links_gets_copies(tmp_path, start, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = folder_with(tmp_path, start, [5, 10], keep=1)
    folder.mark_best(10)
    assert not folder.last.is_symlink()
    assert folder.last.read_bytes() == folder.best.read_bytes() == folder.file_of(10).read_bytes()
    assert folder.load_last()[0].step == 10
    save(folder, *start, 15)
    folder.rewind(5)
    assert names(tmp_path) == []


def test_a_disk_without_room_is_refused_before_the_first_step(tmp_path, start):
    folder = folder_with(tmp_path, start, [5])
    folder.require_space(1)
    with pytest.raises(InputError, match=r"GB free and checkpoints will take .* GB; choose another --out, or a lower"):
        folder.require_space(10**15)
    with pytest.raises(InputError, match="choose another --out"):
        RunFolder(tmp_path / "not" / "there").require_space(10**15)


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(tmp_path, start):
    """A limit on the size of files stands for it."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from ssd_graph.cli import InputError\n"
        "from ssd_graph.training.run_folder import RunFolder; from tests.training.kill_points import save, start\n"
        "folder = RunFolder(Path(sys.argv[1])); save(folder, *start(), 5)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: save(folder, *start(), 10)\n"
        "except InputError as error: print(error); assert folder.load_last()[0].step == 5; sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert "step-00000010.pth" in done.stdout
    assert "go on with --resume auto" in done.stdout
    assert names(tmp_path) == ["best.pth", "last.pth", "step-00000005.pth", "step-00000005.pth.sha256"]
