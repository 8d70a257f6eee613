"""File names of other tools and systems mean the files that lie there, where that is beyond doubt."""

import json
import shutil

import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.check.folder import check_folder, write_cleaned
from ssd_graph.data.coco import load_split
from ssd_graph.data.file_names import local_names
from ssd_graph.data.image_files import require_images
from tests.conftest import edit_annotations


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "sub/a.jpg", "d e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("b.jpg", "b.jpg"),
        ("images\\b.jpg", "b.jpg"),
        ("train2017/b.jpg", "b.jpg"),
        ("/home/me/coco/train2017/b.jpg", "b.jpg"),
        ("C:\\Users\\me\\b.jpg", "b.jpg"),
        ("../../b.jpg", "b.jpg"),
        ("https://host/path/b.jpg?size=1&x=/y", "b.jpg"),
        ("x/d e.jpg", "d e.jpg"),
        ("sub/c.jpg", "sub/c.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("x/gone.jpg", "x/gone.jpg"),
        ("gone.jpg", "gone.jpg"),
        ("x/..", "x/.."),
        ("x/sub", "x/sub"),
        ("x/", "x/"),
        ("", ""),
    ],
)
def test_a_name_means_the_file_that_lies_there(folder, name, meant):
    assert local_names(folder, [name]) == [meant]


def test_names_that_end_alike_mean_no_file(folder):
    assert local_names(folder, ["x/b.jpg", "y\\b.jpg"]) == ["x/b.jpg", "y\\b.jpg"]
    assert local_names(folder, ["b.jpg", "y/b.jpg"]) == ["b.jpg", "y/b.jpg"]


@pytest.mark.parametrize("prefix", ["val2017\\", "val2017/", "/data/", "https://host/", "../"])
def test_a_split_with_such_names_is_the_split(own_coco, tiny_coco, tmp_path, capsys, prefix):
    def change(content):
        for image in content["images"]:
            image["file_name"] = prefix + image["file_name"]

    edit_annotations(own_coco, change, "val")
    split = load_split(own_coco, "val")
    require_images(split)
    assert split.fingerprint == load_split(tiny_coco, "val").fingerprint
    (check,) = check_folder(own_coco, ["val"])
    assert [(q.kind.name, q.count) for q in check.problems] == [("file name with a folder that is not there", 6)]
    write_cleaned(check, own_coco / "new.json")
    (own_coco / "new.json").replace(own_coco / "annotations" / "instances_val2017.json")
    assert check_folder(own_coco, ["val"])[0].problems == []


def test_a_name_outside_the_folder_that_means_no_file_is_refused(own_coco):
    edit_annotations(own_coco, lambda content: content["images"][0].update(file_name="/etc/passwd"), "val")
    with pytest.raises(InputError, match="file_name '/etc/passwd' leaves the image folder"):
        load_split(own_coco, "val")


def test_sizes_that_are_missing_are_filled_in_from_the_files(own_coco, tiny_coco):
    def change(content):
        del content["images"][0]["width"]
        content["images"][1]["height"] = 0
        content["images"][2].update(width=None, height="tall")

    edit_annotations(own_coco, change, "val")
    with pytest.raises(InputError):
        load_split(own_coco, "val")
    (check,) = check_folder(own_coco, ["val"])
    assert [(q.kind.name, q.count) for q in check.problems] == [("image without width or height", 3)]
    write_cleaned(check, own_coco / "fixed.json")
    shutil.move(own_coco / "fixed.json", own_coco / "annotations" / "instances_val2017.json")
    assert load_split(own_coco, "val").fingerprint == load_split(tiny_coco, "val").fingerprint


def test_boxes_in_shares_of_the_image_are_refused_and_found(own_coco):
    def change(content):
        sizes = {i["id"]: (i["width"], i["height"]) * 2 for i in content["images"]}
        for a in content["annotations"]:
            a["bbox"] = [v / s for v, s in zip(a["bbox"], sizes[a["image_id"]], strict=True)]

    edit_annotations(own_coco, change, "val")
    with pytest.raises(InputError, match="no box larger than a pixel; bbox is left, top, width and height in pixels"):
        load_split(own_coco, "val")
    (check,) = check_folder(own_coco, ["val"])
    assert [q.kind.name for q in check.problems] == ["no box larger than a pixel: shares of the image?"]


def test_roboflows_layout_is_read(tiny_coco, tmp_path):
    for split, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(tiny_coco / f"{split}2017", tmp_path / folder)
        content = json.loads((tiny_coco / "annotations" / f"instances_{split}2017.json").read_text())
        content["categories"].insert(0, {"id": 0, "name": "my-project", "supercategory": "none"})
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(content))
    for split in ("train", "val"):
        found, plain = load_split(tmp_path, split), load_split(tiny_coco, split)
        require_images(found)
        assert found.categories_without_boxes()[0] == "my-project"
        assert (found.boxes == plain.boxes).all()
        assert found.file_names.tolist() == plain.file_names.tolist()
    checks = check_folder(tmp_path)
    assert [check.split for check in checks] == ["train", "val"]
    assert all(check.problems == [] and check.num_unlisted == 0 for check in checks)
