"""YOLO's folders become COCO's: where images and labels lie, what is left out and refused."""

import re
import shutil

import pytest

from tests.data.convert.folders import boxes, convert, picture, refused, write
from tests.data.convert.yolo import BOX, LABEL, converted, describe, label, only_box


def test_roboflows_export_is_converted(root):
    assert only_box(root) == ("cat", BOX)
    assert list(boxes(root.parent / "out", "val")) == ["valid.jpg"]


@pytest.mark.parametrize(
    "entries",
    [
        {"train": "train/images", "valid": ["valid/images"]},
        {"path": "..", "train": "in/train/images", "val": "in/valid/images"},
        {"path": "/content/gone", "train": "/content/gone/train/images/", "val": "valid\\images"},
        {"train": ["train/images", "train/images"], "val": "lists/val.txt"},
        {"path": None, "train": "train/images", "val": "valid/images", "test": None},
        {},
    ],
)
def test_images_are_found_however_the_yaml_names_them(root, entries):
    write(root / "lists" / "val.txt", "../valid/images/valid.jpg\n\n")
    describe(root, **entries)
    assert only_box(root) == ("cat", BOX)


def test_a_neighbours_images_are_not_those_of_the_folder_that_is_named(root):
    for split in ("train", "valid"):
        picture(root.parent / split / "images" / f"{split}.jpg")
        write(root.parent / split / "labels" / f"{split}.txt", "1 0.5 0.5 1 1\n")
    assert only_box(root) == ("cat", BOX)


def test_test_alone_is_refused(root, capsys):
    (root / "valid").rename(root / "test")
    (root / "train").rename(root / "other")
    describe(root, test="test/images")
    assert "has the split test only, which neither trains nor scores" in refused(capsys, root, root.parent / "out")


def test_a_val_of_null_is_none(root, capsys):
    picture(root / "train" / "images" / "more.jpg")
    write(root / "train" / "labels" / "more.txt", LABEL)
    describe(root, train="train/images", val=None)
    assert len(converted(root)) == 1
    assert "val is made of 1 of the 2 images" in capsys.readouterr().out


def test_without_a_yaml_file_no_folder_with_images_goes_unsaid(tmp_path, capsys):
    write(tmp_path / "in" / "classes.txt", "cat\n")
    for folder in ("images/train", "images/validation", "images/test", "more"):
        picture(tmp_path / "in" / folder / "a.jpg")
        write(tmp_path / "in" / folder.replace("images", "labels") / "a.txt", f"{LABEL}\n")
    assert converted(tmp_path / "in", code=0)
    assert list(boxes(tmp_path / "out", "val")) == ["a.jpg"]
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if "left out the folder" in line] == [
        "left out the folder images/test",
        "left out the folder more",
    ]
    assert "images/train and images/validation are used" in out


@pytest.mark.parametrize("folder", ["images/test", "test"])
def test_a_test_without_a_train_is_refused(tmp_path, capsys, folder):
    write(tmp_path / "in" / "classes.txt", "cat\n")
    picture(tmp_path / "in" / folder / "a.jpg")
    assert "has a folder test and no train" in refused(capsys, tmp_path / "in", tmp_path / "out")


def test_a_train_that_the_yaml_misspells_is_asked_for(root, capsys):
    describe(root, training="train/images", validation="valid/images")
    assert "has valid/images for val and no train" in refused(capsys, root, root.parent / "out")


def test_a_val_without_a_train_is_refused(tmp_path, capsys):
    write(tmp_path / "in" / "classes.txt", "cat\n")
    for split in ("training", "val"):
        picture(tmp_path / "in" / split / "images" / "a.jpg")
    assert "has val/images for val and no train; name both in a data.yaml" in refused(
        capsys, tmp_path / "in", tmp_path / "out"
    )


def test_labels_of_which_all_images_are_gone_are_counted(root, capsys):
    write(root / "train" / "labels" / "gone" / "a.txt", f"{LABEL}\n")
    write(root / "train" / "labels" / "._train.txt", "of macOS")
    write(root / "train" / "labels" / ".ipynb_checkpoints" / "a-checkpoint.txt", f"{LABEL}\n")
    converted(root, code=1)
    out = capsys.readouterr().out
    assert "1  label file whose image is not there or not listed" in out
    assert "gone/a.txt" in out


