"""Host side of the pipeline: decode, SSD crop, resize to uint8, and the draws of what the graph does later.

`preprocess` is the one definition of an evaluation input; training validation and the onnxruntime
evaluator both call it, always on Pillow's pixels.
"""

# G boxes of an image

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from ssd_graph.boxes import area
from ssd_graph.cli import InputError
from ssd_graph.config import IMAGE_SIZE, AugmentConfig
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.jpeg import decode_rows, find_frame

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's decoders of photographs. It has others that should not meet a stranger's file: EPS runs Ghostscript."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises where an image cannot be decoded."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image of each EXIF orientation becomes upright."""

HUE_SLOT = 3
"""The hue shift comes before this one of an image's colour blends, so that up to three can lie on each side."""

NUM_BLENDS = 2 * HUE_SLOT
"""Colour blends an image goes through."""

_MIN_IOUS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, float("-inf"))
"""The seven equally likely demands on a crop; None asks for no crop at all."""


PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels."""


class ColourJitter(NamedTuple):
    """One image's colour change, carried out in augment.py."""

    blends: np.ndarray
    """float32 [NUM_BLENDS, 3]: a factor, and 1 for what the image is blended with, its luma or its mean luma; for
    black neither."""
    hue: float
    """Shift in turns."""


def decode(path: Path, size: tuple[int, int] | None = None, *, upright: bool = False) -> Image.Image:
    """Decode an image file to RGB; greyscale, palette, CMYK and 16-bit files are converted.

    Args:
        size: width and height that the image must have, any if None; looked at before anything is decoded.
        upright: turn it as its EXIF orientation says, before its size is looked at; else the tag is ignored.

    Raises:
        InputError: the file is missing, is not a readable image, has more than 16 bits, or another size.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            require_size(image, size, upright)
            return to_rgb(image, upright=upright)
    except UNREADABLE as error:
        raise InputError(f"cannot decode {path}: {error}; replace the file or leave it out") from error


def decode_part(path: Path, size: tuple[int, int], num_rows: int, *, upright: bool = False) -> np.ndarray:
    """The upper rows of `decode`, uint8 RGB [num_rows, width, 3], without decoding all that lies below.

    Raises:
        InputError: as `decode`; damage below the last row may go unnoticed.
    """
    try:
        data = read_file(path)
        frame = find_frame(data)
        if frame and (frame.width, frame.height) == size and not (upright and _is_turned(data)):
            return decode_rows(data, frame, num_rows)
    except (OSError, ValueError):
        pass  # for Pillow to name what is wrong
    return np.array(decode(path, size, upright=upright))[:num_rows]


def read_file(path: Path) -> memoryview:
    """A file's bytes, to be changed by whoever asked for them."""
    with open(path, "rb", buffering=0) as file:
        data = np.empty(os.fstat(file.fileno()).st_size, np.uint8).data
        return data[: file.readinto(data)]


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image: 1 is upright, 5 to 8 lie on a side; 1 if the tag makes no sense."""
    try:
        tag: Any = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a stranger's tags can make their reader raise anything
        return 1
    return int(tag) if tag in range(1, 9) else 1


def shown_size(image: Image.Image, upright: bool) -> tuple[int, int]:
    """Width and height of an image that was opened and not yet loaded, as stored or turned as its orientation says."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # whose `size` may be turned already
        width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
    return (height, width) if upright and orientation(image) >= 5 else (width, height)


def require_size(image: Image.Image, wanted: tuple[int, int] | None, upright: bool = False) -> None:
    """Raise ValueError if an opened image, turned upright or not, does not have the wanted width and height."""
    if wanted is None or (found := shown_size(image, upright)) == tuple(wanted):
        return
    tag = orientation(image)
    turned = f"; it is stored turned (EXIF orientation {tag}), --upright turns it" if tag >= 5 and not upright else ""
    raise ValueError("it has {} x {} pixels, the annotations say {} x {}".format(*found, *wanted) + turned)


def _is_turned(jpeg: memoryview) -> bool:
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return orientation(image) != 1


def to_rgb(image: Image.Image, *, upright: bool = False) -> Image.Image:
    """RGB of an image of whatever mode; of 16 bits a channel the upper 8 are taken, as OpenCV does.

    `upright` turns it as its EXIF orientation says; of the tags no other is looked at.

    Raises:
        ValueError: it has more than 16 bits; others of UNREADABLE: its pixels were not yet read, and cannot be.
    """
    is_tiff = isinstance(image, TiffImageFile)
    tag = orientation(image) if upright != is_tiff else 1
    if is_tiff:  # Pillow turns it as it is loaded, which is to be undone
        tag = {6: 8, 8: 6}.get(tag, tag)
    if tag != 1:
        image = image.transpose(_TURNS[tag])
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("it has 32 bits a pixel and no range that means white; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow itself would cut off all levels above 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns unless it goes through RGBA
        image = image.convert("RGBA")
    return image.convert("RGB")


def preprocess(image: Image.Image) -> np.ndarray:
    """The whole image as uint8 RGB [300, 300, 3], antialiased bilinear, aspect ratio not kept (REF val transform)."""
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))


