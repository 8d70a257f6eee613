"""Box arithmetic, written once for numpy on the host and torch in the graph.

A box has four numbers in its last axis: xyxy is (left, top, right, bottom), cxcywh is (centre x, centre y,
width, height). `xp` is the array library, `numpy` or `torch`.
"""

from types import ModuleType
from typing import Any

import numpy as np


def cxcywh_to_xyxy(boxes_cxcywh: Any, xp: ModuleType = np) -> Any:
    """Corners of boxes [..., 4]; same dtype and unit as given."""
    return xp.concatenate(corners(boxes_cxcywh, xp), -1)


def corners(boxes_cxcywh: Any, xp: ModuleType = np) -> tuple[Any, Any]:
    """Upper left and lower right corners [..., 2] of boxes [..., 4]."""
    centre, size = split(boxes_cxcywh, (2, 2), xp=xp)
    return centre - 0.5 * size, centre + 0.5 * size


def xyxy_to_cxcywh(boxes_xyxy: Any, xp: ModuleType = np) -> Any:
    """Centres and sizes of boxes [..., 4]; same dtype and unit as given."""
    low, high = split(boxes_xyxy, (2, 2), xp=xp)
    return xp.concatenate((0.5 * (low + high), high - low), -1)


def split(boxes: Any, sizes: tuple[int, ...], axis: int = -1, xp: ModuleType = np) -> Any:
    """Runs of coordinates along `axis`; one operation in the graph, where indexing takes one for each."""
    return np.split(boxes, np.cumsum(sizes)[:-1], axis) if xp is np else xp.split(boxes, sizes, axis)


def area(boxes_xyxy: Any) -> Any:
    """Areas [...] of boxes [..., 4]."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def iou(boxes_a: Any, boxes_b: Any, xp: ModuleType = np) -> Any:
    """Intersection over union [..., A, B] of xyxy boxes [..., A, 4] and [..., B, 4].

    Two boxes of zero area give 0/0.
    """
    return iou_of_corners(split(boxes_a, (2, 2), xp=xp), split(boxes_b, (2, 2), xp=xp), xp)


def iou_of_corners(a: tuple[Any, Any], b: tuple[Any, Any], xp: ModuleType = np) -> Any:
    """`iou` of boxes given as their corners, which a graph need not put together to take apart again.

    The order of operations and the areas taken from corners are REF utils.calc_iou_tensor's: in float32 a
    different order moves ground truths with nearly tied default boxes to another one.
    """
    (ax1, ay1), (ax2, ay2) = (split(corner, (1, 1), xp=xp) for corner in a)  # [..., A, 1]
    (bx1, by1), (bx2, by2) = (split(corner.swapaxes(-1, -2), (1, 1), -2, xp) for corner in b)  # [..., 1, B]
    width = xp.clip(xp.minimum(ax2, bx2) - xp.maximum(ax1, bx1), 0, None)
    height = xp.clip(xp.minimum(ay2, by2) - xp.maximum(ay1, by1), 0, None)
    intersection = width * height
    return intersection / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection)