def test_labels_beside_images_that_are_gone_are_counted_and_other_texts_are_not(tmp_path, capsys):
    write(tmp_path / "in" / "classes.txt", "cat\n")
    for name in ("a", "b"):
        picture(tmp_path / "in" / "train" / f"{name}.jpg")
        write(tmp_path / "in" / "train" / f"{name}.TXT", f"{LABEL}\n")
    write(tmp_path / "in" / "train" / "c.txt", f"{LABEL}\n")
    write(tmp_path / "in" / "train" / "._a.xml", "of macOS")  # which does not make it VOC
    write(tmp_path / "in" / "train" / "licence.txt", "all rights\n")
    write(tmp_path / "in" / "train" / "empty.txt", "")
    converted(tmp_path / "in", code=1)
    out = capsys.readouterr().out
    assert "1  label file whose image is not there" in out
    assert "without a label file" not in out


def test_the_named_folder_wins_over_one_of_the_same_name_elsewhere_and_what_lies_outside_is_said(
    root, tmp_path, capsys, monkeypatch
):
    picture(tmp_path / "elsewhere" / "old" / "train" / "images" / "other.jpg")
    monkeypatch.chdir(tmp_path / "elsewhere")
    describe(root, path="old", train="train/images", val="valid/images")
    assert list(converted(root)) == ["train.jpg"]
    assert "leads to" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    (root / "train").rename(tmp_path / "elsewhere" / "train")
    describe(root, path=str(tmp_path / "elsewhere"), train="train/images", val="../in/valid/images")
    assert list(converted(root)) == ["train.jpg"]
    assert f"train/images leads to {tmp_path}/elsewhere/train/images, outside {root}" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["images/train2017", "images/train", "train2017"])
def test_train_and_val_are_told_apart_without_a_yaml_file(tmp_path, folder):
    for split in ("train", "val"):
        image = tmp_path / "in" / folder.replace("train", split) / f"{split}.jpg"
        picture(image)
        write(image.with_suffix(".txt"), LABEL)
    write(tmp_path / "in" / "classes.txt", "cat\n")
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    assert [list(boxes(tmp_path / "out", split)) for split in ("train", "val")] == [["train.jpg"], ["val.jpg"]]


def test_the_lists_that_cvat_writes_for_darknet_are_read(tmp_path, capsys):
    for split in ("train", "valid"):
        picture(tmp_path / "in" / f"obj_{split}_data" / f"{split}.jpg")
        write(tmp_path / "in" / f"obj_{split}_data" / f"{split}.txt", LABEL)
        write(tmp_path / "in" / f"{split}.txt", f"data/obj_{split}_data/{split}.jpg\n")
    lists = "train = data/train.txt\nvalid = data/valid.txt\n"
    write(tmp_path / "in" / "obj.data", f"classes = 1\n{lists}names = data/obj.names\nbackup = backup/\n")
    write(tmp_path / "in" / "obj.names", "cat\n")
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    assert [list(boxes(tmp_path / "out", split)) for split in ("train", "val")] == [["train.jpg"], ["valid.jpg"]]
    (tmp_path / "in" / "valid.txt").unlink()
    capsys.readouterr()
    assert "'data/valid.txt', which obj.data names, is not" in refused(capsys, tmp_path / "in", tmp_path / "again")


def test_a_blank_line_between_classes_is_refused_and_one_behind_them_is_not(root, capsys):
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "cat\n\nno\n")
    assert "classes.txt, line 2: it is blank; remove it" in refused(capsys, root, root.parent / "out")
    write(root / "classes.txt", "cat\nno\n\n \n")
    assert only_box(root) == ("cat", BOX)


def test_an_absolute_path_and_lists_of_images_from_elsewhere_are_found(root):
    write(root / "train.txt", "./train/images/train.jpg\n/gone/train/images/none.jpg\n")
    describe(root, path=str(root), train="train.txt", val="valid/images")
    assert only_box(root, code=1) == ("cat", BOX)


