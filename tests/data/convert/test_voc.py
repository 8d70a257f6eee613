"""Pascal VOC's folders become COCO's: corners from 1, difficult objects, lists of splits, hostile XML."""

import json

import pytest

from tests.data.convert.folders import boxes, convert, picture, refused, voc, write

CAT = ("cat", 11, 21, 30, 40)
"""Pixels 11 to 30 and 21 to 40, counted from 1: in COCO 10, 20, 20, 20."""
BOX = ("cat", 10, 20, 20, 20)
HARD = "<difficult>1</difficult>"


@pytest.fixture
def root(tmp_path):
    """Images a and b, which are listed for train and for val."""
    for name, split in (("a", "train"), ("b", "val")):
        picture(tmp_path / "VOC2007" / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "VOC2007" / "Annotations" / f"{name}.xml", voc([CAT], f"{name}.jpg"))
        listed(tmp_path / "VOC2007", **{split: f"{name}\n"})
    return tmp_path / "VOC2007"


def listed(root, **splits):
    for split, text in splits.items():
        write(root / "ImageSets" / "Main" / f"{split}.txt", text)


def xml(root, *arguments, **options):
    write(root / "Annotations" / "a.xml", voc(*arguments, **options))


def converted(root, *flags, code=0, split="train"):
    out = root.parent / "out"
    assert convert(root, out, *flags) == code
    return boxes(out, split)


def test_corners_count_from_1_and_belong_to_the_box(root):
    xml(root, [CAT, ("dog", 1, 1, 100, 60), ("cat", 7, 7, 7, 7)])
    assert converted(root) == {"a.jpg": [BOX, ("dog", 0, 0, 100, 60), ("cat", 6, 6, 1, 1)]}


def test_corners_that_begin_at_0_are_all_taken_as_they_are(root, capsys):
    xml(root, [("cat", 0.5, 0, 20.25, 30)])
    assert converted(root) == {"a.jpg": [("cat", 0.5, 0, 19.75, 30)]}
    assert boxes(root.parent / "out", "val") == {"b.jpg": [("cat", 11, 21, 19, 19)]}
    assert "1 boxes begin below 1" in capsys.readouterr().out


def test_corners_of_which_most_are_fractions_are_taken_as_they_are(root, capsys):
    xml(root, [("cat", 2.5, 7, 20.25, 30), ("dog", 5, 5.5, 9, 9)])
    assert converted(root) == {"a.jpg": [("cat", 2.5, 7, 17.75, 23), ("dog", 5, 5.5, 4, 3.5)]}
    assert "2 boxes have fractions of pixels" in capsys.readouterr().out
    xml(root, [("cat", 2.5, 7, 20.25, 30), ("dog", 5, 5, 9, 9)])
    assert convert(root, root.parent / "whole") == 0
    assert boxes(root.parent / "whole")["a.jpg"][1] == ("dog", 4, 4, 5, 5)


def test_categories_are_those_of_all_splits_in_the_order_of_their_names(root):
    xml(root, [("zebra", 1, 1, 9, 9), ("ant", 1, 1, 9, 9)])
    converted(root)
    for split in ("train", "val"):
        content = json.loads((root.parent / "out" / "annotations" / f"instances_{split}2017.json").read_text())
        assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "ant"), (2, "cat"), (3, "zebra")]


@pytest.mark.parametrize(("choice", "crowds"), [(None, [0, 1]), ("crowd", [0, 1]), ("keep", [0, 0]), ("drop", [0])])
def test_a_difficult_object_is_a_crowd_or_what_one_chooses(root, choice, crowds):
    xml(root, [(*CAT, "<difficult>0</difficult>"), ("dog", 5, 5, 9, 9, HARD)])
    converted(root, *(("--difficult", choice) if choice else ()))
    content = json.loads((root.parent / "out" / "annotations" / "instances_train2017.json").read_text())
    assert [annotation["iscrowd"] for annotation in content["annotations"]] == crowds


def test_parts_of_an_object_are_no_objects(root):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    xml(root, [(*CAT, part)])
    assert converted(root) == {"a.jpg": [BOX]}


