"""What is wrong with the entries of a COCO annotation file, by the rules of coco_file.read_columns and pycocotools.

Nothing is assumed of the entries: they come from a user's file and may be anything that json can hold.
"""

# B boxes

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from PIL import Image

from ssd_graph.data.check import problems as p
from ssd_graph.data.check.problems import Findings
from ssd_graph.data.coco import EDGE_TOLERANCE, MIN_SIDE
from ssd_graph.data.coco_file import LARGEST_AREA, AnnotationEntry, CategoryEntry, Id, ImageEntry
from ssd_graph.data.decode import FORMATS, shown_size
from ssd_graph.data.file_names import leaves_folder, local_names

BOX_KINDS = (None, p.BOX_OVER_EDGE, p.BOX_OUTSIDE, p.BOX_EMPTY, p.BOX_NEGATIVE, p.BOX_NOT_FINITE)
"""What `judge_boxes` finds; training uses the first three."""
_NUM_USED = 3

Entry = dict[str, Any]

_E = TypeVar("_E")


@dataclass(slots=True)
class CheckedImages:
    """Images that training could use by their entries, and what must go."""

    entries: dict[int, Entry] = field(default_factory=dict)
    """By id."""
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Width and height by id."""
    removed: set[int] = field(default_factory=set)
    """Ids, of `entries` and of unusable ones, that a cleaned file cannot keep."""


@dataclass(slots=True)
class CheckedAnnotations:
    """What training would use, and what a cleaned file keeps."""

    cleaned: list[Entry] = field(default_factory=list)
    num_boxes: Counter[int] = field(default_factory=Counter)
    """By category id."""
    num_crowd: int = 0
    num_tiny: int = 0
    """Boxes of at most a pixel by a pixel."""
    boxed: set[int] = field(default_factory=set)
    """Ids of images with boxes."""


def check_categories(entries: list[Any], findings: Findings) -> dict[int, Entry]:
    """Usable categories by id."""
    categories: dict[int, Entry] = {}
    for entry in entries:
        category = _read(entry, CategoryEntry)
        if category is None:
            findings.add(p.BAD_CATEGORY, entry)
        elif category.id in categories:
            findings.add(p.REPEATED_CATEGORY, f"{category.id}: {categories[category.id]['name']}, {category.name}")
        else:
            categories[category.id] = entry
    return categories


def check_images(entries: list[Any], findings: Findings, image_dir: Path, upright: bool = False) -> CheckedImages:
    """Judge images by their entries; names and missing sizes are mended by what lies in `image_dir`."""
    images = CheckedImages()
    names: set[str] = set()
    for entry in _mended_images(entries, findings, image_dir, upright):
        image = _image(entry)
        if image is None:
            findings.add(p.BAD_IMAGE, entry)
            if (with_id := _read(entry, _WithId)) and with_id.id not in images.entries:
                images.removed.add(with_id.id)
        elif image.id in images.entries:
            findings.add(p.REPEATED_IMAGE, f"{image.id}: {images.entries[image.id]['file_name']}, {image.file_name}")
        else:
            images.entries[image.id], images.sizes[image.id] = entry, (image.width, image.height)
            images.removed.discard(image.id)
            name = image.file_name
            kind = p.FILE_OUTSIDE if leaves_folder(name) else p.REPEATED_FILE if name in names else None
            if kind:
                findings.add(kind, f"{name} of image {image.id}")
                images.removed.add(image.id)
            names.add(name)
    return images


def _mended_images(entries: list[Any], findings: Findings, image_dir: Path, upright: bool) -> Iterator[Any]:
    """Entries with the names of the files that they mean and, where there is none, the size of the file."""
    given = [read.file_name if (read := _read(entry, _Named)) else "" for entry in entries]
    for entry, name, local in zip(entries, given, local_names(image_dir, given), strict=True):
        if local != name:
            findings.add(p.FOUND_BY_NAME, f"{name}: {local}")
            entry = {**entry, "file_name": local}
        # Not of what lies elsewhere, nor of a pipe, which would be waited for.
        named = local and not leaves_folder(local) and os.path.isfile(image_dir / local)
        if named and not _image(entry) and _read(entry, _WithId) and (size := _size(image_dir / local, upright)):
            findings.add(p.NO_SIZE, f"{local}: {size[0]}x{size[1]}")
            entry = {**entry, "width": size[0], "height": size[1]}
        yield entry


def _image(entry: Any) -> ImageEntry | None:
    """An entry that has all that an image needs."""
    image = _read(entry, ImageEntry)
    return image if image and min(image.width, image.height) > 0 else None


def _size(path: Path, upright: bool) -> tuple[int, int] | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return shown_size(image, upright)
    except Exception:  # a hostile file can make a decoder raise anything
        return None


def check_annotations(
    entries: list[Any], images: CheckedImages, categories: dict[int, Entry], findings: Findings
) -> CheckedAnnotations:
    """Judge annotations; those of `images.removed` are no findings of their own, but are not kept."""
    usable = [(entry, read) for entry in entries if (read := _usable(entry, images, categories, findings))]
    boxes = np.array([read.bbox for _, read in usable], np.float64).reshape(-1, 4)
    sizes = np.array([images.sizes[read.image_id] for _, read in usable], np.float64).reshape(-1, 2)
    result = CheckedAnnotations()
    verdicts, new_ids = judge_boxes(boxes, sizes).tolist(), _new_ids([entry for entry, _ in usable], findings)
    for (entry, read), size, verdict, new_id in zip(usable, sizes.tolist(), verdicts, new_ids, strict=True):
        place = f"image {read.image_id}"
        if kind := BOX_KINDS[verdict]:
            findings.add(kind, f"{entry['bbox']} on {place} of {size[0]:.0f}x{size[1]:.0f}")
        if verdict < _NUM_USED:
            result.num_boxes[read.category_id] += 1
            result.num_crowd += bool(read.iscrowd)
            result.num_tiny += max(read.bbox[2:]) <= 1
            result.boxed.add(read.image_id)
        if empty := [name for name in ("area", "iscrowd") if name in entry and _is_empty(getattr(read, name))]:
            findings.add(p.EMPTY_FIELD, f"{empty[0]} {entry[empty[0]]!r} on {place}")
        if kind in (None, p.BOX_OVER_EDGE) and read.image_id not in images.removed:
            box = _clipped(read.bbox, size) if kind else None
            # No object is larger than its box, and its area decides whether it is scored as small.
            area = min(read.area, box[2] * box[3]) if box and read.area is not None and "area" not in empty else None
            result.cleaned.append(_mended(entry, empty, id=new_id, bbox=box, area=area))
    return result


def judge_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What is wrong with boxes, in the arithmetic of coco.load_split.

    Args:
        boxes_xywh: float64 [B, 4], pixels.
        sizes: float64 [B, 2], width and height of each box's image.

    Returns:
        int64 [B], indices into `BOX_KINDS`.
    """
    sides = np.tile(sizes, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], 1)
        relative = (corners / sides).astype(np.float32)
        solid = relative[:, 2:] - relative[:, :2] > MIN_SIDE
    inside = (corners.clip(0.0, sides) / sides).astype(np.float32)
    tests = (
        (5, ~np.isfinite(relative).all(1)),
        (4, (boxes_xywh[:, 2:] < 0).any(1)),
        (3, ~solid.all(1)),
        (2, (inside[:, 2:] <= inside[:, :2]).any(1)),
        (1, ((corners < -EDGE_TOLERANCE) | (corners > sides + EDGE_TOLERANCE)).any(1)),
    )
    return np.select([test for _, test in tests], [np.int64(verdict) for verdict, _ in tests], np.int64(0))