def test_an_image_that_lists_spell_in_two_ways_is_one(root):
    picture(root / "train" / "images" / "deep" / "more.jpg")
    names = ("../train/images/train.jpg", "train/images/train.jpg", "../lists/../train/images/deep/more.jpg")
    write(root / "lists" / "train.txt", "\n".join(names))
    describe(root, train="lists/train.txt", val="valid/images")
    assert list(converted(root)) == ["train.jpg", "deep/more.jpg"]


def test_a_split_that_is_named_and_not_there_is_refused(root, capsys, monkeypatch):
    describe(root, train="train/images", val="other/images")
    (root / "images").mkdir()  # which would do for every split
    picture(root / "elsewhere" / "other" / "images" / "x.jpg")  # of another data set
    monkeypatch.chdir(root / "elsewhere")
    assert "'other/images', which data.yaml names, is not below" in refused(capsys, root, root.parent / "out")


@pytest.mark.parametrize("names", ["[cat, no]", "{0: cat, 1: no}", "\n  1: no\n  0: cat", "\n- cat\n- no\n"])
def test_names_may_be_a_list_or_a_mapping_and_are_never_taken_for_yes_or_no(root, names):
    write(root / "data.yaml", f"train: train/images\nval: valid/images\nnames: {names}\nnc: 2\n")
    label(root, "1 0.5 0.5 0.2 0.5")
    assert only_box(root)[0] == "no"


def test_a_list_of_classes_and_labels_beside_the_images_are_enough(tmp_path):
    for number in range(8):
        picture(tmp_path / "in" / f"{number}.PNG")
        write(tmp_path / "in" / f"{number}.txt", LABEL)
    write(tmp_path / "in" / "classes.txt", "cat\n")
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    found = {**boxes(tmp_path / "out"), **boxes(tmp_path / "out", "val")}
    assert set(found) == {f"{number}.PNG" for number in range(8)}


def test_a_list_of_classes_among_the_labels_is_no_label(root, capsys):
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "cat\nno\n")
    write(root / "train" / "labels" / "classes.txt", "cat\nno\n")
    assert only_box(root) == ("cat", BOX)
    assert "classes.txt" not in capsys.readouterr().out


def test_only_the_last_folder_images_becomes_labels_and_pictures_of_one_name_stay_apart(tmp_path):
    root = tmp_path / "images" / "in"
    for folder, x in (("a", 0.25), ("b/deep", 0.75)):
        picture(root / "images" / "train" / folder / "1.JPG")
        write(root / "labels" / "train" / folder / "1.txt", f"0 {x} 0.5 0.5 1")
    picture(root / "images" / "val" / "1.jpg")
    write(root / "images" / "val" / "1.txt", LABEL)  # beside the image
    describe(root, train="images/train", val="images/val")
    assert convert(root, tmp_path / "out") == 0
    assert boxes(tmp_path / "out") == {"a/1.JPG": [("cat", 0, 0, 50, 60)], "b/deep/1.JPG": [("cat", 50, 0, 50, 60)]}
    links = [tmp_path / "out" / "train2017" / folder / "1.JPG" for folder in ("a", "b/deep")]
    assert [link.resolve().parent.name for link in links] == ["a", "deep"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [", "cannot read"),
        ("train: x", "missing required field `names`"),
        ("[" * 1500, "cannot read"),
        ("\x00", "cannot read"),
    ],
)
def test_a_yaml_file_that_says_nothing_usable_is_refused(root, capsys, text, words):
    write(root / "data.yaml", text)
    assert words in refused(capsys, root, root.parent / "out")


def test_a_yaml_file_executes_nothing(root):
    write(root / "data.yaml", f"names: !!python/object/apply:os.system ['touch {root}/executed']")
    assert only_box(root)[0] == f"touch {root}/executed"  # a strange name for a class, no more
    assert not (root / "executed").exists()


def test_two_yaml_files_are_asked_about_and_one_may_be_given(root, capsys):
    (root / "data.yaml").rename(root / "a.yaml")
    write(root / "b.yml", "names: [cat]")
    write(root / ".c.yml", "names: [cat]")
    write(root / "d.yml", "repos: []")
    line = refused(capsys, root, root.parent / "out")
    assert re.search(r"more than one yaml file; give one of \S*/a\.yaml, \S*/b\.yml$", line)
    assert convert(root / "a.yaml", root.parent / "out") == 0
