"""What is accepted as a COCO annotation file, for training, scoring and every other command alike.

A file becomes columns whose rows refer to each other by position; its ids are kept for results and decide nothing. Of a
large file the columns are kept for the next run.
"""

# I images, B annotations, C categories

import codecs
import hashlib
import json
import math
import mmap
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Generic, TypeVar
from zipfile import BadZipFile

import msgspec
import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.files import atomic_write, user_cache

_KEEP_FROM = 1 << 24
"""Bytes of an annotation file from which on its columns are kept; smaller ones are read in less than a second."""
_FORMAT = "ssd_graph columns 3"


LARGEST_AREA = 1e10
"""Pixels; COCO's numbers leave out an object with a larger area, or with a negative one."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of the three lists, in file order."""

    image_ids: np.ndarray
    """int64 [I]."""
    file_names: np.ndarray
    """str [I]."""
    sizes: np.ndarray
    """int32 [I, 2]: width and height."""
    owners: np.ndarray
    """int64 [B]: the row of each annotation's image."""
    owner_categories: np.ndarray
    """int64 [B]: the row of its category."""
    xywh: np.ndarray
    """float64 [B, 4]: its box in pixels; NaN and infinity are possible."""
    areas: np.ndarray
    """float64 [B]: of the object in pixels, which chooses its class of size; the box's where the file says
    nothing, null, NaN, or what COCO would leave out."""
    crowds: np.ndarray
    """bool [B]: whether it stands for a crowd of objects."""
    category_ids: np.ndarray
    """int64 [C]."""
    category_names: np.ndarray
    """str [C]."""


def read_columns(path: Path) -> Columns:
    """The columns of `path`.

    Raises:
        InputError: the file cannot be read, is not COCO's format, or refers to an unknown image or category; the
            entry is named.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if status.st_size < _KEEP_FROM:
        return _parse(path)
    kept = user_cache() / f"annotations-{hashlib.sha256(bytes(path.resolve())).hexdigest()[:16]}.npz"
    # A copy that keeps the time may be another file of the same size.
    key = f"{_FORMAT} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    columns = _load(kept, key)
    if columns is None:
        columns = _parse(path)
        _keep(kept, key, columns, path)
    return columns


def _load(kept: Path, key: str) -> Columns | None:
    try:
        with kept.open("rb") as file, np.load(file) as arrays:
            if str(arrays["key"]) == key:
                return Columns(**{name: arrays[name] for name in Columns.__slots__})
    except (OSError, EOFError, ValueError, LookupError, BadZipFile):
        pass  # absent or damaged: it is written anew
    return None


def _keep(kept: Path, key: str, columns: Columns, path: Path) -> None:
    try:
        with atomic_write(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(key), **{name: getattr(columns, name) for name in Columns.__slots__})
    except InputError as error:
        sys.stderr.write(f"{path} is parsed in each run: {error.__cause__}; set SSD_GRAPH_CACHE to another folder\n")


def _parse(path: Path) -> Columns:
    try:
        with path.open("rb") as file:
            text = _mapped(file)
        return _decode(text[3:] if text[:3] == codecs.BOM_UTF8 else text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds bytes that are not UTF-8; save it in that encoding") from error
    except (OSError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch the file again") from error
    except (msgspec.DecodeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not a COCO instances file ({error}); "
            "it needs images (id, file_name, width, height), annotations (image_id, category_id, bbox) and categories"
        ) from error


def _mapped(file: BinaryIO) -> memoryview:
    """The text of a file; mapped, 450 MB of COCO's take no memory that the system could not have back."""
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError:  # some network disks map nothing
        return memoryview(file.read())


Id = Annotated[int, msgspec.Meta(ge=1 - 2**63, le=2**63 - 1)]
"""Whole numbers may be written as 5, 5.0 or "5"."""

Side = Annotated[int, msgspec.Meta(lt=2**31)]


class ImageEntry(msgspec.Struct, gc=False):
    """What is read of an image."""

    id: Id
    file_name: str
    width: Side
    height: Side