def _usable(
    entry: Any, images: CheckedImages, categories: dict[int, Entry], findings: Findings
) -> AnnotationEntry | None:
    """An annotation that can be read and whose image and category can; its image's fault is not its own."""
    read = _read(entry, AnnotationEntry)
    if read is None:
        findings.add(p.BAD_ANNOTATION, entry)
    elif read.image_id not in images.entries and read.image_id not in images.removed:
        findings.add(p.UNKNOWN_IMAGE, f"image {read.image_id}")
    elif read.category_id not in categories:
        findings.add(p.UNKNOWN_CATEGORY, f"category {read.category_id} on image {read.image_id}")
    elif read.image_id in images.entries:
        return read
    return None


def _new_ids(entries: list[Entry], findings: Findings) -> list[int | None]:
    """A new id for each annotation that cannot keep its own; a file without any ids needs none."""
    if not any("id" in entry for entry in entries):
        return [None] * len(entries)
    numbers = [read.id if (read := _read(entry, _WithId)) else None for entry in entries]
    fresh = count(1 + max((number for number in numbers if number is not None), default=0))
    seen: set[int | None] = set()
    new_ids: list[int | None] = []
    for number, entry in zip(numbers, entries, strict=True):
        kind = p.ID_BAD if number is None else p.ID_REPEATED if number in seen else None if number else p.ID_ZERO
        if kind:
            findings.add(kind, f"{entry.get('id')!r} on image {entry['image_id']}")
        seen.add(number)
        new_ids.append(next(fresh) if kind else None)
    return new_ids


def _clipped(box_xywh: tuple[float, float, float, float], size: list[float]) -> list[float]:
    x, y, w, h = box_xywh
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + w, size[0]) - left, min(y + h, size[1]) - top]


def _mended(entry: Entry, dropped: list[str], **changes: Any) -> Entry:
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes and not dropped:
        return entry
    return {name: value for name, value in entry.items() if name not in dropped} | changes


def _is_empty(value: float | None) -> bool:
    return value is None or not 0 <= value <= LARGEST_AREA


class _WithId(msgspec.Struct):
    id: Id


class _Named(msgspec.Struct):
    file_name: str


def _read(entry: Any, kind: type[_E]) -> _E | None:
    """An entry as coco_file reads it; None if it refuses."""
    try:
        return msgspec.convert(entry, kind, strict=False)
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError):  # the last: half a surrogate pair for a number
        return None