def test_test_is_left_out_and_files_that_no_list_names_are_told(root, capsys):
    picture(root / "JPEGImages" / "c.jpg")
    write(root / "Annotations" / "c.xml", voc([CAT], "c.jpg"))
    listed(root, train="a.jpg\n", val="b  1\n", trainval="a\nb\n", test="c\n")
    assert list(converted(root)) == ["a.jpg"]
    assert list(boxes(root.parent / "out", "val")) == ["b.jpg"]
    out = capsys.readouterr().out
    assert "left out the split test" in out
    assert "Annotations/c.xml" in out


def test_test_alone_is_refused(root, capsys):
    main = root / "ImageSets" / "Main"
    (main / "train.txt").rename(main / "test.txt")
    (main / "val.txt").unlink()
    assert "Main lists test only, which neither trains nor scores" in refused(capsys, root, root.parent / "out")


@pytest.mark.parametrize("lists", [{"trainval": "a\nb\n"}, {}])
def test_val_is_shared_out_of_trainval_or_of_all_there_is(root, lists):
    for file in (root / "ImageSets" / "Main").iterdir():
        file.unlink()
    listed(root, **lists)
    found = {**converted(root), **boxes(root.parent / "out", "val")}
    assert found == {"a.jpg": [BOX], "b.jpg": [BOX]}


def test_a_year_within_is_found_and_two_are_asked_about(root, tmp_path, capsys):
    (root.parent / "VOCdevkit").mkdir()
    root.rename(root.parent / "VOCdevkit" / "VOC2007")
    assert convert(tmp_path, tmp_path / "out") == 0
    write(tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "a.xml", voc([CAT]))
    capsys.readouterr()
    line = refused(capsys, tmp_path, tmp_path / "again")
    assert "VOCdevkit/VOC2007" in line
    assert "VOCdevkit/VOC2012" in line


@pytest.mark.parametrize(
    ("name", "stored"),
    [("C:\\photos\\other.JPG", "other.JPG"), ("gone.jpg", "a.PNG"), ("", "a.bmp"), ("other.jpg", "other.JPG")],
)
def test_the_image_is_found_by_its_name_or_by_the_name_of_the_xml_file(root, name, stored):
    (root / "JPEGImages" / "a.jpg").unlink()
    picture(root / "JPEGImages" / stored)
    xml(root, [CAT], name)
    assert converted(root) == {stored: [BOX]}


def test_xml_files_that_all_name_one_image_get_their_own(root):
    write(root / "Annotations" / "b.xml", voc([CAT], "a.jpg"))
    assert converted(root, split="val") == {"b.jpg": [BOX]}


def test_an_image_has_the_boxes_of_its_own_xml_file_though_an_earlier_one_names_it(root, capsys):
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    listed(root, train="Copy of a\na\n")
    write(root / "Annotations" / "Copy of a.xml", voc([("dog", 1, 1, 100, 60)], "a.jpg"))
    assert converted(root, code=1) == {"a.jpg": [BOX]}


def test_of_two_images_of_one_stem_the_named_one_is_taken_and_of_two_of_one_name_none(root, capsys):
    picture(root / "JPEGImages" / "a.png")
    assert converted(root) == {"a.jpg": [BOX]}
    picture(root / "JPEGImages" / "more" / "a.jpg")
    capsys.readouterr()
    assert "a.jpg of Annotations/a.xml" in refused(capsys, root, root.parent / "again")


def test_a_single_folder_called_train_is_all_there_is(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "train" / f"{name}.jpg")
        write(tmp_path / "train" / f"{name}.xml", voc([CAT], f"{name}.jpg"))
    assert convert(tmp_path / "train", tmp_path / "out") == 0
    assert len({**boxes(tmp_path / "out"), **boxes(tmp_path / "out", "val")}) == 2


@pytest.mark.parametrize("layout", ["roboflow", "beside", "small letters"])
def test_other_places_of_xml_files_are_known(tmp_path, layout):
    for name, split in (("a", "train"), ("b", "valid")):
        folder = tmp_path / "in" / (split if layout == "roboflow" else "")
        images, annotations = ("images", "annotations") if layout == "small letters" else ("", "")
        picture(folder / images / f"{name}.jpg")
        write(folder / annotations / f"{name}.xml", voc([CAT], f"{name}.jpg"))
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    assert {**boxes(tmp_path / "out"), **boxes(tmp_path / "out", "val")} == {"a.jpg": [BOX], "b.jpg": [BOX]}


