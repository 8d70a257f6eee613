"""Proves that COCO files become the right arrays, checked against the json read by hand and the counts of
real COCO images, and that every kind of broken file ends in an InputError which names what is wrong.
"""

import json
import re

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "brush"}]


def image(number, **changes):
    return {"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 100, **changes}


def annotation(image_id=1, bbox=(20, 10, 40, 50), **changes):
    return {"id": 1, "image_id": image_id, "category_id": 7, "bbox": list(bbox), "iscrowd": 0, **changes}


def write(root, split="train", prefix="", **changes):
    """A COCO folder with one image and one box, `changes` replacing parts of its file."""
    content = {"images": [image(1)], "annotations": [annotation()], "categories": CATEGORIES, **changes}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{split}2017").mkdir(exist_ok=True)
    (root / "annotations" / f"{prefix}instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_boxes_are_relative_corners(tmp_path):
    split = load_split(write(tmp_path), "train")
    np.testing.assert_array_equal(split.boxes, np.array([[0.1, 0.1, 0.3, 0.6]], np.float32))
    assert split.boxes.dtype == np.float32


def test_categories_are_numbered_from_one_in_file_order(tmp_path):
    annotations = [annotation(category_id=c) for c in (90, 7, 3)]
    split = load_split(write(tmp_path, annotations=annotations), "train")
    assert split.labels.tolist() == [3, 1, 2]
    assert split.categories.ids == (7, 3, 90)
    assert split.categories.names == ("cat", "dog", "brush")
    assert split.categories.num_classes == 4


def test_boxes_follow_their_image_in_file_order(tmp_path):
    boxes = [annotation((9, 4)[x % 2], (x, 0, 20, 10)) for x in range(100)]
    split = load_split(write(tmp_path, images=[image(9), image(4)], annotations=boxes), "train")
    assert split.image_ids.tolist() == [9, 4]
    np.testing.assert_allclose(split.boxes_of(0)[0][:, 0], np.arange(0, 100, 2) / 200)
    np.testing.assert_allclose(split.boxes_of(1)[0][:, 0], np.arange(1, 100, 2) / 200)


@pytest.mark.parametrize("name", ["train", "val"])
def test_images_without_annotations_are_left_out(tmp_path, name):
    images = [image(n, width=100 * n) for n in (1, 2, 3, 4)]
    root = write(tmp_path, name, images=images, annotations=[annotation(2), annotation(4), annotation(4)])
    split = load_split(root, name)
    assert split.image_ids.tolist() == [2, 4]
    assert split.sizes.tolist() == [[200, 100], [400, 100]]
    assert [len(split.boxes_of(i)[0]) for i in range(2)] == [1, 2]
    assert split.path(1) == root / f"{name}2017" / "4.jpg"


def test_images_without_annotations_can_be_kept(tmp_path):
    root = write(tmp_path, images=[image(1), image(2)], annotations=[annotation(2)])
    kept, dropped = (load_split(root, "train", empty_images=how) for how in ("keep", "drop"))
    assert kept.image_ids.tolist() == [1, 2]
    assert [len(kept.boxes_of(i)[0]) for i in range(2)] == [0, 1]
    assert kept.fingerprint != dropped.fingerprint
    assert kept.remarks() == [
        "1 of 2 images of instances_train2017.json have no boxes: all that is found on them is false"
    ]
    assert dropped.remarks()[0].startswith("left out 1 images of instances_train2017.json without boxes")
    full = load_split(write(tmp_path / "full", images=[image(1)], annotations=[annotation(1)]), "train")
    assert full.remarks() == []


def test_crowd_boxes_stay(tmp_path):
    split = load_split(write(tmp_path, annotations=[annotation(iscrowd=1), annotation()]), "train")
    assert len(split.boxes) == 2


@pytest.mark.parametrize(
    "bbox",
    [
        (5, 5, 0, 9),
        (5, 5, 9, 0),
        (0, 5, 1e-8, 9),
        (5, 5, -3, 9),
        (5, 5, float("nan"), 9),
        (float("inf"), 5, 3, 9),
        (5, 5, 1e300, 1e300),
    ],
)
def test_boxes_without_area_are_dropped_and_counted(tmp_path, bbox):
    annotations = [annotation(bbox=bbox), annotation(), annotation(bbox=bbox)]
    split = load_split(write(tmp_path, annotations=annotations), "train")
    assert len(split.boxes) == len(split.labels) == split.max_boxes == 1
    assert split.num_empty_boxes == 2


def test_an_image_with_only_empty_boxes_is_left_out(tmp_path):
    annotations = [annotation(1, (5, 5, 0, 0)), annotation(2)]
    split = load_split(write(tmp_path, images=[image(1), image(2)], annotations=annotations), "train")
    assert split.image_ids.tolist() == [2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"images": [image(1), image(2, file_name="1.jpg")]},
            r"1 files stand in .* as more than one image, .* '1\.jpg'",
        ),
        ({"annotations": [annotation(), annotation(bbox=(150, 10, 180, 60))]}, "1 boxes .* reach beyond their image"),
        ({"annotations": [annotation(), annotation(bbox=(-1.5, 10, 5, 5))]}, "1 boxes .* reach beyond their image"),
        (
            {"annotations": [annotation(), annotation(bbox=(9, 9, 0, 5))]},
            "1 boxes .* scoring counts those without area as missed",
        ),
        ({"annotations": [annotation(area=1), annotation(bbox=(9, 9, 7, 5), area=1)]}, "every area of .* is 1: its AP"),
    ],
)
def test_what_is_accepted_and_may_not_be_meant_is_said(tmp_path, changes, words):
    write(tmp_path, **changes)
    assert re.search(words, "\n".join(load_split(tmp_path, "train").remarks()))


