"""A validation split written as strangers write them, everything at once: formats, depths, EXIF tags, names, fields.

What is accepted must have the pixels and the scores of the plain split; a part of the cases is damaged besides.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ssd_graph.data.check.folder import check_folder
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode
from ssd_graph.data.image_files import require_images
from ssd_graph.scoring.detections_file import detections_json, load_detections
from ssd_graph.scoring.evaluate import CocoScorer
from tests.fuzz.mutations import damaged_json
from tests.scoring.harmless import changed

VAL = Path("annotations") / "instances_val2017.json"

_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation to Pillow's Transpose."""


def write_mixed(rng, sound):
    numbers = np.random.default_rng(rng.randrange(2**32))
    content = json.loads((sound / "coco" / VAL).read_text())
    for image in content["images"]:
        image["source"] = image["file_name"]
    rows = load_detections(sound / "scores" / "detections.json")
    content, rows = changed(numbers, content, rows)
    upright, expected = rng.random() < 0.5, {}
    Path("coco/val2017").mkdir(parents=True)
    Path("coco/annotations").mkdir()
    for n, image in enumerate(content["images"]):
        pixels = Image.open(sound / "coco" / "val2017" / image["source"]).convert("RGB")
        name, expected[n] = _write_image(rng, pixels, n, upright)
        height, width = expected[n].shape[:2]
        image.update(file_name=_named(rng, name), width=_written(rng, width), height=_written(rng, height))
    for annotation in content["annotations"]:
        annotation |= {name: None for name in ("segmentation", "caption") if rng.random() < 0.2}
        if not annotation.get("iscrowd") and rng.random() < 0.3:
            annotation["iscrowd"] = rng.choice((None, False, 0))
        annotation["category_id"] = _written(rng, annotation["category_id"])
    damaged = rng.random() < 0.3
    data = damaged_json(rng, content) if damaged else json.dumps(content).encode()
    if rng.random() < 0.2 and not damaged:
        data = data.decode().encode(rng.choice(("utf-8-sig", "utf-16", "utf-32")))
    Path("coco", VAL).write_bytes(data)
    Path("detections.json").write_text(detections_json(rows))
    Path("facts.json").write_text(json.dumps({"upright": upright, "damaged": damaged}))
    np.savez("expected.npz", **{str(n): array for n, array in expected.items()})


def use_mixed(sound):
    facts, expected = json.loads(Path("facts.json").read_text()), np.load("expected.npz")
    split = load_split(Path("coco"), "val", upright=facts["upright"], empty_images="keep")
    require_images(split)
    for i in range(len(split)):
        found = np.asarray(decode(split.path(i), split.size(i), upright=split.upright))
        assert np.array_equal(found, expected[split.path(i).stem]), f"other pixels in {split.path(i)}"
    scores = CocoScorer(split.annotation_file).score(load_detections(Path("detections.json")))
    if not facts["damaged"]:
        plain = CocoScorer(sound / "coco" / VAL).score(load_detections(sound / "scores" / "detections.json"))
        assert scores == plain, "another score"
        (check,) = check_folder(Path("coco"), ["val"], upright=facts["upright"])
        refused = [problem.kind.name for problem in check.problems if "refuse" in problem.kind.effect]
        assert not refused, f"check_coco finds {refused} in what was accepted"


def _write_image(rng, picture, n, upright):
    """Write one picture in some lossless way; its name, and the pixels that must come out of it."""
    form = rng.choice(("png", "palette", "grey", "grey 16", "bits", "webp", "turned", "odd tag"))
    suffix = "webp" if form == "webp" else rng.choice(("png", "PNG", "tif"))
    if form == "palette":
        picture = picture.quantize(32)
    elif form in ("grey", "grey 16"):
        picture = picture.convert("L")
    elif form == "bits":
        picture = picture.convert("1")
    expected = np.asarray(picture.convert("RGB"))
    options = {"lossless": True} if form == "webp" else {}
    if form == "grey 16":
        low = np.random.default_rng(n).integers(0, 256, (picture.height, picture.width))
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) << 8 | low).astype(np.uint16))
    if form in ("turned", "odd tag"):
        tag = rng.randint(1, 8) if form == "turned" else rng.choice((0, 9, 77))
        options["exif"] = exif = Image.Exif()
        exif[0x0112] = tag
        if upright and tag in _TURNS:
            expected = np.asarray(picture.transpose(Image.Transpose(_TURNS[tag])))
    name = f"{n}.{suffix}"
    picture.save(Path("coco/val2017", name), **options)
    return name, expected


def _named(rng, name):
    """A file name as other tools write it."""
    return rng.choice(("", "", "val2017/", "images\\val\\", "/data/coco/", "C:\\data\\", "https://host/a/")) + name


def _written(rng, number):
    return rng.choice((number, number, float(number), str(number)))
