"""COCO annotation files as packed arrays.

A folder holds `annotations/instances_{train,val}2017.json` (or `bbox_only_instances_*`, which MLPerf's
scripts make) beside `train2017/` and `val2017/`. The arrays of 118,000 images take 40 MB, of which the loader's
workers share one copy.
"""

# I images, B boxes of all images

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.config import EmptyImages
from ssd_graph.data.coco_file import Columns, read_columns

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

    def require(self, others: Categories, owner: object, owner_of_others: object, advice: str) -> None:
        """Raise InputError, which ends in `advice`, unless all of `others` are among these by id and name."""
        own = dict(zip(self.ids, self.names, strict=True))
        for number, name in zip(others.ids, others.names, strict=True):
            if own.get(number) != name:
                here = f"'{own[number]}'" if number in own else "not there"
                raise InputError(f"category {number} is '{name}' in {owner_of_others} and {here} in {owner}; {advice}")


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
    num_empty_images: int = 0
    """Images that no box is left for, in the file."""
    empty_images: EmptyImages = "drop"
    """Whether those are among the I."""
    upright: bool = False
    """Whether images are turned as their EXIF orientation says; `sizes` are of the turned ones then."""

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

    def say_empty_images(self) -> list[str]:
        """A line on the images without boxes, if there are any."""
        if not self.num_empty_images:
            return []
        number, file = f"{self.num_empty_images:,}", self.annotation_file.name
        if self.empty_images == "keep":
            return [f"{number} of {len(self):,} images of {file} have no boxes: all that is found on them is false"]
        return [f"left out {number} images of {file} without boxes, as the reference does; or --empty-images keep"]

    def path(self, i: int) -> Path:
        """File of image i."""
        return self.image_dir / str(self.file_names[i])

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image i in pixels, as the annotations give them."""
        width, height = self.sizes[i].tolist()
        return width, height

    def numbered_as(self, categories: Categories, owner: object, advice: str) -> CocoSplit:
        """The split with its classes in the order of the `categories` of `owner`.

        Raises:
            InputError: they are others, by id or by name; it ends in `advice`.
        """
        self.categories.require(categories, self.annotation_file, owner, advice)
        categories.require(self.categories, owner, self.annotation_file, advice)
        classes = np.array([0, *(categories.ids.index(number) + 1 for number in self.categories.ids)])
        return replace(self, categories=categories, labels=classes[self.labels])

    def boxes_of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Relative xyxy boxes, float32 [G, 4], and classes, int64 [G], of image i."""
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.boxes[rows], self.labels[rows]


def find_annotations(root: Path, split: str) -> Path | None:
    """The annotation file of a split, `"train"` or `"val"`, of the COCO folder `root`, if there is one."""
    names = (f"{prefix}instances_{split}2017.json" for prefix in ("", "bbox_only_"))
    return next((file for name in names if (file := root / "annotations" / name).is_file()), None)


def load_split(root: Path, split: str, *, empty_images: EmptyImages = "drop", upright: bool = False) -> CocoSplit:
    """Read a split, `"train"` or `"val"`, of the COCO folder `root`.

    Crowd boxes stay in, and images without boxes are left out unless told otherwise, for training and scoring
    alike, as in REF utils.COCODetection: COCO's val2017 then has 4,952 images.

    Raises:
        InputError: a file is missing or not accepted, see coco_file.read_columns.
    """
    annotation_file = find_annotations(root, split)
    if annotation_file is None:
        raise InputError(
            f"no COCO data set at '{root}': give --data a folder with annotations/instances_{split}2017.json and "
            f"{split}2017/, or use --data shapes for a generated one"
        )
    image_dir = root / f"{split}2017"
    if not image_dir.is_dir():
        raise InputError(f"no folder {image_dir}: {annotation_file.name} describes its images; unpack them there")
    packed = _pack(read_columns(annotation_file), annotation_file, image_dir)
    empty = np.diff(packed.offsets) == 0
    if empty.all():
        raise InputError(f"{annotation_file} has no annotated image; nothing to do")
    kept = _without(packed, empty) if empty_images == "drop" else packed
    return replace(kept, num_empty_images=int(empty.sum()), empty_images=empty_images, upright=upright)


def _pack(columns: Columns, annotation_file: Path, image_dir: Path) -> CocoSplit:
    image_ids, sizes, owner = columns.image_ids, columns.sizes, columns.owners
    xywh = columns.xywh
    with np.errstate(over="ignore", invalid="ignore"):  # such boxes are left out
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        boxes = (corners / np.tile(sizes, 2)[owner]).astype(np.float32)
    # Of the rounded boxes, since those are what the loss divides by; written so that NaN counts as empty.
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1) & np.isfinite(boxes).all(1)
    order = np.flatnonzero(solid)[np.argsort(owner[solid], kind="stable")]
    return CocoSplit(
        annotation_file=annotation_file,
        image_dir=image_dir,
        categories=Categories(tuple(columns.category_ids.tolist()), tuple(columns.category_names.tolist())),
        image_ids=image_ids,
        file_names=columns.file_names,
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner[solid], minlength=len(image_ids)))]),
        boxes=boxes[order],
        labels=columns.owner_categories[order] + 1,
        num_empty_boxes=int((~solid).sum()),
    )


def _without(split: CocoSplit, empty: np.ndarray) -> CocoSplit:
    """Without the images (bool [I]) that have no boxes; those of the others do not move."""
    keep = ~empty
    return replace(
        split,
        image_ids=split.image_ids[keep],
        file_names=split.file_names[keep],
        sizes=split.sizes[keep],
        offsets=np.concatenate([[0], split.offsets[1:][keep]]),
    )
