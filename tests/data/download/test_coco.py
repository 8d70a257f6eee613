"""COCO's archives are fetched, checked and unpacked from a real but unreliable server; nothing wrong is kept."""

import hashlib
import os
from dataclasses import replace

import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.download.coco import ANNOTATIONS, TRAIN, VAL, Archive, download_coco
from ssd_graph.files import locked_folder
from tests.conftest import refusal
from tests.data.download.test_unpack import zipped
from tests.data.download.unreliable_server import serving
from tests.run import command_here

TOOL = "tools/download_coco.py"


def archive(path, folder, content):
    return Archive(path, folder, len(content), hashlib.sha256(content).hexdigest(), 10**7)


IMAGES = zipped({"val2017/1.jpg": os.urandom(50_000)})
TEXTS = zipped({"annotations/instances_val2017.json": b"{}"})
ARCHIVES = (archive("annotations/a.zip", "annotations", TEXTS), archive("zips/val2017.zip", "val2017", IMAGES))


@pytest.fixture
def server():
    with serving() as it:
        it.files = {"/annotations/a.zip": TEXTS, "/zips/val2017.zip": IMAGES}
        yield it


def download(server, root, archives=ARCHIVES):
    download_coco(root, archives, mirror=server.address, waits=(0.0, 0.0))
    return names(root)


def names(root):
    return sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())


def refused(server, root, **options):
    return refusal(download, server, root, **options)


COMPLETE = ["annotations/instances_val2017.json", "val2017/1.jpg"]


def test_all_archives_are_unpacked_and_no_zip_stays(server, tmp_path):
    assert download(server, tmp_path / "new" / "coco") == COMPLETE


def test_a_second_run_fetches_nothing(server, tmp_path):
    download(server, tmp_path)
    server.log.clear()
    assert download(server, tmp_path) == COMPLETE
    assert not server.log


def test_a_run_given_up_is_continued_by_the_next(server, tmp_path):
    server.faults = [len(TEXTS), 30_000, 0, 0, 0]
    assert "run the command again" in refused(server, tmp_path)
    assert names(tmp_path) == [COMPLETE[0], "val2017.zip.part"]
    server.log.clear()
    assert download(server, tmp_path) == COMPLETE
    assert server.log == [("/zips/val2017.zip", "bytes=30000-")]


def test_a_wrong_checksum_is_refused_and_the_file_deleted(server, tmp_path):
    server.files["/annotations/a.zip"] = TEXTS[:-1] + b"x"
    assert "SHA-256" in refused(server, tmp_path)
    assert names(tmp_path) == []
    server.files["/annotations/a.zip"] = TEXTS
    assert download(server, tmp_path) == COMPLETE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (IMAGES[:-1000], "damaged"),
        (zipped({"val2017/1.jpg": b"x", "val2017/../../evil": b"x"}), "does not lie in val2017/"),
    ],
)
def test_a_zip_that_has_the_checksum_is_still_not_trusted(server, tmp_path, content, words):
    server.files["/zips/val2017.zip"] = content
    archives = (archive("zips/val2017.zip", "val2017", content),)
    assert words in refused(server, tmp_path / "coco", archives=archives)
    assert names(tmp_path) == ["coco/val2017.zip.part"]


def test_a_zip_of_ones_own_is_used_and_kept(server, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(IMAGES)
    assert download(server, tmp_path, ARCHIVES[1:]) == ["val2017.zip", "val2017/1.jpg"]
    assert not server.log


def test_a_wrong_zip_of_ones_own_is_refused_and_kept(server, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(b"PK")
    assert "delete it" in refused(server, tmp_path, archives=ARCHIVES[1:])
    assert names(tmp_path) == ["val2017.zip"]


def test_a_folder_with_files_is_left_alone(server, tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "mine.jpg").touch()
    assert download(server, tmp_path) == [COMPLETE[0], "val2017/mine.jpg"]


def test_an_empty_folder_is_filled(server, tmp_path):
    (tmp_path / "val2017").mkdir()
    assert download(server, tmp_path) == COMPLETE


def test_a_disk_that_is_too_small_is_noticed_first(server, tmp_path):
    archives = (ARCHIVES[0], replace(ARCHIVES[1], max_unpacked=10**18))
    assert "needs 1000000000.0 GB" in refused(server, tmp_path, archives=archives)
    assert not server.log
    assert names(tmp_path) == []


def test_two_runs_do_not_work_in_one_folder(server, tmp_path):
    with locked_folder(tmp_path, ""):
        assert "another process" in refused(server, tmp_path)
    assert download(server, tmp_path) == COMPLETE


def test_a_folder_that_cannot_be_made_is_refused(server, tmp_path):
    (tmp_path / "file").touch()
    assert "choose another folder" in refused(server, tmp_path / "file" / "coco")


@pytest.mark.parametrize(
    "mirror",
    [
        *("", "file:///etc", "ftp://host", "host/path", "http://", "http://[", "http://h:x"),
        *("http://h/ä", "http://a..b", "http://h/a b"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path, mirror):
    with pytest.raises(InputError, match="--mirror"):
        download_coco(tmp_path, ARCHIVES, mirror=mirror)


def test_the_published_archives_are_three_folders_of_twenty_gigabytes():
    assert [a.folder for a in (ANNOTATIONS, VAL, TRAIN)] == ["annotations", "val2017", "train2017"]
    assert [a.name for a in (VAL, TRAIN)] == ["val2017.zip", "train2017.zip"]
    assert all(len(a.sha256) == 64 and a.max_unpacked > a.size for a in (ANNOTATIONS, VAL, TRAIN))


def test_the_command_refuses_a_mirror_with_other_files(server, tmp_path):
    server.files = {f"/{a.path}": b"<html>Please log in</html>" for a in (ANNOTATIONS, VAL)}
    code, _, error = command_here(TOOL, tmp_path, "--val-only", "--mirror", server.address, cwd=tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "has 26 bytes where COCO's has 252,907,541" in error
    assert names(tmp_path) == []
    assert [path for path, _ in server.log] == ["/annotations/annotations_trainval2017.zip"]


def test_the_command_uses_the_folders_that_are_there(tmp_path):
    for folder in ("annotations", "val2017"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").touch()
    code, out, error = command_here(TOOL, tmp_path, "--val-only", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert f"tools/check_coco.py {tmp_path} --split val" in out
