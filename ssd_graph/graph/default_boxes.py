"""The 8732 default boxes, and the encoding of boxes relative to them.

An anchor's index within a feature map is `box * S * S + row * S + column`: the order in which the heads'
NCHW outputs are flattened (REF base_model.SSD300.bbox_view), not the cell-major order of most SSD codes.
"""

# A = 8732 default boxes

from types import ModuleType
from typing import Any

import numpy as np

from ssd_graph.boxes import split
from ssd_graph.config import IMAGE_SIZE, SSD300_BOXES


def default_boxes() -> np.ndarray:
    """Default boxes as float32 cxcywh [A, 4], relative to the image (REF utils.DefaultBoxes).

    Centres lie at (index + 0.5) * step / 300, which is not (index + 0.5) / S for 38, 10 and 5 cells, and
    centre and size are clamped to [0, 1] while the corners are not: 2,221 boxes stick out of the image.
    Computed in float64 and rounded once.
    """
    levels = []
    for k, (cells, step) in enumerate(zip(SSD300_BOXES.feature_sizes, SSD300_BOXES.steps, strict=True)):
        centre = (np.arange(cells) + 0.5) / (IMAGE_SIZE / step)
        cy, cx = np.meshgrid(centre, centre, indexing="ij")
        for w, h in _sizes(k):
            levels.append(np.stack([cx, cy, np.full_like(cx, w), np.full_like(cx, h)], -1).reshape(-1, 4))
    return np.concatenate(levels).clip(0.0, 1.0).astype(np.float32)


def _sizes(level: int) -> list[tuple[float, float]]:
    """Relative (width, height) of the default boxes of a level, in head-channel order."""
    scale, next_scale = (SSD300_BOXES.scales[k] / IMAGE_SIZE for k in (level, level + 1))
    between = (scale * next_scale) ** 0.5
    sizes = [(scale, scale), (between, between)]
    for ratio in SSD300_BOXES.aspect_ratios[level]:
        root = ratio**0.5
        sizes += [(scale * root, scale / root), (scale / root, scale * root)]
    return sizes


def encode(boxes_cxcywh: Any, defaults_cxcywh: Any, xp: ModuleType = np) -> Any:
    """Regression targets [..., A, 4] of boxes [..., A, 4] against default boxes [A, 4] (SSD paper eq. 2)."""
    (box_xy, box_wh), (default_xy, default_wh) = (split(b, (2, 2), xp=xp) for b in (boxes_cxcywh, defaults_cxcywh))
    centre = (box_xy - default_xy) / default_wh / SSD300_BOXES.scale_xy
    size = xp.log(box_wh / default_wh) / SSD300_BOXES.scale_wh
    return xp.concatenate((centre, size), -1)


def decode(regression: Any, defaults_cxcywh: Any, xp: ModuleType = np) -> Any:
    """Boxes cxcywh [..., A, 4] from regression output [..., A, 4]; the inverse of `encode`."""
    centre = regression[..., :2] * SSD300_BOXES.scale_xy * defaults_cxcywh[..., 2:] + defaults_cxcywh[..., :2]
    size = xp.exp(regression[..., 2:] * SSD300_BOXES.scale_wh) * defaults_cxcywh[..., 2:]
    return xp.concatenate((centre, size), -1)
