"""What is written: links or copies, whole or not at all; the split that is missing; photos stored turned."""

import errno
import shutil
from pathlib import Path

import pytest

from ssd_graph.cli import InputError, say_once
from ssd_graph.data.check.problems import Findings
from ssd_graph.data.convert.pictures import DataSet, Object, Picture, require_boxes, settle
from ssd_graph.data.convert.write import share_out
from tests.conftest import train_tiny
from tests.data.convert.folders import boxes, convert, picture, refused, voc, write


@pytest.fixture
def root(tmp_path):
    """A VOC folder of two images without lists of splits."""
    for name in ("a", "b"):
        picture(tmp_path / "in" / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "in" / "Annotations" / f"{name}.xml", voc([("cat", 11, 21, 30, 40)], f"{name}.jpg"))
    return tmp_path / "in"


def images(out):
    return [out / f"{split}2017" / name for split in ("train", "val") for name in boxes(out, split)]


def test_images_are_links_that_hold_from_any_folder_or_copies(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert convert("in", "links") == 0
    assert convert("in", "deep/copies", "--copy") == 0
    assert all(file.is_symlink() and file.is_file() for file in images(tmp_path / "links"))
    copies = images(tmp_path / "deep" / "copies")
    assert not any(file.is_symlink() for file in copies)
    assert {file.read_bytes() for file in copies} == {file.read_bytes() for file in (root / "JPEGImages").iterdir()}


def test_a_disk_without_links_gets_copies_and_a_line(root, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    say_once.cache_clear()
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert convert(root, tmp_path / "out") == 0
    assert not any(file.is_symlink() for file in images(tmp_path / "out"))
    assert capsys.readouterr().err.count("takes no links: the images are copied\n") == 1


def test_any_other_reason_not_to_link_is_told(root, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert "No space left on device" in refused(capsys, root, tmp_path / "out")


def test_an_image_that_two_files_describe_is_used_once(root, tmp_path, capsys):
    write(root / "Annotations" / "a (1).xml", voc([("cat", 11, 21, 30, 40)], "a.jpg"))
    assert convert(root, tmp_path / "out") == 1
    assert sorted(file.name for file in images(tmp_path / "out")) == ["a.jpg", "b.jpg"]
    assert "1  image file named again  left out\n               JPEGImages/a.jpg\n" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["/proc/no/out", "in/Annotations/a.xml/out"])
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(root, tmp_path, capsys, place):
    assert convert(tmp_path / "gone", tmp_path / place) == 2
    assert "cannot write into" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("n" * 300, "out"), ("in", "n" * 300)])
