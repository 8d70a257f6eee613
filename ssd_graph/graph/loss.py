"""MultiBox loss with hard negative mining, in static shapes (SSD paper section 2.2; REF base_model.Loss)."""

# N images, A default boxes, C classes

from typing import NamedTuple

import torch
from torch import Tensor

from ssd_graph.graph.matcher import Targets

NEGATIVES_PER_POSITIVE = 3


class Metrics(NamedTuple):
    """A rank's numbers of one step, scalars on the device: batch means, the first the sum of the next two."""

    loss: Tensor
    box_loss: Tensor
    class_loss: Tensor
    num_positive: Tensor
    """Positive default boxes of the batch, in the loss's dtype."""


def multibox_loss(box_regression: Tensor, class_logits: Tensor, targets: Targets) -> Metrics:
    """Smooth L1 on positives plus cross entropy on positives and mined negatives.

    Each image's sum is divided by its number of positives; an image without positives contributes 0 but
    still counts in the mean over the batch.

    Args:
        box_regression: [N, 4, A], float32 or float64.
        class_logits: [N, C, A], same dtype.
    """
    positive = (targets.labels > 0).to(class_logits.dtype)  # [N, A]
    num_positive = positive.sum(1)  # [N]
    # A masked sum, exact since all terms but one are zero: the backward pass of indexing or gathering is a scatter
    # into zeros, which inductor does not fuse with what follows.
    classes = torch.arange(0, class_logits.shape[1], 1, device=class_logits.device)[:, None]
    wanted = classes == targets.labels[:, None]  # [N, C, A]
    cross_entropy = -torch.where(wanted, class_logits.log_softmax(1), 0.0).sum(1)  # [N, A]
    weight = positive + mine_negatives(cross_entropy.detach(), positive, num_positive)
    classification = (cross_entropy * weight).sum(1)
    box = (smooth_l1(box_regression - targets.boxes).sum(1) * positive).sum(1)

    # Without positives both sums are zero already, and so is the number of mined negatives.
    scale = 1.0 / (num_positive.clamp_min(1.0) * num_positive.shape[0])
    box, classification = (box * scale).sum(), (classification * scale).sum()
    return Metrics(box + classification, box, classification, num_positive.sum())


def mine_negatives(cross_entropy: Tensor, positive: Tensor, num_positive: Tensor) -> Tensor:
    """Weights [N, A] that pick the 3P hardest negatives of each image, P being its positives.

    REF ranks by two sorts and takes the first 3P. Here the value of rank 3P is the threshold, and anchors
    tied at it share what is left of the 3P equally: the loss is the same number, but the gradient does not
    depend on the order a device's sort gives to equal losses, which plain backgrounds produce.

    As in REF positives rank as loss 0, so with 3P above the number of negatives (P > 2183) some positives
    are counted a second time.
    """
    hardness = torch.where(positive > 0.0, 0.0, cross_entropy)
    wanted = (NEGATIVES_PER_POSITIVE * num_positive).clamp(max=hardness.shape[1])[:, None]
    ranked = hardness.sort(1, descending=True).values
    threshold = ranked.gather(1, (wanted - 1.0).clamp_min(0.0).long())
    harder = (hardness > threshold).to(hardness.dtype)
    tied = (hardness == threshold).to(hardness.dtype)
    return harder + tied * ((wanted - harder.sum(1, keepdim=True)) / tied.sum(1, keepdim=True))


def smooth_l1(difference: Tensor) -> Tensor:
    """Huber loss with its corner at 1; written out because torchair has no converter for aten's."""
    size = difference.abs()
    return torch.where(size < 1.0, 0.5 * difference * difference, size - 0.5)
