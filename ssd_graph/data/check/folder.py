"""Find what is wrong with a COCO folder before training meets it, and write its annotations without all that."""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.cores import usable_cores
from ssd_graph.data.check import problems as p
from ssd_graph.data.check.entries import CheckedImages, check_annotations, check_categories, check_images
from ssd_graph.data.check.problems import Findings, Kind, Problem
from ssd_graph.data.coco import ROBOFLOW, find_annotations, images_of
from ssd_graph.data.decode import FORMATS, decode, orientation, shown_size
from ssd_graph.data.evaluation import pool_of
from ssd_graph.files import write_whole


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """What was found in a split. The counts are of what training would use if all image files were in order."""

    split: str
    annotation_file: Path
    problems: list[Problem]
    quick: bool = False
    """Whether only the images' headers were read."""
    num_images: int = 0
    num_without_boxes: int = 0
    """Images among `num_images` that training and scoring leave out."""
    num_crowd: int = 0
    num_tiny: int = 0
    """Boxes of at most a pixel by a pixel."""
    num_unlisted: int = 0
    """Files in the image folder that the annotations do not name."""
    categories: tuple[tuple[int, str], ...] = ()
    """Ids and names."""
    num_boxes: tuple[int, ...] = ()
    """For each category."""
    cleaned: dict[str, Any] | None = None
    """The annotation file's content without the problems; None if it cannot be read."""


def check_folder(
    root: Path,
    splits: Sequence[str] = ("train", "val"),
    *,
    quick: bool = False,
    workers: int | None = None,
    upright: bool = False,
) -> list[SplitCheck]:
    """Check those of `splits` that have an annotation file.

    Args:
        root: the folder that coco.load_split reads.
        quick: read only the images' headers, which overlooks damage behind them.
        workers: threads that decode, by default one for each core.
        upright: see CocoSplit.

    Raises:
        InputError: no split has an annotation file.
    """
    files = {split: file for split in splits if (file := find_annotations(root, split))}
    if not files:
        wanted = " or ".join(f"annotations/instances_{split}2017.json" for split in splits)
        raise InputError(f"no {wanted} in '{root}'; give the folder that holds annotations/ and the image folders")
    checks = [
        check_split(file, images_of(file, split), split, quick, workers, upright) for split, file in files.items()
    ]
    if len({frozenset(check.categories) for check in checks if check.cleaned}) > 1:
        one, other = ({*check.categories} for check in checks)
        examples = tuple(
            p.printable(f"category {number}, '{name}', is in {check.split} only")
            for check in checks
            for number, name in check.categories
            if (number, name) in one ^ other
        )
        checks[-1].problems.append(Problem(p.OTHER_CATEGORIES, 1, examples[: p.MAX_EXAMPLES]))
    return checks


def check_split(
    file: Path, image_dir: Path, split: str, quick: bool = False, workers: int | None = None, upright: bool = False
) -> SplitCheck:
    """Check an annotation file and the images that it names; a bar shows the progress."""
    findings = Findings()
    content = read_content(file, findings)
    if content is None:
        return SplitCheck(split, file, findings.problems())
    categories = check_categories(content["categories"], findings)
    images = check_images(content["images"], findings, image_dir, upright)
    num_unlisted = _check_files(images, image_dir, quick, upright, workers, findings)
    annotations = check_annotations(content["annotations"], images, categories, findings)
    if not annotations.boxed:
        findings.add(p.NO_BOXES, file.name)
    elif annotations.num_tiny == annotations.num_boxes.total():
        findings.add(p.RELATIVE_BOXES, annotations.cleaned[0]["bbox"] if annotations.cleaned else file.name)
    return SplitCheck(
        split=split,
        annotation_file=file,
        problems=findings.problems(),
        quick=quick,
        num_images=len(images.entries),
        num_without_boxes=len(images.entries.keys() - annotations.boxed),
        num_crowd=annotations.num_crowd,
        num_tiny=annotations.num_tiny,
        num_unlisted=num_unlisted,
        categories=tuple((number, category["name"]) for number, category in categories.items()),
        num_boxes=tuple(annotations.num_boxes[number] for number in categories),
        cleaned={
            **content,
            "images": [image for number, image in images.entries.items() if number not in images.removed],
            "annotations": annotations.cleaned,
            "categories": list(categories.values()),
        },
    )


def write_cleaned(check: SplitCheck, out: Path) -> None:
    """Write the annotations without the problems to `out`.

    Raises:
        InputError: nothing would be left, or `out` is the checked file or cannot be written.
    """
    refuse_input(check.annotation_file, out)
    if check.cleaned is None or not check.cleaned["annotations"]:
        raise InputError(f"no annotation in {check.annotation_file} can be kept; {out} was not written")
    write_whole(out, json.dumps(check.cleaned))


def refuse_input(file: Path, out: Path) -> None:
    """Raise InputError if `out` is `file`, by whatever name."""
    if os.path.exists(out) and os.path.samefile(out, file):
        raise InputError(f"{out} is the file to check, which is never overwritten; choose another name")


def read_content(file: Path, findings: Findings) -> dict[str, Any] | None:
    """What an annotation file holds; None, with a finding, if it is none of COCO's."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return findings.add(p.UNREADABLE, error)
    if not isinstance(content, dict):
        return findings.add(p.UNREADABLE, f"it holds a {type(content).__name__}, not an object")
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            return findings.add(p.UNREADABLE, f"it has no list of {name}")
    return content


def _check_files(
    images: CheckedImages, image_dir: Path, quick: bool, upright: bool, workers: int | None, findings: Findings
) -> int:
    """Add to `images.removed` what has no sound file, and count the files that are not listed."""
    if not os.path.isdir(image_dir):
        findings.add(p.NO_FOLDER, image_dir)
        return 0
    listed = {entry["file_name"] for entry in images.entries.values()} | {ROBOFLOW}  # which lies among the images
    wanted = [number for number in images.entries if number not in images.removed]
    names, sizes = [images.entries[number]["file_name"] for number in wanted], map(images.sizes.__getitem__, wanted)
    with pool_of(workers or usable_cores()) as pool, warnings.catch_warnings(action="ignore"):
        results = pool.map(partial(_examine, image_dir, quick, upright), names, sizes)
        bar = tqdm(results, image_dir.name, len(wanted), leave=False, disable=None, unit="image")
        for number, result in zip(wanted, bar, strict=True):
            if result:
                findings.add(*result)
                if result[0] is not p.TURNED:
                    images.removed.add(number)
    return sum(file.is_file() and file.name not in listed for file in os.scandir(image_dir))


def _examine(
    image_dir: Path, quick: bool, upright: bool, name: str, stated: tuple[int, int]
) -> tuple[Kind, str] | None:
    """What is wrong with an image file, and where."""
    path = image_dir / name
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        return p.MISSING, name
    try:
        with Image.open(path, formats=FORMATS) as image:
            tag, found = orientation(image), shown_size(image, upright)
        if not quick:
            decode(path)
    except Exception as error:  # a hostile file can make a decoder raise anything
        reason = str(error.__cause__ or error).replace(f"'{path}'", "it")
        return p.UNDECODABLE, f"{name}: {reason}"
    if found != stated:
        turned = f", EXIF orientation {tag}" if tag >= 5 and not upright else ""
        return p.WRONG_SIZE, f"{name}: {found[0]}x{found[1]}{turned}, stated as {stated[0]}x{stated[1]}"
    return (p.TURNED, f"{name}: EXIF orientation {tag}") if tag != 1 and not upright else None
