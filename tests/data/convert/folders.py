"""Folders as other tools write them, and what the command makes of them."""

import json
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tests.run import exit_code


def picture(path, size=(100, 60), tag=None):
    """Write a picture of `size` as it is stored, with an EXIF orientation if there is a `tag`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if tag:
        exif[ExifTags.Base.Orientation] = tag
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(objects, name="a.jpg", size=(100, 60)):
    """The XML text of a picture; objects are (name, xmin, ymin, xmax, ymax) and perhaps what else is in them."""
    things = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        f"</bndbox>{''.join(more)}</object>"
        for label, x1, y1, x2, y2, *more in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{sides}{things}</annotation>"


def every_layout(root):
    """A small data set in each layout: `my_yolo`, `VOCdevkit/VOC2007` and `my_roboflow` below `root`."""
    things = [("cat", 11, 21, 30, 40), ("dog", 2, 3, 50, 55, "<difficult>1</difficult>")]
    categories = [{"id": 0, "name": "animals"}, {"id": 1, "name": "cat", "supercategory": "animals"}]
    write(root / "my_yolo" / "data.yaml", "path: .\ntrain: images/train\nval: [images/val]\nnames: {0: cat, 1: dog}\n")
    for split, roboflow in (("train", "train"), ("val", "valid")):
        names = [f"{split}{number}" for number in (1, 2)]
        for name in names:
            for path in (f"my_yolo/images/{split}", "VOCdevkit/VOC2007/JPEGImages", f"my_roboflow/{roboflow}"):
                picture(root / path / f"{name}.jpg")
            write(root / "my_yolo" / "labels" / split / f"{name}.txt", "0 0.2 0.5 0.2 0.4\n1 .1 .1 .5 .2 .3 .9\n")
            write(root / "VOCdevkit" / "VOC2007" / "Annotations" / f"{name}.xml", voc(things, f"{name}.jpg"))
        write(root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names))
        images = [{"id": i, "file_name": f"{name}.jpg", "width": 100, "height": 60} for i, name in enumerate(names)]
        annotations = [{"image_id": i, "category_id": 1, "bbox": [9, 20, 20, 20], "id": i + 1} for i in (0, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(root / "my_roboflow" / roboflow / "_annotations.coco.json", json.dumps(content))


def convert(*arguments):
    """The exit code of the command."""
    return exit_code("tools/to_coco.py", *arguments)


def refused(capsys, *arguments):
    """The line with which the command refuses, leaving nothing behind."""
    destination = Path(arguments[-1])
    before = sorted(destination.parent.iterdir())
    assert convert(*arguments) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert sorted(destination.parent.iterdir()) == before
    return error


def boxes(folder, split="train"):
    """What a COCO folder holds: file name -> [(category's name, x, y, width, height)]."""
    content = json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = {image["id"]: (image["file_name"], []) for image in content["images"]}
    for annotation in content["annotations"]:
        found[annotation["image_id"]][1].append((names[annotation["category_id"]], *annotation["bbox"]))
    return dict(found.values())
