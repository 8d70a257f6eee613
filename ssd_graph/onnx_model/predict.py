"""Detections of an exported model on any images: pictures and one JSON file; torch is not needed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.data.decode import decode
from ssd_graph.files import atomic_write, require_writable, write_whole
from ssd_graph.onnx_model.api import Detections, Detector
from ssd_graph.onnx_model.draw import draw_detections
from ssd_graph.onnx_model.thresholds import ShownFrom

_LONGEST = 65_500
"""Pixels; libjpeg writes no longer side."""


class Predictions(NamedTuple):
    """What `predict` found."""

    records: list[dict[str, Any]]
    """What the JSON has of each image."""
    faults: list[str]
    """What is wrong with the images that are left out."""
    highest_score: float
    """Of everything found, shown or not."""

    @property
    def num_objects(self) -> int:
        """Shown in all images."""
        return sum(len(record["objects"]) for record in self.records)


def predict(detector: Detector, paths: Sequence[Path], out: Path, shown_from: ShownFrom) -> Predictions:
    """Write each image with its detections into `out`, and `predictions.json` with all of them.

    Images are turned upright as their EXIF says, which evaluation on COCO does not do. Boxes in the JSON are
    pixels of the upright image (left, top, right, bottom) and may reach beyond it.

    Raises:
        InputError: no image can be used, a picture would overwrite an image, or `out` cannot be written.
    """
    records, faults, highest = [], list[str](), 0.0
    require_writable(out, "--out")
    for path, target in _targets(paths, out).items():
        try:
            image = decode(path, upright=True)
            if max(image.size) > _LONGEST:
                raise InputError(
                    f"{path} has {image.width} x {image.height} pixels, and a JPEG has {_LONGEST} a side at most; "
                    "make the image smaller or leave it out"
                )
        except InputError as error:
            faults.append(str(error))
            continue
        everything = detector(image, score=0)
        highest = max(highest, everything.highest_score)
        found = everything.shown(shown_from)
        with atomic_write(target) as temporary:
            drawn(image, found, detector.categories.ids).save(temporary, "JPEG", quality=92)
        size = {"width": image.width, "height": image.height}
        records.append({"file": str(path), "picture": target.name, **size, "objects": found.to_json()})
    if faults and not records:
        raise InputError(f"no image can be used; {faults[0]}")
    content = shown_from.to_json(detector.categories.ids) | {"model_sha256": detector.network.sha256, "images": records}
    write_whole(out / "predictions.json", json.dumps(content, indent=1) + "\n")
    return Predictions(records, faults, highest)


def drawn(image: Image.Image, found: Detections, category_ids: Sequence[int]) -> Image.Image:
    """A copy of an RGB image with what was found; the ids' order chooses the colours."""
    captions = [f"{name} {score:.2f}" for name, score in zip(found.names, found.scores.tolist(), strict=True)]
    return draw_detections(image, found.boxes, captions, [category_ids.index(label) for label in found.labels.tolist()])


def _targets(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The picture to write for each image, named after it."""
    targets, taken = dict[Path, Path](), set[str]()
    for path in paths:
        name, number = f"{path.stem}.jpg", 1
        while name.casefold() in taken:  # A.jpg and a.jpg are one file on many disks
            number += 1
            name = f"{path.stem}-{number}.jpg"
        targets[path] = out / name
        taken.add(name.casefold())
    given = {_file(path) for path in paths} - {None}
    for target in targets.values():
        if _file(target) in given:
            raise InputError(f"{target} is an image that was given; choose another folder with --out")
    return targets


def _file(path: Path) -> tuple[int, int] | None:
    """What tells the file from any other, by whatever name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
