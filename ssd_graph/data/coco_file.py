"""What is used of a COCO annotation file, as columns; of a large file they are kept for the next run."""

# I images, B annotations, C categories

from __future__ import annotations

import gc
import hashlib
import os
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ssd_graph.cli import InputError, atomic_write
from ssd_graph.data.json_stream import NotJsonError, read_lists

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


def user_cache() -> Path:
    """Folder for what can be made again: `SSD_GRAPH_CACHE`, or `~/.cache/ssd_graph`."""
    return Path(os.environ.get("SSD_GRAPH_CACHE", Path.home() / ".cache" / "ssd_graph"))


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
    lists = _Lists()
    seen = set()
    try:
        with _no_collections():
            for key, entries in read_lists(path, unread="segmentation"):
                seen.add(key)
                if key in _ADD:
                    _ADD[key](lists, entries)
        return lists.columns(seen)
    except (OSError, UnicodeDecodeError, NotJsonError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch the file again") from error
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not a COCO instances file ({type(error).__name__}: {error}); "
            "it needs images (id, file_name, width, height), annotations (image_id, category_id, bbox) and categories"
        ) from error


@contextmanager
def _no_collections() -> Iterator[None]:
    """Spare the collector millions of dictionaries that refer to nothing: a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Lists:
    """Columns that grow, a few bytes an entry."""

    def __init__(self) -> None:
        self.image_ids, self.sizes = array("q"), array("i")
        self.file_names: list[str] = []
        self.owners, self.owner_categories, self.xywh = array("q"), array("q"), array("d")
        self.category_ids = array("q")
        self.category_names: list[str] = []

    def add_images(self, entries: list[dict[str, Any]]) -> None:
        self.image_ids.extend([int(entry["id"]) for entry in entries])
        self.file_names.extend([str(entry["file_name"]) for entry in entries])
        for entry in entries:
            self.sizes.extend((int(entry["width"]), int(entry["height"])))

    def add_annotations(self, entries: list[dict[str, Any]]) -> None:
        self.owners.extend([int(entry["image_id"]) for entry in entries])
        self.owner_categories.extend([int(entry["category_id"]) for entry in entries])
        for entry in entries:
            x, y, width, height = entry["bbox"]
            self.xywh.extend((x, y, width, height))

    def add_categories(self, entries: list[dict[str, Any]]) -> None:
        self.category_ids.extend([int(entry["id"]) for entry in entries])
        self.category_names.extend([str(entry["name"]) for entry in entries])

    def columns(self, seen: set[str]) -> Columns:
        for key in _ADD:
            if key not in seen:
                raise LookupError(f"no list '{key}'")
        return Columns(
            image_ids=np.array(self.image_ids, np.int64),
            file_names=np.array(self.file_names, np.str_),
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            owners=np.array(self.owners, np.int64),
            owner_categories=np.array(self.owner_categories, np.int64),
            xywh=np.array(self.xywh, np.float64).reshape(-1, 4),
            category_ids=np.array(self.category_ids, np.int64),
            category_names=np.array(self.category_names, np.str_),
        )


_ADD = {"images": _Lists.add_images, "annotations": _Lists.add_annotations, "categories": _Lists.add_categories}
