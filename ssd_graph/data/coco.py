"""COCO annotation files as packed arrays.

A folder holds `annotations/instances_{train,val}2017.json` (or `bbox_only_instances_*`, which MLPerf's
scripts make) beside `train2017/` and `val2017/`; or, as Roboflow exports it, `train/` and `valid/` with the images
and an `_annotations.coco.json` each. The arrays of 118,000 images take 40 MB, of which the loader's
workers share one copy.
"""

# I images, B boxes of all images

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.config import EmptyImages
from ssd_graph.data.coco_file import Columns, read_columns
from ssd_graph.data.file_names import leaves_folder, local_names

ROBOFLOW = "_annotations.coco.json"
"""Name of the annotation file among the images in Roboflow's layout."""

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

    def require(self, others: "Categories", owner: object, owner_of_others: object, advice: str) -> None:
        """Raise InputError, which ends in `advice`, unless all of `others` are among these by id and name."""
        own = dict(zip(self.ids, self.names, strict=True))
        for number, name in zip(others.ids, others.names, strict=True):
            if own.get(number) != name:
                here = f"'{own[number]}'" if number in own else "not there"
                raise InputError(f"category {number} is '{name}' in {owner_of_others} and {here} in {owner}; {advice}")


EDGE_TOLERANCE = 1.0
"""Pixels that a box may reach over its image's edge, since published boxes are rounded."""

MIN_SIDE = 1e-6
"""Of boxes, relative to the image; below, a box mirrored to where float32 has steps of 6e-8 could lose its area."""


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
    doubts: tuple[str, ...] = ()
    """Remarks on what is accepted, and may not be what its writer meant."""
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

    def categories_without_boxes(self) -> list[str]:
        """Names of the categories that nothing can be learnt of."""
        counts = np.bincount(self.labels, minlength=self.categories.num_classes)[1:]
        return [name for name, count in zip(self.categories.names, counts, strict=True) if not count]

    def remarks(self) -> list[str]:
        """What its user should know of how it was read, a line each."""
        lines, file = list(self.doubts), self.annotation_file.name
        number = f"{self.num_empty_images:,}"
        if self.num_empty_images and self.empty_images == "keep":
            lines.append(
                f"{number} of {len(self):,} images of {file} have no boxes: all that is found on them is false"
            )
        elif self.num_empty_images:
            lines.append(
                f"left out {number} images of {file} without boxes, as the reference; --empty-images keep uses them"
            )
        if self.num_empty_boxes:
            lines.append(
                f"{self.num_empty_boxes:,} boxes of {file} have no area, or are not finite: training leaves them out, "
                "scoring counts those without area as missed"
            )
        return lines

    def path(self, i: int) -> Path:
        """File of image i."""
        return self.image_dir / str(self.file_names[i])

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image i in pixels, as the annotations give them."""
        width, height = self.sizes[i].tolist()
        return width, height

    def numbered_as(self, categories: Categories, owner: object, advice: str) -> "CocoSplit":
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

    def part(self, images: slice) -> "CocoSplit":
        """The split of some images in a row."""
        begin, end, _ = images.indices(len(self))
        arrays = {name: getattr(self, name)[images] for name in ("image_ids", "file_names", "sizes")}
        return replace(self, **arrays, offsets=self.offsets[begin : end + 1])


def find_annotations(root: Path, split: str) -> Path | None:
    """The annotation file of a split, `"train"` or `"val"`, of the COCO folder `root`, if there is one."""
    files = [root / "annotations" / f"{prefix}instances_{split}2017.json" for prefix in ("", "bbox_only_")]
    files.append(root / {"val": "valid"}.get(split, split) / ROBOFLOW)
    # Unlike Path.is_file, this is False for a name that no file can have.
    return next((file for file in files if os.path.isfile(file)), None)


def images_of(annotation_file: Path, split: str) -> Path:
    """The folder of a split's images."""
    if annotation_file.name == ROBOFLOW:
        return annotation_file.parent
    return annotation_file.parent.parent / f"{split}2017"


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
    image_dir = images_of(annotation_file, split)
    if not os.path.isdir(image_dir):
        raise InputError(f"no folder {image_dir}: {annotation_file.name} describes its images; unpack them there")
    columns = read_columns(annotation_file)
    names, renamed = _local_names(columns.file_names.tolist(), annotation_file, image_dir)
    columns = replace(columns, file_names=names)
    packed = _pack(columns, annotation_file, image_dir)
    empty = np.diff(packed.offsets) == 0
    if empty.all():
        raise InputError(f"{annotation_file} has no annotated image; nothing to do")
    kept = _without(packed, empty) if empty_images == "drop" else packed
    num_empty, doubts = int(empty.sum()), (*renamed, *_doubts(columns, annotation_file.name))
    return replace(kept, num_empty_images=num_empty, empty_images=empty_images, doubts=doubts, upright=upright)


