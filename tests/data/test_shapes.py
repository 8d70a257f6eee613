"""Proves that the generated data set is the same everywhere, looks like COCO (all object sizes, gaps in the
category ids, images without objects), and appears in the cache once and whole.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.data import shapes
from ssd_graph.data.coco import load_split


@pytest.fixture(scope="module")
def drawn():
    """Pictures and objects of the first 60 images of a split."""
    return [shapes.draw_image(np.random.default_rng([0, i])) for i in range(60)]


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """An empty cache folder for a data set of three images."""
    monkeypatch.setenv("SSD_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "NUM_IMAGES", {"train": 2, "val": 1})
    return tmp_path / "cache"


def annotations(root, split):
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


def test_annotations_are_deterministic(tiny_coco, tmp_path):
    shapes.write_shapes(tmp_path, {"train": 12, "val": 6})
    for split in ("train", "val"):
        assert annotations(tmp_path, split) == annotations(tiny_coco, split)
        assert annotations(tmp_path, split)["annotations"]


def test_an_image_does_not_depend_on_how_many_there_are(tiny_coco, tmp_path):
    shapes.write_shapes(tmp_path, {"train": 5})
    few, many = annotations(tmp_path, "train"), annotations(tiny_coco, "train")
    assert few["images"] == many["images"][:5]
    assert few["annotations"] == many["annotations"][: len(few["annotations"])]
    for entry in few["images"]:
        same = [(root / "train2017" / entry["file_name"]).read_bytes() for root in (tmp_path, tiny_coco)]
        assert same[0] == same[1]


def test_train_and_val_share_no_picture(tiny_coco):
    files = [path.read_bytes() for path in tiny_coco.glob("*2017/*.jpg")]
    assert len(files) == len(set(files)) == 18


def test_every_coco_size_occurs(drawn):
    areas = np.array([o["area"] for _, objects in drawn for o in objects])
    counts = ((areas < 32**2).sum(), ((areas > 32**2) & (areas < 96**2)).sum(), (areas > 96**2).sum())
    assert min(counts) >= 10


def test_every_category_occurs(drawn):
    assert {o["category_id"] for _, objects in drawn for o in objects} == {2, 3, 5, 7, 11, 13}


def test_about_one_image_in_ten_is_empty(drawn):
    assert 1 <= sum(not objects for _, objects in drawn) <= 15


def test_boxes_lie_inside_and_hold_the_area(drawn):
    for picture, objects in drawn:
        for o in objects:
            x, y, w, h = o["bbox"]
            assert 0 <= x < x + w <= picture.width
            assert 0 <= y < y + h <= picture.height
            assert 0.1 * w * h < o["area"] <= w * h


def test_an_object_changes_the_pixels_of_its_box(drawn):
    colourful = []
    for picture, objects in drawn:
        levels = np.asarray(picture).astype(int)
        spread = levels.max(2) - levels.min(2)
        colourful += [spread[y : y + h, x : x + w].max() for x, y, w, h in (o["bbox"] for o in objects)]
    assert min(colourful) > 60


def test_pictures_have_the_annotated_size(tiny_coco):
    for split in ("train", "val"):
        for entry in annotations(tiny_coco, split)["images"]:
            with Image.open(tiny_coco / f"{split}2017" / entry["file_name"]) as picture:
                assert (picture.format, picture.size) == ("JPEG", (entry["width"], entry["height"]))


def test_category_ids_have_gaps(tiny_coco):
    assert [c["id"] for c in annotations(tiny_coco, "val")["categories"]] == [2, 3, 5, 7, 11, 13]


def test_ids_are_unique_over_the_split(tiny_coco):
    content = annotations(tiny_coco, "train")
    assert len({i["id"] for i in content["images"]}) == 12
    numbers = [a["id"] for a in content["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_load_split_reads_all_of_it(tiny_coco):
    split = load_split(tiny_coco, "train", empty_images="keep")
    assert len(split) == 12
    assert len(split.boxes) == len(annotations(tiny_coco, "train")["annotations"])
    assert split.num_empty_boxes == 0
    assert split.categories.num_classes == 7


def test_the_cached_folder_is_complete(small_cache):
    root = shapes.shapes_root()
    assert list(small_cache.iterdir()) == [root]
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    assert files == [
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "train2017/000000100000.jpg",
        "train2017/000000100001.jpg",
        "val2017/000000200000.jpg",
    ]


def test_the_cached_folder_is_made_once(small_cache, capsys):
    root = shapes.shapes_root()
    assert "drawing 3 images" in capsys.readouterr().err
    before = [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))]
    assert shapes.shapes_root() == root
    assert [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))] == before
    assert capsys.readouterr().err == ""


def test_a_failed_attempt_leaves_nothing_behind(small_cache, monkeypatch):
    monkeypatch.setattr(shapes, "NUM_IMAGES", {"train": 1, "no/folder": 1})
    with pytest.raises(InputError, match=r"cannot write .*: No such file or directory; set SSD_GRAPH_CACHE"):
        shapes.shapes_root()
    assert list(small_cache.iterdir()) == []
    monkeypatch.setenv("SSD_GRAPH_CACHE", "/proc/none")
    with pytest.raises(InputError, match="cannot write /proc/none"):
        shapes.shapes_root()


def test_callers_that_race_get_the_same_folder(small_cache):
    with ThreadPoolExecutor(3) as pool:
        roots = list(pool.map(lambda _: shapes.shapes_root(), range(3)))
    assert list(small_cache.iterdir()) == [roots[0]]
    assert len(set(roots)) == 1
    assert len(load_split(roots[0], "train", empty_images="keep")) == 2


def test_data_argument_shapes_means_the_generated_folder(small_cache):
    assert shapes.data_root("shapes") == shapes.shapes_root()
    assert str(shapes.data_root("some/coco")) == "some/coco"
