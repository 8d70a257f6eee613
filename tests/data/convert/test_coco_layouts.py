"""Roboflow's export and COCO files of any name become COCO folders, with the names and numbers of other tools."""

import json

import pytest

from tests.data.convert.folders import boxes, convert, picture, refused, write

CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})


def image(number, name, **changes):
    return {"id": number, "file_name": name, "width": 100, "height": 60, **changes}


def annotation(number, category=1, **changes):
    return {"image_id": number, "category_id": category, "bbox": [10, 20, 30, 25], "id": number, **changes}


def coco(file, name, categories=CATEGORIES, images=None, annotations=None):
    content = {
        "images": images or [image(1, name)],
        "annotations": annotations or [annotation(1), annotation(1, 2, id=7, area=5.5, iscrowd=1)],
        "categories": categories,
    }
    write(file, json.dumps(content))


BOXES = [("cat", 10, 20, 30, 25), ("dog", 10, 20, 30, 25)]


@pytest.fixture
def export(tmp_path):
    """Roboflow's export: category 0 is the name of the project."""
    root = {"id": 0, "name": "animals", "supercategory": "none"}
    categories = [root, *({**category, "supercategory": "animals"} for category in CATEGORIES)]
    for split in ("train", "valid", "test"):
        picture(tmp_path / "in" / split / f"{split}.jpg")
        coco(tmp_path / "in" / split / "_annotations.coco.json", f"{split}.jpg", categories)
    return tmp_path / "in"


def change(file, **changes):
    content = json.loads(file.read_text())
    write(file, json.dumps({**content, **changes}))


def categories(out, split="train"):
    content = json.loads((out / "annotations" / f"instances_{split}2017.json").read_text())
    return [(category["id"], category["name"]) for category in content["categories"]]


def test_roboflows_export_is_converted_without_its_root_category_and_test(export, tmp_path, capsys):
    assert convert(export, tmp_path / "out") == 0
    assert boxes(tmp_path / "out") == {"train.jpg": BOXES}
    assert boxes(tmp_path / "out", "val") == {"valid.jpg": BOXES}
    assert categories(tmp_path / "out") == categories(tmp_path / "out", "val") == [(1, "cat"), (2, "dog")]
    out = capsys.readouterr().out
    assert out.count("left out the split test") == 1
    assert "left out category 0, 'animals'" in out


def test_a_category_0_that_is_no_root_stays(export, tmp_path):
    for split in ("train", "valid"):
        change(export / split / "_annotations.coco.json", categories=[{"id": 0, "name": "animals"}, *CATEGORIES])
    assert convert(export, tmp_path / "out") == 0
    assert categories(tmp_path / "out") == [(0, "animals"), (1, "cat"), (2, "dog")]


def test_a_root_category_with_a_box_stays(export, tmp_path):
    change(export / "valid" / "_annotations.coco.json", annotations=[annotation(1, 0)])
    assert convert(export, tmp_path / "out") == 0
    assert categories(tmp_path / "out")[0] == (0, "animals")
    assert boxes(tmp_path / "out", "val") == {"valid.jpg": [("animals", *BOXES[0][1:])]}


def test_crowds_and_areas_are_kept(export, tmp_path):
    convert(export, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "annotations" / "instances_val2017.json").read_text())
    assert [(a["area"], a["iscrowd"]) for a in content["annotations"]] == [(750, 0), (5.5, 1)]
    assert [(a["id"], a["image_id"]) for a in content["annotations"]] == [(3, 2), (4, 2)]  # behind those of train


def test_an_object_of_which_a_part_is_cut_off_is_no_larger_than_its_box(export, tmp_path):
    far, near = annotation(1, bbox=[-90, 5, 100, 8], area=700), annotation(1, id=2, bbox=[-1, 5, 10, 8], area=80)
    change(export / "valid" / "_annotations.coco.json", annotations=[far, near])
    convert(export, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "annotations" / "instances_val2017.json").read_text())
    assert [(a["bbox"], a["area"]) for a in content["annotations"]] == [([0, 5, 10, 8], 80), ([0, 5, 9, 8], 72)]


@pytest.fixture
def files(tmp_path):
    """Flags for two annotation files and their folders of images, and the folder to write."""
    flags = []
    for split in ("train", "val"):
        picture(tmp_path / "in" / split / f"{split}.jpg")
        coco(tmp_path / "in" / f"{split}.json", f"{split}.jpg")
        flags += [f"--{split}-annotations", tmp_path / "in" / f"{split}.json"]
        flags += [f"--{split}-images", tmp_path / "in" / split]
    return [*flags, tmp_path / "out"]


