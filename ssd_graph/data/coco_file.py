"""What is used of a COCO annotation file, as columns; of a large file they are kept for the next run."""

# I images, B annotations, C categories

from __future__ import annotations

import codecs
import hashlib
import json
import mmap
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from zipfile import BadZipFile

import msgspec
import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.files import atomic_write, user_cache

_KEEP_FROM = 1 << 24
"""Bytes of an annotation file from which on its columns are kept; smaller ones are read in less than a second."""
_FORMAT = "ssd_graph columns 1"


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
    """int64 [B]: the image id of each annotation."""
    owner_categories: np.ndarray
    """int64 [B]: its category id."""
    xywh: np.ndarray
    """float64 [B, 4]: its box in pixels."""
    category_ids: np.ndarray
    """int64 [C]."""
    category_names: np.ndarray
    """str [C]."""


def read_columns(path: Path) -> Columns:
    """The columns of `path`.

    Raises:
        InputError: the file cannot be read, or is not COCO's format.
    """
    status = path.stat()
    if status.st_size < _KEEP_FROM:
        return _parse(path)
    kept = user_cache() / f"annotations-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.npz"
    key = f"{_FORMAT} {status.st_size} {status.st_mtime_ns}"
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
            # Mapped, so that the text, 450 MB of COCO's, takes no memory that the system could not have back.
            text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _decode(text[3:] if text[:3] == codecs.BOM_UTF8 else text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch the file again") from error
    except (msgspec.DecodeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not a COCO instances file ({error}); "
            "it needs images (id, file_name, width, height), annotations (image_id, category_id, bbox) and categories"
        ) from error


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: float
    height: float


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class _Category(msgspec.Struct):
    id: int
    name: str


_I = TypeVar("_I")
_A = TypeVar("_A")


class _Content(msgspec.Struct, Generic[_I, _A]):
    images: list[_I]
    annotations: list[_A]
    categories: list[_Category]


_ANNOTATION = np.dtype([("owner", np.int64), ("category", np.int64), ("xywh", np.float64, 4)])


def _decode(text: memoryview) -> Columns:
    try:
        # At first as pieces of the text, of which one at a time is decoded: a train split's would take 300 MB.
        content = msgspec.json.decode(text, type=_Content[msgspec.Raw, msgspec.Raw], strict=False)
        images = map(msgspec.json.Decoder(_Image, strict=False).decode, content.images)
        annotations = map(msgspec.json.Decoder(_Annotation, strict=False).decode, content.annotations)
        return _columns(images, annotations, content.categories)
    except msgspec.DecodeError:
        # Python's own reader, in much memory, knows NaN and Infinity too, and a fault is said with its place.
        loose = msgspec.convert(json.loads(bytes(text)), _Content[_Image, _Annotation], strict=False)
        return _columns(loose.images, loose.annotations, loose.categories)


def _columns(images: Iterable[_Image], annotations: Iterable[_Annotation], categories: list[_Category]) -> Columns:
    ids, names, sizes = array("q"), list[str](), array("i")
    for image in images:
        ids.append(image.id)
        names.append(image.file_name)
        sizes.extend((int(image.width), int(image.height)))
    rows = np.fromiter(((a.image_id, a.category_id, a.bbox) for a in annotations), _ANNOTATION)
    return Columns(
        image_ids=np.array(ids, np.int64),
        file_names=np.array(names, np.str_),
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        owners=rows["owner"],
        owner_categories=rows["category"],
        xywh=rows["xywh"],
        category_ids=np.array([category.id for category in categories], np.int64),
        category_names=np.array([category.name for category in categories], np.str_),
    )
