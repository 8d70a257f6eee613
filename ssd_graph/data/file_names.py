"""What the `file_name`s of an annotation file mean: files below the image folder, whoever wrote the names."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def local_names(image_dir: Path, names: Sequence[str]) -> list[str]:
    r"""The names, relative to `image_dir`, of the files that `names` mean.

    Other tools write `images\a.jpg`, `train2017/a.jpg`, `/home/me/coco/a.jpg` or `https://host/a.jpg?size=1`. Where
    there is no such file below `image_dir`, but one with the last part of the name, which no other name ends in, that
    is the one. Names that mean no file stay as they are.
    """
    doubtful = [i for i, name in enumerate(names) if "/" in name or "\\" in name]
    result = list(names)
    count = Counter(map(last_part, names)) if doubtful else Counter()
    for i in doubtful:
        name, last = names[i], last_part(names[i])
        there = not leaves_folder(name) and os.path.isfile(image_dir / name)
        if not there and count[last] == 1 and os.path.isfile(image_dir / last):
            result[i] = last
    return result


def last_part(name: str) -> str:
    """The last part of a path or URL, of whatever system."""
    if re.match(r"https?://", name):
        name = re.split(r"[?#]", name)[0]
    return re.split(r"[/\\]", name)[-1]


def leaves_folder(name: str) -> bool:
    """Whether a name points to a place outside the image folder."""
    return os.path.isabs(name) or (".." in name and ".." in Path(name).parts)