@pytest.mark.parametrize(
    "name",
    ["images\\train.jpg", "train2017/train.jpg", "/home/me/train.jpg", "https://host/train.jpg?size=1", "../train.jpg"],
)
def test_names_of_other_tools_are_found_by_their_last_part(files, tmp_path, name):
    coco(tmp_path / "in" / "train.json", name)
    assert convert(*files) == 0
    assert boxes(tmp_path / "out") == {"train.jpg": BOXES}


def test_a_file_name_that_leaves_the_folder_is_left_out(files, tmp_path):
    picture(tmp_path / "in" / "secret.jpg")
    images = [image(1, "train.jpg"), image(2, "../secret.jpg")]
    coco(tmp_path / "in" / "train.json", "", images=images, annotations=[annotation(1), annotation(2)])
    assert convert(*files) == 1
    assert boxes(tmp_path / "out") == {"train.jpg": BOXES[:1]}


@pytest.mark.parametrize("others", [CATEGORIES[::-1], ({"id": 9, "name": "dog"}, {"id": 1, "name": "cat"})])
def test_categories_in_another_order_or_of_other_ids_are_matched(files, tmp_path, others):
    coco(tmp_path / "in" / "val.json", "val.jpg", others, annotations=[annotation(1, others[0]["id"])])
    assert convert(*files) == 0
    assert boxes(tmp_path / "out", "val") == {"val.jpg": [(others[0]["name"], *BOXES[0][1:])]}
    assert categories(tmp_path / "out") == categories(tmp_path / "out", "val")


@pytest.mark.parametrize("others", [CATEGORIES[:1], (*CATEGORIES, {"id": 3, "name": "cow"})])
def test_other_categories_are_refused(files, tmp_path, capsys, others):
    coco(tmp_path / "in" / "val.json", "val.jpg", others, annotations=[annotation(1)])
    assert "list different categories" in refused(capsys, *files)


def test_one_file_is_shared_out(files, tmp_path):
    images = [image(number, f"{number}.jpg") for number in range(1, 9)]
    for entry in images:
        picture(tmp_path / "in" / "train" / entry["file_name"])
    coco(tmp_path / "in" / "train.json", "", images=images, annotations=[annotation(i["id"]) for i in images])
    assert convert(*files[:4], tmp_path / "out", "--val-share", 0.4) == 0
    train, val = (set(boxes(tmp_path / "out", split)) for split in ("train", "val"))
    assert len(train | val) == 8
    assert len(train & val) == 0


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ([image(1, "train.jpg", width=None, height=None)], [annotation(1)]),
        ([{"id": 1, "file_name": "train.jpg"}], [annotation(1, bbox=["10", 20.0, 30, 25], iscrowd=None)]),
        ([image(1, "train.jpg")], [annotation(1), *(annotation(1, bbox=[1, 2, w, 4]) for w in (0, float("nan")))]),
        ([image(1, "train.jpg"), image(2, "none.jpg")], [annotation(1), annotation(2)]),
        ([image(1, "train.jpg"), image(2, "val.jpg", height=None)], [annotation(1), annotation(3), annotation(1, 5)]),
    ],
)  # fmt: skip
def test_what_the_check_mends_is_mended_and_the_rest_left_out(files, tmp_path, images, annotations):
    coco(tmp_path / "in" / "train.json", "", images=images, annotations=annotations)
    assert convert(*files) == (1 if len(annotations) > 1 else 0)
    assert boxes(tmp_path / "out") == {"train.jpg": BOXES[:1]}


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is not a COCO file"), ("[]", "is not a COCO file"), ('{"images": []}', "it has no list of annotations")],
)
def test_a_file_of_another_kind_is_refused(files, tmp_path, capsys, text, words):
    write(tmp_path / "in" / "val.json", text)
    assert words in refused(capsys, *files)


def test_boxes_in_shares_of_the_image_are_refused(files, tmp_path, capsys):
    coco(tmp_path / "in" / "train.json", "train.jpg", annotations=[annotation(1, bbox=[0.1, 0.1, 0.5, 0.5])])
    assert "no box larger than a pixel in train" in refused(capsys, *files)


def test_flags_that_say_too_little_or_too_much_are_refused(files, tmp_path, capsys):
    assert "belong together" in refused(capsys, *files[:2], files[-1])
    assert "give the folder to read" in refused(capsys, files[-1])
    assert "give the folder to read" in refused(capsys, *files[:-1], tmp_path / "in", files[-1])
    assert "no folder" in refused(capsys, *files[:3], tmp_path / "gone", files[-1])
    assert "leave out --val-share" in refused(capsys, "--val-share", 0.2, *files)