class AnnotationEntry(msgspec.Struct, gc=False):
    """What is read of an object."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Annotated[int, msgspec.Meta(ge=0, le=1)] | bool | None = None


class CategoryEntry(msgspec.Struct):
    """What is read of a category."""

    id: Id
    name: str


_I = TypeVar("_I")
_A = TypeVar("_A")


class _Content(msgspec.Struct, Generic[_I, _A]):
    images: list[_I]
    annotations: list[_A]
    categories: list[CategoryEntry]


_ANNOTATION = np.dtype(
    [("owner", np.int64), ("category", np.int64), ("xywh", np.float64, 4), ("area", np.float64), ("crowd", np.bool_)]
)


def _decode(text: memoryview) -> Columns:
    try:
        # At first as pieces of the text, of which one at a time is decoded: a train split's would take 300 MB.
        content = msgspec.json.decode(text, type=_Content[msgspec.Raw, msgspec.Raw], strict=False)
        images = map(msgspec.json.Decoder(ImageEntry, strict=False).decode, content.images)
        annotations = map(msgspec.json.Decoder(AnnotationEntry, strict=False).decode, content.annotations)
        # In what nobody reads, msgspec takes any bytes. Python's reader and other programs do not.
        for _ in codecs.iterdecode((bytes(text[i : i + 2**20]) for i in range(0, len(text), 2**20)), "utf-8"):
            pass
        return _columns(images, annotations, content.categories)
    except msgspec.DecodeError:
        # Python's own reader, in much memory, knows NaN and Infinity too, and a fault is said with its place.
        loose = msgspec.convert(json.loads(bytes(text)), _Content[ImageEntry, AnnotationEntry], strict=False)
        return _columns(loose.images, loose.annotations, loose.categories)


def _columns(
    images: Iterable[ImageEntry], annotations: Iterable[AnnotationEntry], categories: list[CategoryEntry]
) -> Columns:
    ids, names, sizes = array("q"), list[str](), array("i")
    for image in images:
        ids.append(image.id)
        names.append(image.file_name)
        sizes.extend((image.width, image.height))
    rows = np.fromiter(
        (
            (a.image_id, a.category_id, a.bbox, math.nan if a.area is None else a.area, bool(a.iscrowd))
            for a in annotations
        ),
        _ANNOTATION,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        areas = rows["xywh"][:, 2:].clip(0).prod(1).clip(max=LARGEST_AREA)
    areas = np.where((rows["area"] >= 0) & (rows["area"] <= LARGEST_AREA), rows["area"], areas)
    image_ids, shapes = np.array(ids, np.int64), np.array(sizes, np.int32).reshape(-1, 2)
    if (bad := (shapes <= 0).any(1)).any():
        raise InputError(f"image {image_ids[bad][0]} has no width or height")
    category_ids = np.array([category.id for category in categories], np.int64)
    return Columns(
        image_ids=image_ids,
        file_names=np.array(names, np.str_),
        sizes=shapes,
        owners=_rows(image_ids, rows["owner"], "image"),
        owner_categories=_rows(category_ids, rows["category"], "category"),
        xywh=rows["xywh"],
        areas=areas,
        crowds=rows["crowd"],
        category_ids=category_ids,
        category_names=np.array([category.name for category in categories], np.str_),
    )


def _rows(known: np.ndarray, ids: np.ndarray, kind: str) -> np.ndarray:
    """The row of `known` that each id stands in, int64; InputError if there is none or more than one."""
    if not len(known):
        raise InputError(f"it lists no {kind}")
    order = np.argsort(known, kind="stable")
    if len(repeated := np.flatnonzero(np.diff(known[order]) == 0)):
        raise InputError(f"{kind} id {known[order[repeated[0]]]} appears twice; ids must be unique")
    found = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    if len(missing := np.flatnonzero(known[found] != ids)):
        i = int(missing[0])
        raise InputError(f"annotation number {i + 1} names unknown {kind} {ids[i]}; remove it or add the {kind}")
    return found
