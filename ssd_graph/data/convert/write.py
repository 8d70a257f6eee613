"""A data set that is written as a COCO folder, and the split that it lacks."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssd_graph.cli import InputError, say_once
from ssd_graph.data.convert.pictures import DataSet, Picture

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""How disks say that they take no links."""


def share_out(data: DataSet, share: float, seed: int) -> None:
    """Make the split that is missing of the one that is there.

    The name of an image, with its folders below the one that holds all, and the seed decide, so that further images
    there move none of the others. The copies that Roboflow makes of an image (`a_jpg.rf.HASH.jpg`) stay together.

    Raises:
        InputError: there is one image only.
    """
    (there,) = data.splits.values()
    keys = {picture.path: _key(name, seed) for picture, name in zip(there, _names(there), strict=True)}
    order = sorted(set(keys.values()))
    if len(order) < 2:
        raise InputError("there are too few images for train and val")
    # One image each, whatever their names.
    limit = min(max(share, order[0]), order[-2])
    chosen = [picture for picture in there if keys[picture.path] <= limit]
    data.splits = {"train": [picture for picture in there if keys[picture.path] > limit], "val": chosen}
    data.notes.append(
        f"val is made of {len(chosen)} of the {len(there)} images, chosen by their names (--val-share {share:g}, "
        f"--seed {seed})"
    )


def _key(name: str, seed: int) -> float:
    """A number from 0 to 1."""
    folders, slash, file = name.rpartition("/")
    original = folders + slash + file.partition(".rf.")[0]
    digest = hashlib.sha256(f"{seed} {original}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def require_new(folder: Path) -> None:
    """Raise InputError if there is something in `folder`."""
    # Unlike Path's functions, these take a name that no folder can have.
    if os.path.islink(folder) or (os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder))):
        raise InputError(f"{folder} is there already; choose another name, or remove it")
    if os.path.ismount(folder) or (os.path.exists(folder) and os.path.samefile(folder, ".")):
        raise InputError(f"{folder} cannot be replaced; name a new folder in it")


def write_coco(data: DataSet, folder: Path, *, copy: bool = False) -> None:
    """Write a settled data set, with links to its images or copies; the folder appears when it is whole.

    Raises:
        InputError: it cannot be written.
    """
    making = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        (making / "annotations").mkdir()
        num_images = num_objects = 0
        for split, pictures in data.splits.items():
            names = _names(pictures)
            content = _content(data, pictures, names, num_images, num_objects)
            num_images, num_objects = num_images + len(pictures), num_objects + len(content["annotations"])
            (making / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
            bar = tqdm(zip(pictures, names, strict=True), split, len(names), leave=False, disable=None, unit="image")
            for picture, name in bar:
                _place(picture.path.absolute(), making / f"{split}2017" / name, copy)
        making.chmod(0o755)
        making.replace(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another place") from error
    finally:
        if making:
            shutil.rmtree(making, ignore_errors=True)


def _names(pictures: list[Picture]) -> list[str]:
    """Names below the image folder: those below the folder that holds all images, so that none meets another."""
    paths = [Path(os.path.abspath(picture.path)) for picture in pictures]
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


def _content(
    data: DataSet, pictures: list[Picture], names: list[str], num_images: int, num_objects: int
) -> dict[str, Any]:
    """The annotation file of a split whose ids begin behind those of the images and objects before."""
    images, annotations = [], []
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True), num_images + 1):
        assert picture.size
        width, height = picture.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for thing in picture.objects:
            x1, y1, x2, y2 = thing.xyxy
            annotations.append(
                {
                    "id": num_objects + len(annotations) + 1,
                    "image_id": number,
                    "category_id": thing.category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1) if thing.area is None else thing.area,
                    "iscrowd": int(thing.crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in sorted(data.categories.items())]
    return {"images": images, "annotations": annotations, "categories": categories}


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            target.symlink_to(source)
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            say_once("this disk takes no links: the images are copied")
    shutil.copyfile(source, target)
