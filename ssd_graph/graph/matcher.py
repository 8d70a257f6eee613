"""Ground truth boxes -> a class and a box for each default box, inside the graph (REF utils.Encoder.encode)."""

# N images, G ground truths (padded), A default boxes

from typing import NamedTuple

import torch
from torch import Tensor

from ssd_graph.boxes import corners, iou_of_corners, split, xyxy_to_cxcywh
from ssd_graph.graph.default_boxes import encode

POSITIVE_IOU = 0.5
"""A default box with an IoU strictly above this is positive (SSD paper section 2.2)."""


class Targets(NamedTuple):
    """What the network should have said."""

    boxes: Tensor
    """Encoded boxes [N, 4, A] (x, y, w, h); 0 where the class is background."""
    labels: Tensor
    """int64 [N, A], 0 is background."""


def match(boxes_xyxy: Tensor, labels: Tensor, defaults_cxcywh: Tensor, dtype: torch.dtype) -> Targets:
    """Assign ground truths to default boxes; the assignment is made in float32, the encoding in `dtype`.

    Each ground truth takes the default box it overlaps most (the lowest index among equals), whatever that
    overlap; where two take the same one the later ground truth wins, as in REF on the CPU. Every other
    default box takes the ground truth it overlaps most if the IoU is above 0.5.

    Args:
        boxes_xyxy: float32 [N, G, 4] relative to the image; every labelled box has an area.
        labels: int64 [N, G], 0 is padding.
        defaults_cxcywh: float32 [A, 4].
    """
    overlaps = iou_of_corners(split(boxes_xyxy, (2, 2), xp=torch), corners(defaults_cxcywh, torch), torch)  # [N, G, A]
    favourite = torch.where(labels > 0, overlaps.max(dim=2).indices, -1)  # [N, G]
    anchors = torch.arange(0, defaults_cxcywh.shape[0], 1, device=labels.device)
    forced = favourite[:, :, None] == anchors
    # One maximum then decides both rules: a forced match scores above any IoU, and more so for a later g.
    later = torch.arange(2, 2 + labels.shape[1], 1, dtype=overlaps.dtype, device=labels.device)
    score, owner = torch.where(forced, later[:, None], overlaps).max(dim=1)  # [N, A]

    positive = score > POSITIVE_IOU
    matched = xyxy_to_cxcywh(boxes_xyxy, torch).gather(1, owner[:, :, None].expand(-1, -1, 4))
    # A background default box is its own target: zero, where an encoded padding box would be infinite.
    matched = torch.where(positive[:, :, None], matched, defaults_cxcywh)
    return Targets(
        boxes=encode(matched.to(dtype), defaults_cxcywh.to(dtype), torch).transpose(1, 2),
        labels=torch.where(positive, labels.gather(1, owner), 0),
    )