def test_a_name_that_is_too_long_is_refused_in_one_line(root, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    refused(capsys, *arguments)


def test_a_failure_in_the_middle_leaves_nothing(root, tmp_path, monkeypatch, capsys):
    def full(source, target):
        if Path(target).parent.name == "val2017":
            raise OSError(errno.ENOSPC, "No space left on device")
        Path(target).touch()

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "No space left on device" in refused(capsys, "--copy", root, tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "full", "link"])
def test_a_folder_that_is_there_is_refused_and_an_empty_one_used(root, tmp_path, capsys, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.touch()
    elif kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        write(out / "mine.txt", "")
    assert "is there already" in refused(capsys, root, out)
    shutil.rmtree(out) if kind == "full" else out.unlink()
    out.mkdir()
    assert convert(root, out) == 0


def test_the_current_folder_is_not_replaced(root, tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert "name a new folder in it" in refused(capsys, root, ".")


def test_a_folder_of_no_layout_is_told_what_was_looked_for(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    line = refused(capsys, tmp_path / "in", tmp_path / "out")
    for words in ("data.yaml", "Annotations/*.xml", "_annotations.coco.json", "--train-annotations"):
        assert words in line
    assert "no folder" in refused(capsys, tmp_path / "gone", tmp_path / "out")


def data(names):
    things = [Object(1, (0.0, 0.0, 9.0, 9.0))]
    return DataSet({"train": [Picture(Path("x", name), things, (10, 10)) for name in names]}, {1: "cat"})


def shared(names, share=0.1, seed=0):
    result = data(names)
    share_out(result, share, seed)
    sides = [{str(picture.path.relative_to("x")) for picture in result.splits[split]} for split in ("train", "val")]
    assert sides[0] | sides[1] == set(names)
    assert not sides[0] & sides[1]
    return sides[1]


def test_a_share_is_near_what_was_asked_and_other_seeds_choose_others():
    names = [f"{number}.jpg" for number in range(1000)]
    assert 70 < len(shared(names)) < 130
    assert 270 < len(shared(names, 0.3)) < 330
    assert shared(names) != shared(names, seed=1)
    assert 70 < len(shared([f"{number}/rgb.jpg" for number in range(1000)])) < 130


def test_further_images_move_none_of_the_others():
    names = [f"{number}.jpg" for number in range(300)]
    assert shared(names) == shared(names[:100]) | (shared(names) - set(names[:100]))


def test_both_splits_get_an_image_however_few_there_are():
    for share in (1e-9, 0.5, 1 - 1e-9):
        assert len(shared(["a.jpg", "b.jpg"], share)) == 1
    with pytest.raises(InputError, match="too few images"):
        shared(["a.jpg"])


def test_the_copies_of_an_image_that_roboflow_makes_stay_together():
    names = [f"{number}_jpg.rf.{copy:032x}.jpg" for number in range(40) for copy in range(3)]
    val = shared(names, 0.3)
    assert {name.partition(".rf.")[0] for name in val}.isdisjoint(
        name.partition(".rf.")[0] for name in set(names) - val
    )


def test_a_val_without_boxes_is_told_of_what_chooses_others():
    result = data(["a.jpg"])
    result.splits["val"] = [Picture(Path("b.jpg"), [], (10, 10))]
    for shared, words in ((True, "; try another --seed, or a larger --val-share"), (False, r"\(no labels\)$")):
        with pytest.raises(InputError, match=words):
            require_boxes(result, shared)


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan", "abc"])
def test_a_share_that_is_none_is_refused(share, capsys):
    assert convert("a", "b", "--val-share", share) == 2
    assert "is not between 0 and 1" in capsys.readouterr().err


def turned(root, size, tag=6, name="a", suffix="jpg"):
    picture(root / "JPEGImages" / f"{name}.{suffix}", tag=tag)
    write(root / "Annotations" / f"{name}.xml", voc([("cat", 11, 21, 30, 40)], f"{name}.{suffix}", size))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize(
    ("size", "flags", "written", "words"),
    [
        ((60, 100), (), (60, 100), "train and score with --upright"),
        (None, (), (60, 100), "train and score with --upright"),
        ((100, 60), (), (100, 60), "train and score without --upright"),
        (None, ("--no-upright",), (100, 60), "train and score without --upright"),
    ],
)
def test_the_stated_size_says_whether_photos_are_annotated_upright(
    root, tmp_path, capsys, size, flags, written, words, suffix
):
    for name in ("a", "b"):
        turned(root, size, name=name, suffix=suffix)
    assert convert(root, tmp_path / "out", *flags) == 0
    out = capsys.readouterr().out
    assert words in out
    assert ("--data" in out and " --upright`" in out) == (written == (60, 100))
    content = (tmp_path / "out" / "annotations" / "instances_train2017.json").read_text()
    assert f'"width": {written[0]}, "height": {written[1]}' in content


def test_a_photo_that_is_annotated_as_stored_among_upright_ones_is_left_out(root, tmp_path, capsys):
    for name, size in (("a", (60, 100)), ("b", (60, 100)), ("c", (100, 60))):
        turned(root, size, name=name)
    assert convert(root, tmp_path / "out") == 1
    assert len(images(tmp_path / "out")) == 2
    assert "JPEGImages/c.jpg: 60x100, stated as 100x60" in capsys.readouterr().out


def test_photos_that_are_only_mirrored_are_said_too(root, tmp_path, capsys):
    turned(root, (100, 60), tag=2)
    assert convert(root, tmp_path / "out") == 0
    assert "1 images are stored turned" in capsys.readouterr().out


def test_files_that_are_no_image_and_images_in_both_splits_are_told(tmp_path):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg", "<html>")
    pictures = [Picture(tmp_path / name, []) for name in ("a.jpg", "b.jpg", "c.jpg")]
    found = settle(DataSet({"train": pictures, "val": pictures[:1]}, {}, Findings())).findings.problems()
    assert [(q.count, q.kind.effect.split()[0]) for q in found] == [(1, "left"), (1, "left"), (1, "used")]


def test_a_split_of_which_no_image_can_be_used_is_refused(root, tmp_path, capsys):
    for file in (root / "JPEGImages").iterdir():
        file.write_text("no image")
    assert "no box larger than a pixel in" in refused(capsys, root, tmp_path / "out")


def test_what_was_written_is_trained_on(root, tmp_path, capsys):
    """Pictures in folders, one of them turned, and links to all of them."""
    turned(root, (60, 100))
    assert convert(root, tmp_path / "out") == 0
    assert "verdict: clean" in capsys.readouterr().out
    train_tiny(tmp_path / "out", tmp_path / "run", upright=True, max_steps=1, workers=0)
    assert (tmp_path / "run" / "last.pth").is_file()
