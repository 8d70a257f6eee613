"""Outputs of a raw model that another program computed: two files an image, or a batch, in one folder."""

# N images, A default boxes, C classes

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.data.coco import CocoSplit
from ssd_graph.graph.default_boxes import default_boxes

_FORMS = (("_ploc.npy", "_plabel.npy"), ("_0.npy", "_1.npy"), ("_ploc.bin", "_plabel.bin"), ("_0.bin", "_1.bin"))
"""What a folder's names end in, behind the image's: ours, those of ais_bench, and without numpy's header."""


class Outputs(NamedTuple):
    """Where those of an image are."""

    ploc: Path
    plabel: Path
    row: int | None = None
    """Of files that hold a batch."""


def output_files(folder: Path, split: CocoSplit, limit: int | None = None) -> list[Outputs]:
    """The files with `ploc` and `plabel` of each image, named after the image's file without its folder and ending.

    Where none has an image's name, files that end in "_ploc.npy" are batches: in the order of their names they hold
    the images of `split` in the order of the annotations; what the last one has beyond them is left out.

    Args:
        limit: of how many of the first images; None for all.

    Raises:
        InputError: the folder or a file is missing, or it is not clear which file is meant.
    """
    stems = [Path(name).stem for name in split.file_names[:limit].tolist()]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise InputError(f"{split.annotation_file} has several images named {twice[0]}; outputs are found by that name")
    try:
        names = {file.name for file in folder.iterdir()}
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}; give --outputs another") from error
    forms = [form for form in _FORMS if any(stem + end in names for stem in stems for end in form)]
    if len(forms) > 1:
        kinds = " and ".join(f"*{form[0]}" for form in forms)
        raise InputError(f"{folder} has {kinds}; leave one kind of files in it")
    ends = forms[0] if forms else _FORMS[0]
    batches = sorted(name.removesuffix(ends[0]) for name in names if name.endswith(ends[0]))
    if not forms and batches:
        if batches != sorted(
            batches, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]
        ):
            raise InputError(f"{folder}: batches are read in the order of their names; number them 01, 02 ... 11")
        return _rows([(folder / (name + ends[0]), folder / (name + ends[1])) for name in batches], split, limit)
    files = [Outputs(folder / (stem + ends[0]), folder / (stem + ends[1])) for stem in stems]
    missing = [file.name for each in files for file in each[:2] if file.name not in names]
    if missing:
        raise InputError(f"no file {folder / missing[0]}: {len(missing)} of {2 * len(files)} files are missing")
    return files


def _rows(batches: list[tuple[Path, Path]], split: CocoSplit, limit: int | None) -> list[Outputs]:
    """Of each image, those in files of batches."""
    rows, last = list[Outputs](), 0
    for ploc, plabel in batches:
        try:
            last = len(_mapped(ploc))
        except _UNREADABLE as error:
            raise InputError(_advice(ploc, error)) from error
        rows += [Outputs(ploc, plabel, row) for row in range(last)]
    has = f"{batches[0][0].parent} has outputs of {len(rows)} images in batches"
    listed = len(split) + split.num_empty_images
    unsure = split.empty_images == "drop" and listed > len(split)
    # Of the first images only; not where these could be the first of all, with those that are left out.
    enough = len(split) if unsure else len(split.file_names[:limit])
    if not any(count <= len(rows) < count + last for count in (enough, len(split))):
        raise InputError(
            f"{has}, {len(split)} are scored; name files after images, or make them of these images in the order of "
            "the annotations"
        )
    if unsure and listed <= len(rows) < listed + last:
        raise InputError(
            f"{has}, which may be all {listed} or the {len(split)} with boxes, which are scored: give --empty-images "
            "keep for all; for those with boxes, do not fill up the last batch"
        )
    return rows[: len(split)][:limit]


def read_batches(
    files: list[Outputs], num_classes: int, batch_size: int, fingerprint: Any
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Which images are in a batch, int64 [N], and their `ploc` [N, 4, A] and `plabel` [N, C, A] in float32.

    Args:
        fingerprint: a hash that the numbers are added to, in image order.

    Raises:
        InputError: a file holds something else.
    """
    num_boxes = len(default_boxes())
    for start in range(0, len(files), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(files)))
        group = [files[i] for i in chosen]
        ploc = np.stack([_read(each.ploc, (4, num_boxes), each.row) for each in group])
        plabel = np.stack([_read(each.plabel, (num_classes, num_boxes), each.row) for each in group])
        for numbers in (*ploc, *plabel):
            fingerprint.update(numbers)
        yield chosen, ploc, plabel


_UNREADABLE = (OSError, ValueError)


def _read(file: Path, shape: tuple[int, int], row: int | None) -> np.ndarray:
    """The numbers of a file, or of a row of it, float32 of `shape`."""
    try:
        numbers = _load_bin(file, shape) if file.suffix == ".bin" else _load_npy(file, shape, row)
        if not np.isfinite(numbers).all():
            raise ValueError("holds numbers that are not finite")
    except _UNREADABLE as error:
        raise InputError(_advice(file, error)) from error
    return numbers


def _advice(file: Path, error: BaseException) -> str:
    return f"{file}: {error}; make it again, as docs/outputs.md says"


def _mapped(file: Path) -> np.ndarray:
    """An array that is not read yet, so that a header which claims terabytes takes no memory."""
    with warnings.catch_warnings(action="ignore"):
        try:
            found: Any = np.load(file, mmap_mode="r")
        except OSError:
            raise
        except Exception as error:  # numpy parses the header as Python: a tokenizer's errors, an integer's, any
            raise ValueError("is damaged, or not an array of numpy") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("is an archive, not an array")
    if not found.ndim:
        raise ValueError("is a single number, not an array")
    return found


def _load_npy(file: Path, shape: tuple[int, int], row: int | None) -> np.ndarray:
    found = _mapped(file)
    if row is not None:
        if found.ndim != 3 or row >= len(found):
            raise ValueError(f"has the shape {list(found.shape)}, not that of a batch, {['N', *shape]}")
        found = found[row]
    if found.dtype.kind != "f" or found.dtype.itemsize > 4:
        raise ValueError(f"holds {found.dtype}, not float32 or float16")
    if found.shape not in (shape, (1, *shape)):
        raise ValueError(f"has the shape {list(found.shape)}, not {list(shape)}")
    return np.array(found, np.float32).reshape(shape)


def _load_bin(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Of a file without a header: its size tells which of the two types it holds."""
    count, size = shape[0] * shape[1], file.stat().st_size
    kinds = {4 * count: "<f4", 2 * count: "<f2"}
    if size not in kinds:
        wanted = " or ".join(f"{bytes_:,} ({kind})" for bytes_, kind in zip(kinds, ("float32", "float16"), strict=True))
        raise ValueError(f"has {size:,} bytes, not {wanted} of {list(shape)}")
    return np.fromfile(file, kinds[size]).astype(np.float32).reshape(shape)
