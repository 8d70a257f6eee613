"""What training does to a decoded image on the host: the SSD crop, and the draws of what the graph does later."""

# G boxes of an image

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ssd_graph.boxes import area
from ssd_graph.config import AugmentConfig

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
    strengths = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (float(rng.uniform(1.0 - s, 1.0 + s)) for s in strengths)
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
