"""Are all images of a split there, and of the size that the annotations say? Headers only: seconds for thousands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from PIL import Image
from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.transforms import FORMATS, require_size


def require_images(split: CocoSplit) -> None:
    """Raise InputError, which names the first one, if images cannot be used; a terminal shows the progress."""

    def fault(i: int) -> str | None:
        try:
            with Image.open(split.path(i), formats=FORMATS) as image:
                require_size(image, split.size(i), split.upright)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{split.path(i)}: {error}"
        return None

    with ThreadPoolExecutor(2 * usable_cores()) as pool:
        bar = tqdm(pool.map(fault, range(len(split))), "images", len(split), leave=False, disable=None, unit="image")
        faults = [found for found in bar if found]
    if faults:
        raise InputError(
            f"{len(faults)} of {len(split)} images of {split.annotation_file.name} cannot be used, the first is "
            f"{faults[0]}; `python tools/check_coco.py {split.image_dir.parent}` lists them"
        )
