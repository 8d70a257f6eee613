"""A file is replaced whole or not at all, and a folder is written to by one process at a time."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_graph import files
from ssd_graph.cli import InputError, say_once
from ssd_graph.files import atomic_write, locked_folder, require_writable, user_cache


def test_a_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "last.pth"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []

    def synced(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append(("folder" if folder else "file", (tmp_path / "a").exists()))

    monkeypatch.setattr(os, "fsync", synced)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert done == [("file", False), ("folder", True)]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "last.pth"
    path.write_text("old")

    def write_half():
        with atomic_write(path) as temporary:
            temporary.write_text("half of the ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_missing_folders(tmp_path):
    with atomic_write(tmp_path / "runs" / "one" / "a.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "runs" / "one" / "a.json").read_text() == "{}"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_written_file_is_readable_by_whom_the_umask_says(tmp_path, umask, mode):
    code = "import pathlib, sys; from ssd_graph.files import atomic_write\n"
    code += "with atomic_write(pathlib.Path(sys.argv[1])) as temporary: temporary.touch()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], umask=umask, check=True)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("far/there", "far/not yet"):
        (tmp_path / "link").symlink_to(name)
        with atomic_write(tmp_path / "link") as temporary:
            temporary.write_text(name)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / name).read_text() == name
        (tmp_path / "link").unlink()


def test_a_device_or_a_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_reason_that_has_no_number_is_told_too(tmp_path):
    with pytest.raises(InputError, match="the same file; choose another place"), atomic_write(tmp_path / "a"):
        raise shutil.SameFileError("the same file")


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    expected = r"cannot write .*a\.json: .*; choose another place"
    with pytest.raises(InputError, match=expected), atomic_write(tmp_path / "file" / "a.json"):
        pass


def test_a_locked_folder_is_made_and_belongs_to_one(tmp_path):
    folder = tmp_path / "runs" / "one"
    for _ in range(2):  # it is free again afterwards
        with locked_folder(folder, "busy"), pytest.raises(InputError, match="busy"), locked_folder(folder, "busy"):
            pass


def test_a_folder_that_cannot_be_made_to_lock_is_an_input_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot make the folder .*; choose another folder"),
        locked_folder(tmp_path / "file" / "runs", "busy"),
    ):
        pass


def test_a_folder_that_cannot_be_synced_is_written_to_all_the_same(tmp_path, monkeypatch):
    real = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(tmp_path):
    require_writable(tmp_path / "not" / "yet" / "there", "--out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="choose another --out"):
        require_writable(Path("/proc/self/fd"), "--out")
    with pytest.raises(InputError, match="File name too long; choose another --out"):
        require_writable(tmp_path / ("n" * 300), "--out")


def test_a_user_without_a_home_is_told_of_the_variable(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SSD_GRAPH_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError, match="set SSD_GRAPH_CACHE"):
        user_cache()
    monkeypatch.setenv("SSD_GRAPH_CACHE", "/somewhere")
    assert user_cache() == Path("/somewhere")


def test_a_disk_without_locks_is_named_and_used(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    say_once.cache_clear()
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with locked_folder(tmp_path, "busy"):
        (tmp_path / "a").touch()
    assert capsys.readouterr().err == f"{tmp_path} cannot be locked on this disk: have no second process write to it\n"
