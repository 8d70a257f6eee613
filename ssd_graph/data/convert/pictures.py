"""What every layout is read into: pictures and their objects; and how these are held against the image files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.cores import usable_cores
from ssd_graph.data.check import problems as p
from ssd_graph.data.check.problems import Findings, Kind
from ssd_graph.data.coco import EDGE_TOLERANCE, MIN_SIDE
from ssd_graph.data.decode import FORMATS, orientation, shown_size
from ssd_graph.data.evaluation import pool_of

LEFT_OUT = "left out"
"""How the effect of a kind begins that loses something."""
NO_TEST = "left out the split test: training and scoring use train and val"
ONLY_TEST = "which neither trains nor scores; call it train or val"

MISSING = Kind(p.MISSING.name, LEFT_OUT)
UNDECODABLE = Kind(p.UNDECODABLE.name, LEFT_OUT)
WRONG_SIZE = Kind(p.WRONG_SIZE.name, LEFT_OUT)
BOX_EMPTY = Kind("box without area, or outside its image", LEFT_OUT)
BOX_OVER_EDGE = Kind(p.BOX_OVER_EDGE.name, "cut to the image")
REPEATED_FILE = Kind(p.REPEATED_FILE.name, LEFT_OUT)
IN_BOTH = Kind("image in train and in val", "used in both: the score flatters")


class Object(NamedTuple):
    """A box with a class."""

    category: int
    xyxy: tuple[float, float, float, float]
    """In pixels from 0, or in shares of the image: see `DataSet.relative`."""
    crowd: bool = False
    area: float | None = None
    """Of the object in pixels; None means the box's."""


class Picture(NamedTuple):
    """An image file and its objects."""

    path: Path
    objects: list[Object]
    size: tuple[int, int] | None = None
    """Width and height as the annotations say; None if they do not."""


@dataclass(slots=True)
class DataSet:
    """A data set as a reader found it, or as `settle` left it."""

    splits: dict[str, list[Picture]]
    """`train`, `val` or both."""
    categories: dict[int, str]
    findings: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)
    """Lines for the user."""
    relative: bool = False
    upright: bool = False
    """Whether sizes and boxes are of pictures that are turned as their EXIF orientation says."""


class _Header(NamedTuple):
    tag: int
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """As stored, and upright."""


def place(path: Path) -> str:
    """The end of a path, short enough for an example."""
    return "/".join(path.parts[-2:])


def settle(data: DataSet, upright: bool | None = None) -> DataSet:
    """The data set with boxes in pixels, cut to the images, whose sizes are those of the files.

    Args:
        upright: see DataSet; None decides by the sizes that the annotations state, and without any for upright, since
            that is how most tools show a picture.
    """
    pictures = [picture for split in data.splits.values() for picture in split]
    headers = _headers(list({picture.path: None for picture in pictures}))
    turned = sum(isinstance(header, _Header) and header.tag != 1 for header in headers.values())
    upright = bool(turned) and (_are_upright(pictures, headers) if upright is None else upright)
    if turned:
        of, how = ("upright", "with") if upright else ("stored", "without")
        data.notes.append(
            f"{turned} images are stored turned (EXIF orientation); their boxes are taken to be of the {of} pictures: "
            f"train and score {how} --upright"
        )
    splits = {name: _settled(split, headers, upright, data) for name, split in data.splits.items()}
    train, val = ({picture.path for picture in splits.get(name, ())} for name in ("train", "val"))
    for path in sorted(train & val):
        data.findings.add(IN_BOTH, place(path))
    return DataSet(splits, data.categories, data.findings, data.notes, upright=upright)


def require_boxes(data: DataSet, shared: bool) -> None:
    """Raise InputError, with what was left out, if nothing could be learnt or scored in a split; `shared` says whether
    val was made of train.
    """
    for name, split in data.splits.items():
        boxes = (thing.xyxy for picture in split for thing in picture.objects)
        if not any(max(x2 - x1, y2 - y1) > 1 for x1, y1, x2, y2 in boxes):
            reasons = "; ".join(f"{q.count} times: {q.kind.name}, {q.examples[0]}" for q in data.findings.problems())
            advice = "; try another --seed, or a larger --val-share" if shared and name == "val" else ""
            what = f"no box larger than a pixel in {name}, {len(split)} images"
            raise InputError(f"{what} ({reasons or 'no labels'}){advice}")


def _headers(paths: Sequence[Path]) -> dict[Path, _Header | Exception]:
    """Size and orientation of each image file, or what is wrong with it."""

    def read(path: Path) -> _Header | Exception:
        try:
            with Image.open(path, formats=FORMATS) as image:
                return _Header(orientation(image), (shown_size(image, False), shown_size(image, True)))
        except Exception as error:  # a hostile file can make a decoder raise anything
            return error

    with pool_of(2 * usable_cores()) as pool:
        bar = tqdm(pool.map(read, paths), "images", len(paths), leave=False, disable=None, unit="image")
        return dict(zip(paths, bar, strict=True))


def _are_upright(pictures: Sequence[Picture], headers: dict[Path, _Header | Exception]) -> bool:
    votes = 0
    for picture in pictures:
        header = headers[picture.path]
        if isinstance(header, _Header):
            stored, upright = header.sizes
            votes += (picture.size == upright) - (picture.size == stored)
    return votes >= 0


def _settled(
    pictures: Sequence[Picture], headers: dict[Path, _Header | Exception], upright: bool, data: DataSet
) -> list[Picture]:
    kept, met = [], set[str]()
    for picture in pictures:
        if (file := os.path.abspath(picture.path)) in met:
            data.findings.add(REPEATED_FILE, place(picture.path))
            continue
        met.add(file)
        header = headers[picture.path]
        if isinstance(header, Exception):
            kind = MISSING if isinstance(header, FileNotFoundError) else UNDECODABLE
            data.findings.add(kind, place(picture.path))
            continue
        size = header.sizes[upright]
        if picture.size not in (None, size):
            data.findings.add(
                WRONG_SIZE, "{}: {}x{}, stated as {}x{}".format(place(picture.path), *size, *picture.size)
            )
            continue
        kept.append(Picture(picture.path, list(_inside(picture, size, data)), size))
    return kept


def _inside(picture: Picture, size: tuple[int, int], data: DataSet) -> Iterator[Object]:
    """The objects with boxes in pixels and within the image."""
    width, height = size
    for thing in picture.objects:
        x1, y1, x2, y2 = thing.xyxy
        if data.relative:
            x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
        left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        example = f"{place(picture.path)}: {x1:g} {y1:g} {x2:g} {y2:g}"
        if not (right - left > MIN_SIDE * width and bottom - top > MIN_SIDE * height):
            data.findings.add(BOX_EMPTY, example)
            continue
        if max(left - x1, top - y1, x2 - right, y2 - bottom) > EDGE_TOLERANCE:
            data.findings.add(BOX_OVER_EDGE, example)
        area = thing.area
        if area is not None and (left, top, right, bottom) != (x1, y1, x2, y2):
            area = min(area, (right - left) * (bottom - top))  # no object is larger than its box
        yield thing._replace(xyxy=(left, top, right, bottom), area=area)
