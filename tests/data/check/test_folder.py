"""A COCO folder is checked with its image files, and the command says what it found by its exit code."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

from ssd_graph.cli import InputError
from ssd_graph.data.check import problems as p
from ssd_graph.data.check.folder import check_folder, write_cleaned
from ssd_graph.data.check.problems import printable
from ssd_graph.data.coco import load_split
from tests import REPOSITORY
from tests.data.check.test_entries import CATEGORIES, annotation, image
from tests.run import command, command_here, refused

TOOL = "tools/check_coco.py"


@pytest.fixture
def root(tmp_path):
    """A sound folder: three images of 200x100 in each split."""
    for split in ("train", "val"):
        write(tmp_path, split)
        (tmp_path / f"{split}2017").mkdir()
        for number in (1, 2, 3):
            pixels = np.random.default_rng(number).integers(0, 255, (100, 200, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{split}2017" / f"{number}.jpg")
    return tmp_path


def write(root, split="train", **changes):
    content = {
        "info": {"year": 2017},
        "images": [image(n) for n in (1, 2, 3)],
        "annotations": [annotation(n, n) for n in (1, 2, 3)],
        "categories": CATEGORIES,
        **changes,
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def found(root, **options):
    """Kinds and examples of the training split's problems."""
    return {q.kind: q.examples for q in check_folder(root, ("train",), **options)[0].problems}


def test_a_sound_folder_has_no_problems(root):
    train, val = check_folder(root)
    assert (train.problems, val.problems) == ([], [])
    assert (train.num_images, train.num_boxes, train.num_unlisted) == (3, (3, 0), 0)


@pytest.mark.parametrize(("width", "height"), [("200.0", "1e2"), (200.0, "100")])
def test_sizes_are_read_as_training_reads_them(root, width, height):
    write(root, images=[image(n, width=width, height=height) for n in (1, 2, 3)])
    assert found(root, quick=True) == {}


def test_a_missing_image_is_found(root):
    (root / "train2017" / "2.jpg").unlink()
    assert found(root) == {p.MISSING: ("2.jpg",)}


@pytest.mark.parametrize("name", ["\x00", "\udc80", "a" * 300, "", "."])
def test_a_name_that_can_be_no_file_is_missing(root, name):
    write(root, images=[image(1), image(2), image(3, file_name=name)])
    assert list(found(root)) == [p.MISSING]


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<html>", os.urandom(3000)])
def test_a_file_that_is_no_image_is_found_even_quickly(root, content):
    (root / "train2017" / "2.jpg").write_bytes(content)
    for quick in (False, True):
        assert list(found(root, quick=quick)) == [p.UNDECODABLE]


def test_a_postscript_file_is_not_handed_to_ghostscript(root, tmp_path_factory, monkeypatch):
    programs = tmp_path_factory.mktemp("programs")
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {programs}/called\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 100\n%%EndComments\n%%EOF\n"
    (root / "train2017" / "2.jpg").write_text(text)
    assert list(found(root)) == [p.UNDECODABLE]
    assert not (programs / "called").exists()


def test_a_truncated_image_is_found_unless_only_headers_are_read(root):
    file = root / "train2017" / "2.jpg"
    file.write_bytes(file.read_bytes()[:-2000])
    problems = found(root)
    assert list(problems) == [p.UNDECODABLE]
    assert problems[p.UNDECODABLE][0].startswith("2.jpg: image file is truncated")
    assert found(root, quick=True) == {}


@pytest.mark.parametrize("quick", [False, True])
def test_an_image_of_another_size_is_found(root, quick):
    Image.new("RGB", (100, 200)).save(root / "train2017" / "2.jpg")
    assert found(root, quick=quick) == {p.WRONG_SIZE: ("2.jpg: 100x200, stated as 200x100",)}


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_photos_that_are_stored_turned_are_counted_square_ones_too(root, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("1.jpg", "2.jpg"):
        size = (100, 200) if name == "1.jpg" else (200, 100)
        Image.new("RGB", size).save(root / "train2017" / name, kind, exif=exif)
    assert found(root) == {
        p.WRONG_SIZE: ("1.jpg: 100x200, EXIF orientation 6, stated as 200x100",),
        p.TURNED: ("2.jpg: EXIF orientation 6",),
    }
    assert found(root, upright=True) == {p.WRONG_SIZE: ("2.jpg: 100x200, stated as 200x100",)}


def test_no_more_than_three_examples_are_kept(root):
    write(root, images=[image(n) for n in range(1, 10)])
    problem = check_folder(root, ("train",))[0].problems[0]
    assert (problem.kind, problem.count, len(problem.examples)) == (p.MISSING, 6, 3)


def test_files_that_are_not_listed_are_counted(root):
    (root / "train2017" / "extra.jpg").touch()
    (root / "train2017" / "folder").mkdir()
    assert check_folder(root, ("train",))[0].num_unlisted == 1


def test_a_missing_image_folder_is_one_problem(root):
    shutil.rmtree(root / "train2017")
    assert list(found(root)) == [p.NO_FOLDER]


def test_different_categories_are_found(root):
    write(root, "val", categories=[{"id": 7, "name": "cow"}, CATEGORIES[1]])
    _, val = check_folder(root)
    examples = ("category 7, 'cat', is in train only", "category 7, 'cow', is in val only")
    assert [(q.kind, q.examples) for q in val.problems] == [(p.OTHER_CATEGORIES, examples)]


def test_a_split_without_annotations_is_left_out(root):
    (root / "annotations" / "instances_train2017.json").unlink()
    assert [check.split for check in check_folder(root)] == ["val"]
    with pytest.raises(InputError, match=r"no annotations/instances_train2017\.json"):
        check_folder(root, ("train",))


def test_the_bbox_only_file_is_checked_too(root):
    file = root / "annotations" / "instances_train2017.json"
    file.rename(file.with_name("bbox_only_instances_train2017.json"))
    assert check_folder(root, ("train",))[0].annotation_file.name.startswith("bbox_only")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, '{"images": 5}', "9" * 5000])