def _doubts(columns: Columns, file: str) -> Iterator[str]:
    """What makes training or an AP worthless, if it is not meant so."""
    names, counts = np.unique(columns.file_names, return_counts=True)
    if len(names) < len(columns.file_names):
        yield (
            f"{(counts > 1).sum():,} files stand in {file} as more than one image, such as "
            f"{str(names[counts.argmax()])!r}: boxes of one entry are background in the others, in training and scoring"
        )
    del names, counts
    over = np.zeros(len(columns.xywh), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        for axis in (0, 1):  # one after the other, for the sake of memory
            begin, length, size = columns.xywh[:, axis], columns.xywh[:, axis + 2], columns.sizes[:, axis]
            over |= (-begin > EDGE_TOLERANCE) | (begin + length - size[columns.owners] > EDGE_TOLERANCE)
        areas, boxes = (values[~columns.crowds] for values in (columns.areas, columns.xywh[:, 2:].prod(1)))
    if num_over := int(over.sum()):
        yield (
            f"{num_over:,} boxes of {file} reach beyond their image; bbox is left, top, width and height in pixels; "
            "tools/check_coco.py lists them"
        )
    if len(areas) > 1 and (areas == areas[0]).all() and not (boxes == boxes[0]).all():
        yield f"every area of {file} is {areas[0]:g}: its AP for small, medium and large objects says nothing"


def _local_names(names: list[str], annotation_file: Path, image_dir: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The names of the files that are meant, and a remark if they are others."""
    found = local_names(image_dir, names)
    for name in found:
        if leaves_folder(name):
            raise InputError(f"{annotation_file}: file_name '{name}' leaves the image folder; remove that image")
    others = [(name, local) for name, local in zip(names, found, strict=True) if name != local]
    many = f"{len(others)} images of {annotation_file.name}"
    remarks = (f"{many} are found by the last part of their names: {b}, not {a!r}" for a, b in others[:1])
    return np.array(found, np.str_), tuple(remarks)


def _pack(columns: Columns, annotation_file: Path, image_dir: Path) -> CocoSplit:
    image_ids, sizes, owner = columns.image_ids, columns.sizes, columns.owners
    xywh = columns.xywh
    with np.errstate(over="ignore", invalid="ignore"):  # such boxes are left out
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        boxes = (corners / np.tile(sizes, 2)[owner]).astype(np.float32)
        # Of the rounded boxes, since those are what the loss divides by; written so that NaN counts as empty.
        solid = (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(1) & np.isfinite(boxes).all(1)
    order = np.flatnonzero(solid)[np.argsort(owner[solid], kind="stable")]
    if len(order) and (xywh[order, 2:] <= 1).all():
        raise InputError(
            f"{annotation_file} has no box larger than a pixel; bbox is left, top, width and height in pixels, not in "
            "shares of the image"
        )
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
    arrays = {name: getattr(split, name)[~empty] for name in ("image_ids", "file_names", "sizes")}
    return replace(split, **arrays, offsets=np.concatenate([[0], split.offsets[1:][~empty]]))
