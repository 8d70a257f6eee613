"""COCO annotation files as packed arrays.

A folder holds `annotations/instances_{train,val}2017.json` (or `bbox_only_instances_*`, which MLPerf's
scripts make) beside `train2017/` and `val2017/`. The arrays of 118,000 images take tens of megabytes and
are shared by forked workers; lists of dictionaries would be copied page by page.
"""

# I images, B boxes of all images

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError

DEFAULT_ROOT = os.environ.get("SSD_GRAPH_DATA", "coco")
"""Where the commands look for COCO when no --data is given."""


@dataclass(frozen=True, slots=True)
class Categories:
    """The data set's categories in file order; category i is class i + 1, class 0 is the background."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Classes of a network for these categories, background included."""
        return len(self.ids) + 1


@dataclass(frozen=True, slots=True)
class CocoSplit:
    """One split. Boxes of image i are rows `offsets[i]` to `offsets[i + 1]`."""

    annotation_file: Path
    image_dir: Path
    categories: Categories
    image_ids: np.ndarray
    """int64 [I], in file order."""
    file_names: np.ndarray
    """str [I], relative to `image_dir`."""
    sizes: np.ndarray
    """int32 [I, 2]: width and height in pixels, as the file gives them."""
    offsets: np.ndarray
    """int64 [I + 1]."""
    boxes: np.ndarray
    """float32 [B, 4] xyxy relative to the image's size; divided in float64 and rounded once, as in REF."""
    labels: np.ndarray
    """int64 [B], classes from 1."""
    num_empty_boxes: int
    """Boxes without area, which were left out: their loss would be infinite."""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def max_boxes(self) -> int:
        """Largest number of boxes in an image."""
        return int(np.diff(self.offsets).max(initial=0))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what training sees of the annotations: it changes when the data set does."""
        digest = hashlib.sha256(repr((self.categories, self.file_names.tolist())).encode())
        for array in (self.image_ids, self.sizes, self.offsets, self.boxes, self.labels):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def path(self, i: int) -> Path:
        """File of image i."""
        return self.image_dir / str(self.file_names[i])

    def boxes_of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Relative xyxy boxes, float32 [G, 4], and classes, int64 [G], of image i."""
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.boxes[rows], self.labels[rows]


def load_split(root: Path, split: str, *, keep_unannotated: bool = False) -> CocoSplit:
    """Read a split, `"train"` or `"val"`, of the COCO folder `root`.

    Crowd boxes stay in, and images without annotations are left out, for training and scoring alike, as in
    REF utils.COCODetection: COCO's val2017 then has 4,952 images.

    Raises:
        InputError: a file is missing, is not COCO's format, or refers to an unknown image or category.
    """
    annotation_file = _find_annotations(root, split)
    image_dir = root / f"{split}2017"
    if not image_dir.is_dir():
        raise InputError(f"no folder {image_dir}: {annotation_file.name} describes its images; unpack them there")
    content = _read_json(annotation_file)
    try:
        packed = _pack(content, annotation_file, image_dir)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"{annotation_file} is not a COCO instances file ({type(error).__name__}: {error}); "
            "it needs images (id, file_name, width, height), annotations (image_id, category_id, bbox) and categories"
        ) from error
    kept = packed if keep_unannotated else _drop_unannotated(packed)
    if not len(kept):
        raise InputError(f"{annotation_file} has no annotated image; nothing to do")
    return kept


def _find_annotations(root: Path, split: str) -> Path:
    names = [f"{prefix}instances_{split}2017.json" for prefix in ("", "bbox_only_")]
    for name in names:
        if (root / "annotations" / name).is_file():
            return root / "annotations" / name
    raise InputError(
        f"no COCO data set at '{root}': give --data a folder with annotations/{names[0]} and {split}2017/, "
        "or use --data shapes for a generated one"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a COCO instances file: it holds a {type(content).__name__}, not an object")
    return content


def _pack(content: dict[str, Any], annotation_file: Path, image_dir: Path) -> CocoSplit:
    images, annotations = content["images"], content["annotations"]
    categories = Categories(
        tuple(int(c["id"]) for c in content["categories"]),
        tuple(str(c["name"]) for c in content["categories"]),
    )
    image_ids = np.array([image["id"] for image in images], np.int64)
    _check_unique(image_ids, "image", annotation_file)
    _check_unique(np.array(categories.ids, np.int64), "category", annotation_file)
    names = [str(image["file_name"]) for image in images]
    for name in names:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise InputError(f"{annotation_file}: file_name '{name}' leaves the image folder; remove that image")
    owner = _positions(image_ids, [a["image_id"] for a in annotations], "image", annotation_file)
    category = _positions(
        np.array(categories.ids, np.int64),
        [a["category_id"] for a in annotations],
        "category",
        annotation_file,
    )
    xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(len(annotations), 4)
    sizes = np.array([(i["width"], i["height"]) for i in images], np.int32).reshape(-1, 2)
    if (sizes <= 0).any():
        raise InputError(f"{annotation_file}: image {image_ids[(sizes <= 0).any(1)][0]} has no width or height")
    with np.errstate(over="ignore", invalid="ignore"):  # such boxes are left out
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        boxes = (corners / np.tile(sizes, 2)[owner]).astype(np.float32)
    # Of the rounded boxes, since those are what the loss divides by; written so that NaN counts as empty.
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1) & np.isfinite(boxes).all(1)
    order = np.flatnonzero(solid)[np.argsort(owner[solid], kind="stable")]
    return CocoSplit(
        annotation_file=annotation_file,
        image_dir=image_dir,
        categories=categories,
        image_ids=image_ids,
        file_names=np.array(names, dtype=np.str_),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner[solid], minlength=len(images)))]),
        boxes=boxes[order],
        labels=category[order] + 1,
        num_empty_boxes=int((~solid).sum()),
    )


def _check_unique(ids: np.ndarray, kind: str, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{path}: {kind} id {values[counts > 1][0]} appears twice; ids must be unique")


def _positions(known: np.ndarray, wanted: list[Any], kind: str, path: Path) -> np.ndarray:
    """Index into `known` of each wanted id, int64."""
    ids = np.array(wanted, np.int64)
    if not len(known):
        raise InputError(f"{path} lists no {kind}")
    order = np.argsort(known)
    found = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    missing = known[found] != ids
    if missing.any():
        raise InputError(f"{path}: an annotation names unknown {kind} {ids[missing][0]}; remove it or add the {kind}")
    return found


def _drop_unannotated(split: CocoSplit) -> CocoSplit:
    """Without the images that no box is left for; the boxes of the others do not move."""
    keep = np.diff(split.offsets) > 0
    return replace(
        split,
        image_ids=split.image_ids[keep],
        file_names=split.file_names[keep],
        sizes=split.sizes[keep],
        offsets=np.concatenate([[0], split.offsets[1:][keep]]),
    )