def evaluation_input(split: CocoSplit, i: int) -> np.ndarray:
    """Image i as evaluation gives it to the network, uint8 RGB [300, 300, 3].

    Raises:
        InputError: as `decode`; the size must be the annotations'.
    """
    return preprocess(decode(split.path(i), split.size(i), upright=split.upright))


def random_crop(
    rng: np.random.Generator, boxes_xyxy: np.ndarray, labels: np.ndarray, attempts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw an SSD crop (SSD paper section 2.2; REF utils.SSDCropping).

    A crop has sides of 0.3 to 1 of the image and an aspect of 0.5 to 2. Every box must overlap it by more
    than the drawn IoU; boxes whose centre lies inside stay, clipped, and at least one must.

    Args:
        boxes_xyxy: float32 [G, 4], relative to the image, G >= 1.
        labels: int64 [G].
        attempts: crops tried before the demand is drawn again.

    Returns:
        The crop as float64 xyxy [4] relative to the image, and its boxes (relative to the crop) and labels.
    """
    rows = boxes_xyxy.tolist()
    draws = _uniform(rng)
    while True:
        min_iou = _MIN_IOUS[int(next(draws) * len(_MIN_IOUS))]
        if min_iou is None:
            return np.array([0.0, 0.0, 1.0, 1.0]), boxes_xyxy, labels
        for _ in range(attempts):
            crop = _draw_crop(draws)
            if crop and all(_iou(row, crop) > min_iou for row in rows):
                clipped, kept = _clip(boxes_xyxy, crop)
                if kept.any():
                    return np.array(crop), clipped[kept], labels[kept]


def _clip(boxes_xyxy: np.ndarray, crop: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 [G, 4] cut to a crop and relative to it, and which of them, bool [G], have their centre inside."""
    left, top, right, bottom = crop
    low, high = np.array((left, top, left, top)), np.array((right, bottom, right, bottom))
    clipped = ((np.minimum(np.maximum(boxes_xyxy, low), high) - low) / (high - low)).astype(np.float32)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * 0.5
    # A sliver can lose its area to rounding; such a box would make the loss infinite.
    return clipped, ((centres > low[:2]) & (centres < high[:2])).all(1) & (area(clipped) > 0)


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    """Numbers from [0, 1), many at a time: a call for each takes longer than all that is done with it."""
    while True:
        yield from rng.random(64).tolist()


def _draw_crop(draws: Iterator[float]) -> tuple[float, float, float, float] | None:
    """A crop's relative xyxy, None if its aspect is out of bounds."""
    width, height = 0.3 + 0.7 * next(draws), 0.3 + 0.7 * next(draws)
    left, top = (1.0 - width) * next(draws), (1.0 - height) * next(draws)
    return (left, top, left + width, top + height) if 0.5 <= width / height <= 2.0 else None


def _iou(box: list[float], crop: tuple[float, float, float, float]) -> float:
    """boxes.iou of two boxes; plain numbers, since a crop often fails at its first box."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = crop
    intersection = max(0.0, min(x2, right) - max(x1, left)) * max(0.0, min(y2, bottom) - max(y1, top))
    return intersection / ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - intersection)


def pixel_box(crop: np.ndarray, size: tuple[int, int]) -> PixelBox:
    """`crop` [4] (relative xyxy) in pixels of an image of `size`: whole pixels rounded down as in REF, at least one."""
    width, height = size
    x1, y1, x2, y2 = crop.tolist()
    left, top = int(x1 * width), int(y1 * height)
    return left, top, max(int(x2 * width), left + 1), max(int(y2 * height), top + 1)


def draw_colour_jitter(rng: np.random.Generator, config: AugmentConfig) -> ColourJitter:
    """Draw brightness, contrast, saturation and hue changes in random order (REF: torchvision ColorJitter).

    Brightness b blends the image with black, contrast c with its mean luma and saturation s with its luma,
    each as `other + factor * (image - other)`; so all three are rows of one table.
    """

    def factor(strength: float) -> float:
        return float(rng.uniform(1.0 - strength, 1.0 + strength))

    brightness, contrast, saturation = (factor(s) for s in (config.brightness, config.contrast, config.saturation))
    hue = float(rng.uniform(-config.hue, config.hue))
    rows = ((brightness, 0.0, 0.0), (contrast, 0.0, 1.0), (saturation, 1.0, 0.0))
    order = rng.permutation(4).tolist()
    hue_position = order.index(3)
    blends = [(1.0, 0.0, 0.0)] * NUM_BLENDS
    for position, change in enumerate(order):
        if change < 3:
            # Behind the hue shift, `position` is at least 1.
            blends[position if position < hue_position else position + HUE_SLOT - 1] = rows[change]
    return ColourJitter(np.array(blends, np.float32), hue)