def test_an_unreadable_file_is_a_problem_and_cannot_be_cleaned(root, text):
    (root / "annotations" / "instances_train2017.json").write_text(text)
    assert list(found(root)) == [p.UNREADABLE]
    with pytest.raises(InputError):
        write_cleaned(check_folder(root, ("train",))[0], root / "clean.json")
    assert not (root / "clean.json").exists()


def broken(root):
    """Break the training split in four ways."""
    write(root, annotations=[annotation(1, 1), annotation(2, 2), annotation(2, 3), annotation(4, 3, (1, 1, 0, 9))])
    (root / "train2017" / "1.jpg").unlink()
    (root / "train2017" / "2.jpg").write_bytes(b"")


def test_the_cleaned_copy_is_clean_and_loads(root):
    broken(root)
    write_cleaned(check_folder(root, ("train",))[0], root / "clean" / "annotations" / "instances_train2017.json")
    (root / "clean" / "train2017").symlink_to(root / "train2017")
    assert check_folder(root / "clean")[0].problems == []
    split = load_split(root / "clean", "train")
    assert (split.image_ids.tolist(), len(split.boxes)) == ([3], 1)
    assert json.loads(split.annotation_file.read_text())["info"] == {"year": 2017}


def test_a_copy_never_replaces_what_was_checked(root):
    check = check_folder(root, ("train",))[0]
    with pytest.raises(InputError, match="never overwritten"):
        write_cleaned(check, check.annotation_file)


def test_the_command_on_a_sound_folder(root):
    code, out, error = command_here(TOOL, root, cwd=root)
    assert (code, error) == (0, "")
    assert out.endswith("verdict: clean\n")


def test_the_command_on_a_broken_folder_cleans_on_demand(root):
    broken(root)
    before = (root / "annotations" / "instances_train2017.json").read_bytes()
    code, out, error = command_here(TOOL, root, cwd=root)
    assert (code, error) == (1, "")
    assert "--split train --fix OUT.json" in out
    code, out, error = command_here(TOOL, root, "--split", "train", "--fix", "clean.json", cwd=root)
    assert (code, error) == (1, "")
    for line in ("1  image file missing: removed with its boxes", "1  annotation id used again: given a new id"):
        assert line in out
    assert "left: 1 image, 1 annotation\n" in out
    assert (root / "annotations" / "instances_train2017.json").read_bytes() == before
    assert len(json.loads((root / "clean.json").read_text())["annotations"]) == 1


@pytest.mark.parametrize("name", ["annotations/instances_train2017.json", "link.json", "../{}/annotations/link.json"])
def test_the_command_never_overwrites_its_input(root, name):
    name = name.format(root.name)
    for link in (root / "link.json", root / "annotations" / "link.json"):
        link.symlink_to(root / "annotations" / "instances_train2017.json")
    before = (root / "annotations" / "instances_train2017.json").read_bytes()
    assert "never overwritten" in refused(TOOL, root, "--split", "train", "--fix", name, cwd=root)
    assert (root / "annotations" / "instances_train2017.json").read_bytes() == before


@pytest.mark.parametrize("name", ["/proc/no/clean.json", "file/clean.json", "n" * 300])
def test_a_place_that_cannot_be_written_to_is_refused_in_one_line(root, name):
    (root / "file").touch()
    code, out, error = command_here(TOOL, root, "--split", "train", "--fix", name, cwd=root)
    assert (code, error.count("\n")) == (2, 1)
    assert ("verdict" in out) == (name[0] == "n")  # the length of a name shows only then
    refused(TOOL, "n" * 300, cwd=root)


def test_the_command_wants_to_know_which_split_to_clean(root):
    assert "--split" in refused(TOOL, root, "--fix", "clean.json", cwd=root)


def test_the_command_without_data_says_where_it_looked(tmp_path):
    code, out, error = command(TOOL, cwd=tmp_path)  # it asks for the variable when it is imported
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "in 'coco'" in error


def test_the_command_does_not_import_torch(root):
    code = f"import runpy, sys; sys.argv = ['x', {str(root)!r}]\n"
    code += f"try: runpy.run_path({str(REPOSITORY / TOOL)!r}, run_name='__main__')\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_file_cannot_write_to_the_terminal():
    assert printable("\x1b[2Jred\n\u202e\udc80 Ölkanne") == "\\x1b[2Jred\\n\\u202e\\udc80 Ölkanne"
    assert len(printable("x" * 5000)) == 100


def test_real_coco_is_clean(shared):
    train, val = check_folder(shared / "coco_mini", quick=True)
    assert (train.problems, val.problems) == ([], [])
    assert (train.num_images, sum(train.num_boxes), train.num_crowd, train.num_without_boxes) == (368, 3202, 32, 3)
    assert (val.num_images, sum(val.num_boxes), val.num_crowd, val.num_without_boxes) == (161, 1375, 14, 2)
