"""Proves that a packed cache changes no bit of a batch, is made once and whole however many ask for it, is made
anew when the images change, and that one in memory goes with its last user.
"""

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.config import AugmentConfig
from ssd_graph.data import cache
from ssd_graph.data.cache import open_cache
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode
from ssd_graph.data.loader import Loader
from tests.data.test_loader import assert_same


@pytest.fixture
def split(own_coco):
    return load_split(own_coco, "train")


def files(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".pixels")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_to_the_bit(split, tmp_path, workers):
    expected = list(islice(Loader(split, 4, AugmentConfig(), workers=0).batches(), 5))
    packed = open_cache(str(tmp_path / "cache"), split)
    shutil.rmtree(split.image_dir)  # so that nothing but the cache is read
    found = list(islice(Loader(split, 4, AugmentConfig(), workers=workers, cache=packed).batches(), 5))
    assert_same(found, expected)


def test_a_folder_whose_name_is_no_text_of_utf_8_has_a_cache(tiny_coco, tmp_path):
    root = shutil.copytree(tiny_coco, tmp_path / os.fsdecode(b"\xff"))
    split = load_split(root, "train")
    packed = open_cache(str(tmp_path), split)
    np.testing.assert_array_equal(packed.pixels(0, split.size(0)), decode(split.path(0)))


def test_pixels_are_those_of_the_files(split, tmp_path):
    packed = open_cache(str(tmp_path), split)
    for i in range(len(split)):
        np.testing.assert_array_equal(packed.pixels(i, split.size(i)), decode(split.path(i)))


def test_a_second_opening_decodes_nothing(split, tmp_path, monkeypatch):
    open_cache(str(tmp_path / "cache"), split)
    monkeypatch.setattr(cache, "decode_part", None)
    open_cache(str(tmp_path / "cache"), split)


@pytest.mark.parametrize("change", ["bytes", "time", "annotations"])
def test_changed_images_make_a_new_cache_and_remove_the_old(split, tmp_path, change):
    open_cache(str(tmp_path / "cache"), split)
    (old,) = files(tmp_path / "cache")
    if change == "bytes":
        split.path(1).write_bytes(split.path(1).read_bytes() + b"more")
    elif change == "time":
        os.utime(split.path(1), (1, 1))
    else:
        split.file_names[[0, 1]], split.sizes[[0, 1]] = split.file_names[[1, 0]], split.sizes[[1, 0]]
    packed = open_cache(str(tmp_path / "cache"), split)
    (new,) = files(tmp_path / "cache")
    assert new != old
    np.testing.assert_array_equal(packed.pixels(0, split.size(0)), decode(split.path(0)))


def test_a_cache_in_use_stays_when_another_is_made(split, tmp_path):
    used = open_cache(str(tmp_path / "cache"), split)
    for other in (replace(split, empty_images="keep"), split):
        os.utime(split.path(1), (1, 1))
        open_cache(str(tmp_path / "cache"), other)
        assert used.path.exists()
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(used)).pixels(0, split.size(0)), decode(split.path(0)))


@pytest.mark.parametrize("end", [b"", b"x", b"\xff" * 9, b"[]" + (2).to_bytes(8), b"{}" + (2).to_bytes(8), None])
def test_a_damaged_cache_is_made_anew(split, tmp_path, end):
    path = open_cache(str(tmp_path / "cache"), split).path
    whole = path.read_bytes()
    path.write_bytes(whole[1:] if end is None else end)
    open_cache(str(tmp_path / "cache"), split)
    assert path.read_bytes() == whole


def test_a_disk_that_takes_a_part_is_given_the_rest(split, tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: write(file, data[:1000], place))
    packed = open_cache(str(tmp_path / "cache"), split)
    np.testing.assert_array_equal(packed.pixels(3, split.size(3)), decode(split.path(3)))


def test_a_failed_making_leaves_no_file_and_names_the_image(split, tmp_path):
    split.path(7).write_bytes(b"")
    with pytest.raises(InputError, match=split.path(7).name):
        open_cache(str(tmp_path / "cache"), split)
    assert not files(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".tmp"]


def test_of_many_at_once_one_makes_it(split, tmp_path, capsys):
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_cache(str(tmp_path / "cache"), split), range(4)))
    assert capsys.readouterr().err.count(f"cache: decoding {len(split)} images") == 1
    for packed in opened:
        np.testing.assert_array_equal(packed.pixels(2, split.size(2)), decode(split.path(2)))


def test_too_little_room_is_said_before_anything_is_written(split, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match=r"room for 0\.0 GB; give another folder, or leave --cache out"):
        open_cache(str(tmp_path / "cache"), split)
    assert not files(tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_refused(split, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--cache"):
        open_cache(str(tmp_path / "file" / "cache"), split)


SCRIPT = """
import sys
from pathlib import Path
from ssd_graph.data import cache
from ssd_graph.data.coco import load_split
cache._RAM = Path(sys.argv[2])
split = load_split(Path(sys.argv[1]), "train")
packed = cache.open_cache("ram", split)
print(packed.path, flush=True)
sys.stdin.read()
"""


def start(root, ram):
    """A process that uses a cache in memory until its stdin is closed, and the cache's path."""
    command = [sys.executable, "-c", SCRIPT, str(root), str(ram)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    return process, next(line.strip() for line in lines if line.endswith(".pixels\n") and " " not in line.strip())


def test_what_killed_runs_left_in_memory_is_removed_and_nothing_in_use(split, tmp_path, monkeypatch):
    killed, left = start(split.image_dir.parent, tmp_path / "ram")
    other = shutil.copytree(split.image_dir.parent, tmp_path / "other")
    alive, used = start(other, tmp_path / "ram")
    killed.kill()
    killed.communicate()
    folder = Path(left).parent
    half = folder / f".{Path(left).name}.abc.tmp"
    half.write_bytes(b"killed in the making")
    monkeypatch.setattr(cache, "_RAM", tmp_path / "ram")
    cache.remove_leftovers()
    assert [os.path.exists(path) for path in (left, half, used)] == [False, False, True]
    alive.communicate()
    assert not os.path.exists(used)


def test_a_cache_in_memory_goes_with_its_last_user(split, tmp_path):
    root, ram = split.image_dir.parent, tmp_path / "ram"
    (first, path), (second, same) = start(root, ram), start(root, ram)
    assert path == same
    first.communicate()
    assert os.path.exists(path)
    second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert not os.path.exists(path)