@pytest.mark.parametrize("bbox", [(20, 10, 40, 50), (-1, 10, 202, 50)])
def test_of_what_is_usual_nothing_is_said(tmp_path, bbox):
    annotations = [annotation(area=5), annotation(bbox=bbox, area=5), annotation(bbox=(1, 2, 3, 4), area=5.5)]
    assert load_split(write(tmp_path, annotations=annotations), "train").remarks() == []


def test_bbox_only_file_is_found(tmp_path):
    split = load_split(write(tmp_path, "val", "bbox_only_"), "val")
    assert split.annotation_file.name == "bbox_only_instances_val2017.json"
    assert len(split) == 1


def test_the_original_file_comes_before_the_bbox_only_one(tmp_path):
    write(tmp_path, prefix="bbox_only_")
    assert load_split(write(tmp_path), "train").annotation_file.name == "instances_train2017.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, "no annotated image"),
        ({"images": []}, "lists no image"),
        ({"categories": []}, "lists no category"),
        ({"images": [image(1, file_name="/elsewhere/1.jpg")]}, "'/elsewhere/1.jpg' leaves the image folder"),
        ({"images": [image(1, file_name="a/../../1.jpg")]}, "'a/../../1.jpg' leaves the image folder"),
        (
            {"annotations": [{"id": 1, "image_id": 1}]},
            "not a COCO instances file (Object missing required field `category_id` - at `$.annotations[0]`)",
        ),
        ({"images": None}, "not a COCO instances file"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, changes, message):
    root = write(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        load_split(root, "train")
    assert message in str(error.value)
    assert str(root / "annotations" / "instances_train2017.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_data_set_points_to_the_generated_one(tmp_path):
    with pytest.raises(InputError, match="--data shapes") as error:
        load_split(tmp_path / "nowhere", "train")
    assert str(tmp_path / "nowhere") in str(error.value)


def test_a_missing_image_folder_is_named(tmp_path):
    (write(tmp_path) / "train2017").rmdir()
    with pytest.raises(InputError, match=r"train2017: instances_train2017\.json describes"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize(("name", "counts"), [("train", (365, 3202, 51, 0)), ("val", (159, 1375, 45, 0))])
def test_real_coco_gives_the_published_counts(shared, name, counts):
    split = load_split(shared / "coco_mini", name)
    assert (len(split), len(split.boxes), split.max_boxes, split.num_empty_boxes) == counts
    assert split.doubts == ()
    assert split.categories.num_classes == 81
    assert split.categories.ids[-1] == 90


def test_real_coco_boxes_and_categories_come_back_out(shared):
    split = load_split(shared / "coco_mini", "val")
    found = []
    for i, image_id in enumerate(split.image_ids.tolist()):
        boxes, labels = split.boxes_of(i)
        pixels = boxes * np.tile(split.sizes[i], 2)
        ids = np.array(split.categories.ids)[labels - 1]
        found += [(image_id, c, *box) for c, box in zip(ids.tolist(), pixels.tolist(), strict=True)]
    expected = []
    for a in json.loads(split.annotation_file.read_text())["annotations"]:
        x, y, w, h = a["bbox"]
        expected.append((a["image_id"], a["category_id"], x, y, x + w, y + h))
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-3)