def test_a_folder_validation_is_val_and_others_are_named(tmp_path, capsys):
    for folder in ("train", "validation", "test", "more"):
        picture(tmp_path / "in" / folder / "a.jpg")
        write(tmp_path / "in" / folder / "a.xml", voc([CAT]))
        write(tmp_path / "in" / folder / "._a.xml", "of macOS")
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    assert boxes(tmp_path / "out", "val") == {"a.jpg": [BOX]}
    out = capsys.readouterr().out
    assert "left out the folder more\nleft out the split test" in out
    assert "XML" not in out


def test_a_valid_without_xml_files_is_not_passed_over_unless_val_has_some(tmp_path, capsys):
    for folder, annotations in (("train", ""), ("valid", "Annotations")):
        picture(tmp_path / "in" / folder / "a.jpg")
        write(tmp_path / "in" / folder / annotations / "a.xml", voc([CAT]))
    assert "no box larger than a pixel in val" in refused(capsys, tmp_path / "in", tmp_path / "out")
    picture(tmp_path / "in" / "val" / "a.jpg")
    write(tmp_path / "in" / "val" / "a.xml", voc([CAT]))
    assert convert(tmp_path / "in", tmp_path / "out") == 0


def test_a_val_without_a_train_is_refused(tmp_path, capsys):
    picture(tmp_path / "in" / "val" / "a.jpg")
    write(tmp_path / "in" / "val" / "a.xml", voc([CAT]))
    assert "has val and no train" in refused(capsys, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("size", [None, (0, 0), ("", "x"), ("1e999", 3)])
def test_a_size_that_says_nothing_is_that_of_the_file(root, size):
    xml(root, [CAT], size=size)
    assert converted(root) == {"a.jpg": [BOX]}


BOMB = '<!DOCTYPE x [<!ENTITY a "{}">]><annotation><object><name>&a;&a;</name></object></annotation>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB.format("x"), "it declares entities"),
        (BOMB.format("x").encode("utf-16"), "it declares entities"),
        ("<annotation>", "Annotations/c.xml"),
        ("", "Annotations/c.xml"),
        ('<?xml version="1.0" encoding="nothing"?><annotation/>', "Annotations/c.xml"),
        (voc([CAT], "gone.jpg"), "gone.jpg of Annotations/c.xml"),
        (voc([CAT], "c.jpg", (60, 100)), "JPEGImages/c.jpg: 100x60, stated as 60x100"),
    ],
)
def test_a_file_that_says_nothing_usable_is_left_out_by_name(root, capsys, text, words):
    if "gone.jpg" not in str(text):
        picture(root / "JPEGImages" / "c.jpg")
    content = text if isinstance(text, bytes) else text.encode()
    (root / "Annotations" / "c.xml").write_bytes(content)
    listed(root, train="a\nc\n")
    assert converted(root, code=1) == {"a.jpg": [BOX]}
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad", [("", 1, 1, 5, 5), ("dog", "x", 1, 5, 5), ("dog", "nan", 1, 5, 5), ("dog", 50, 9, 20, 30)]
)
def test_an_object_without_a_name_or_a_box_is_left_out(root, capsys, bad):
    xml(root, [bad, CAT])
    assert converted(root, code=1) == {"a.jpg": [BOX]}
    assert "a.jpg" in capsys.readouterr().out.replace("a.xml", "a.jpg")


def test_an_image_without_an_xml_file_is_counted_where_no_list_says_what_is_used(root, capsys):
    picture(root / "JPEGImages" / "c.jpg")
    converted(root)
    assert "without an XML file" not in capsys.readouterr().out
    for file in (root / "ImageSets" / "Main").iterdir():
        file.unlink()
    assert convert(root, root.parent / "again") == 1
    assert "1  image without an XML file  left out\n               JPEGImages/c.jpg\n" in capsys.readouterr().out


def test_a_listed_image_without_an_xml_file_is_left_out(root, capsys):
    listed(root, train=f"a\nnone\n{'n' * 300}\n")
    assert converted(root, code=1) == {"a.jpg": [BOX]}
    assert "none" in capsys.readouterr().out
