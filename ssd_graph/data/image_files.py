"""Image files: which ones a folder holds, and whether those of a split are what its annotations say."""

import os
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.decode import FORMATS, UNREADABLE, orientation, require_size, shown_size
from ssd_graph.data.evaluation import pool_of

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm"),
)


def find_images(arguments: Sequence[str | Path], results: Path | None = None) -> list[Path]:
    """The image files that arguments name: files as they are, folders and what is below them or linked there, globs.

    Hidden files are none: macOS puts a `._a.jpg` without an image beside each `a.jpg`. Nor is what lies in a hidden
    folder, such as `.ipynb_checkpoints`, or in the folder `results`.

    Raises:
        InputError: an argument names no image.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
            found[path] = None
            continue
        names = files_below(path) if os.path.isdir(path) else map(Path, glob(str(argument), recursive=True))
        images = sorted(p for p in names if is_image(p) and p.is_file())
        if results is not None:
            images = [p for p in images if not p.resolve().is_relative_to(results.resolve())]
        if not images:
            raise InputError(f"no image at '{argument}'; give image files, a folder of them, or a glob in quotes")
        found.update(dict.fromkeys(images))
    return list(found)


def is_image(file: Path) -> bool:
    """Whether its name is an image's, and not a hidden one."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def files_below(folder: Path) -> Iterator[Path]:
    """Files below a folder and not in a hidden one; of links to one folder, or in a circle, the first is followed."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names)


def require_images(split: CocoSplit) -> list[str]:
    """Raise InputError, which names the first one, if images are not there or of another size than stated.

    Only headers are read: seconds for thousands of images. A terminal shows the progress.

    Returns:
        What their user should know of them, a line each.
    """
    turned: list[int] = []

    def fault(i: int) -> str | None:
        try:
            with Image.open(split.path(i), formats=FORMATS) as image:
                require_size(image, split.size(i), split.upright)
                # With it, the image would still have this size.
                if not split.upright and orientation(image) != 1 and shown_size(image, True) == split.size(i):
                    turned.append(i)
        except UNREADABLE as error:
            return f"{split.path(i)}: {error}"
        return None

    with pool_of(2 * usable_cores()) as pool:
        bar = tqdm(pool.map(fault, range(len(split))), "images", len(split), leave=False, disable=None, unit="image")
        faults = [found for found in bar if found]
    name = split.annotation_file.name
    if faults:
        raise InputError(
            f"{len(faults)} of {len(split)} images of {name} cannot be used, the first is {faults[0]}; "
            f"`python tools/check_coco.py {split.image_dir.parent}` lists them"
        )
    if not turned:
        return []
    return [
        f"{len(turned)} of {len(split)} images of {name} are stored turned or mirrored (EXIF orientation) and read so; "
        "--upright turns them"
    ]
