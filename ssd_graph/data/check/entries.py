"""What is wrong with the entries of a COCO annotation file, by the rules of coco.load_split and pycocotools.

Nothing is assumed of the entries: they come from a user's file and may be anything that json can hold.
"""

# B boxes

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.data.check import problems as p
from ssd_graph.data.check.problems import Findings

EDGE_TOLERANCE = 1.0
"""Pixels that a box may reach over its image's edge, since published boxes are rounded."""

BOX_KINDS = (None, p.BOX_OVER_EDGE, p.BOX_OUTSIDE, p.BOX_EMPTY, p.BOX_NEGATIVE, p.BOX_NOT_FINITE)
"""What `judge_boxes` finds; training uses the first three."""
_NUM_USED = 3

Entry = dict[str, Any]


@dataclass(slots=True)
class CheckedImages:
    """Images that training could use by their entries, and what must go."""

    entries: dict[int, Entry] = field(default_factory=dict)
    """By id."""
    removed: set[int] = field(default_factory=set)
    """Ids, of `entries` and of unusable ones, that a cleaned file cannot keep."""


@dataclass(slots=True)
class CheckedAnnotations:
    """What training would use, and what a cleaned file keeps."""

    cleaned: list[Entry] = field(default_factory=list)
    num_boxes: Counter[int] = field(default_factory=Counter)
    """By category id."""
    num_crowd: int = 0
    boxed: set[int] = field(default_factory=set)
    """Ids of images with boxes."""


def check_categories(entries: list[Any], findings: Findings) -> dict[int, Entry]:
    """Usable categories by id."""
    categories: dict[int, Entry] = {}
    for entry in entries:
        number, name = _whole(_get(entry, "id")), _get(entry, "name")
        if number is None or not isinstance(name, str):
            findings.add(p.BAD_CATEGORY, entry)
        elif number in categories:
            findings.add(p.REPEATED_CATEGORY, f"{number}: {categories[number]['name']}, {name}")
        else:
            categories[number] = entry
    return categories


def check_images(entries: list[Any], findings: Findings) -> CheckedImages:
    """Judge images by their entries alone."""
    images = CheckedImages()
    names: set[str] = set()
    for entry in entries:
        number, name = _whole(_get(entry, "id")), _get(entry, "file_name")
        sides = [_whole(_get(entry, side)) or 0 for side in ("width", "height")]
        if number is None or not isinstance(name, str) or not 0 < min(sides) <= max(sides) < 2**31:
            findings.add(p.BAD_IMAGE, entry)
            if number is not None and number not in images.entries:
                images.removed.add(number)
        elif number in images.entries:
            findings.add(p.REPEATED_IMAGE, f"{number}: {images.entries[number]['file_name']}, {name}")
        else:
            images.entries[number] = entry
            images.removed.discard(number)
            kind = p.FILE_OUTSIDE if _leaves_folder(name) else p.REPEATED_FILE if name in names else None
            if kind:
                findings.add(kind, f"{name} of image {number}")
                images.removed.add(number)
            names.add(name)
    return images


def check_annotations(
    entries: list[Any], images: CheckedImages, categories: dict[int, Entry], findings: Findings
) -> CheckedAnnotations:
    """Judge annotations; those of `images.removed` are no findings of their own, but are not kept."""
    usable = [entry for entry in entries if _is_usable(entry, images, categories, findings)]
    owners = [images.entries[int(entry["image_id"])] for entry in usable]
    boxes = np.array([entry["bbox"] for entry in usable], np.float64).reshape(-1, 4)
    sizes = np.array([(image["width"], image["height"]) for image in owners], np.float64).reshape(-1, 2)
    result = CheckedAnnotations()
    verdicts, new_ids = judge_boxes(boxes, sizes).tolist(), _new_ids(usable, findings)
    for entry, image, verdict, new_id in zip(usable, owners, verdicts, new_ids, strict=True):
        place = f"image {entry['image_id']}"
        if kind := BOX_KINDS[verdict]:
            findings.add(kind, f"{entry['bbox']} on {place} of {image['width']}x{image['height']}")
        if verdict < _NUM_USED:
            result.num_boxes[int(entry["category_id"])] += 1
            result.num_crowd += bool(entry.get("iscrowd"))
            result.boxed.add(int(entry["image_id"]))
        bad_fields = _bad_fields(entry)
        if bad_fields:
            findings.add(p.BAD_FIELD, f"{bad_fields[0]} {entry[bad_fields[0]]!r} on {place}")
        if kind in (None, p.BOX_OVER_EDGE) and int(entry["image_id"]) not in images.removed:
            box = _clipped(entry["bbox"], image) if kind else None
            result.cleaned.append(_mended(entry, bad_fields, id=new_id, bbox=box))
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
    inside = (corners.clip(0.0, sides) / sides).astype(np.float32)
    tests = (
        (5, ~np.isfinite(relative).all(1)),
        (4, (boxes_xywh[:, 2:] < 0).any(1)),
        (3, (relative[:, 2:] <= relative[:, :2]).any(1)),
        (2, (inside[:, 2:] <= inside[:, :2]).any(1)),
        (1, ((corners < -EDGE_TOLERANCE) | (corners > sides + EDGE_TOLERANCE)).any(1)),
    )
    return np.select([test for _, test in tests], [np.int64(verdict) for verdict, _ in tests], np.int64(0))


def _is_usable(entry: Any, images: CheckedImages, categories: dict[int, Entry], findings: Findings) -> bool:
    """Whether an annotation has a box and its image and category are usable; its image's fault is not its own."""
    image_id, category_id = _whole(_get(entry, "image_id")), _whole(_get(entry, "category_id"))
    if image_id is None or category_id is None or not _is_box(_get(entry, "bbox")):
        findings.add(p.BAD_ANNOTATION, entry)
    elif image_id not in images.entries and image_id not in images.removed:
        findings.add(p.UNKNOWN_IMAGE, f"image {image_id}")
    elif category_id not in categories:
        findings.add(p.UNKNOWN_CATEGORY, f"category {category_id} on image {image_id}")
    else:
        return image_id in images.entries
    return False


def _new_ids(entries: list[Entry], findings: Findings) -> list[int | None]:
    """A new id for each annotation that cannot keep its own; a file without any ids needs none."""
    if not any("id" in entry for entry in entries):
        return [None] * len(entries)
    numbers = [_whole(entry.get("id")) for entry in entries]
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


def _bad_fields(entry: Entry) -> list[str]:
    area, crowd = entry.get("area", 0), entry.get("iscrowd", 0)
    return ["area"] * (_number(area) is None) + ["iscrowd"] * (crowd not in (0, 1))


def _clipped(box_xywh: list[float], image: Entry) -> list[float]:
    x, y, w, h = (float(v) for v in box_xywh)
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + w, float(image["width"])) - left, min(y + h, float(image["height"])) - top]


def _mended(entry: Entry, bad_fields: list[str], **changes: Any) -> Entry:
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes and not bad_fields:
        return entry
    return {name: value for name, value in entry.items() if name not in bad_fields} | changes


def _leaves_folder(name: str) -> bool:
    return os.path.isabs(name) or ".." in Path(name).parts


def _get(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


def _whole(value: Any) -> int | None:
    """`value` as an int if it is a whole number that fits 64 bits."""
    number = _number(value)
    return int(value) if number is not None and number.is_integer() and abs(number) < 2**63 else None


def _number(value: Any) -> float | None:
    """`value` as a float, which may be NaN or infinite, if it is a json number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_number(v) is not None for v in value)
