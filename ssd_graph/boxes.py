"""Box arithmetic, written once for numpy on the host and torch in the graph.

A box has four numbers in its last axis: xyxy is (left, top, right, bottom), cxcywh is (centre x, centre y,
width, height). `xp` is the array library, `numpy` or `torch`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np


def cxcywh_to_xyxy(boxes_cxcywh: Any, xp: ModuleType = np) -> Any:
    """Corners of boxes [..., 4]; same dtype and unit as given."""
    cx, cy, w, h = (boxes_cxcywh[..., i] for i in range(4))
    return xp.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), -1)


def xyxy_to_cxcywh(boxes_xyxy: Any, xp: ModuleType = np) -> Any:
    """Centres and sizes of boxes [..., 4]; same dtype and unit as given."""
    x1, y1, x2, y2 = (boxes_xyxy[..., i] for i in range(4))
    return xp.stack((0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1), -1)


def area(boxes_xyxy: Any) -> Any:
    """Areas [...] of boxes [..., 4]."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def iou(boxes_a: Any, boxes_b: Any, xp: ModuleType = np) -> Any:
    """Intersection over union [..., A, B] of xyxy boxes [..., A, 4] and [..., B, 4].

    The order of operations and the areas taken from corners are REF utils.calc_iou_tensor's: in float32 a
    different order moves ground truths with nearly tied default boxes to another one. Two boxes of zero
    area give 0/0.
    """
    a, b = boxes_a[..., :, None, :], boxes_b[..., None, :, :]
    width = xp.clip(xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0]), 0, None)
    height = xp.clip(xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1]), 0, None)
    intersection = width * height
    return intersection / (area(a) + area(b) - intersection)
