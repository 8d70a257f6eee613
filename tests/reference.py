"""The MLPerf reference's mathematics, written again from its description, slowly and plainly.

Nothing here shares code with ssd_graph's graph: loops where that has tensors, two sorts where that has a
threshold, torch.optim.SGD and autograd's own backward where that has flat vectors.
"""

import torch
from torch.nn import functional as F

from tests.checkpoints.published_models import RefSSD


def iou(a, b):
    """IoU of two corner boxes, as Python floats of float32 arithmetic."""
    a, b = a.float(), b.float()
    w = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp(min=0)
    h = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp(min=0)
    inter = w * h
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def encode(boxes, labels, defaults):
    """Un-encoded matched boxes (cx, cy, w, h) [A, 4] and labels [A] of one image's ground truths."""
    corners = torch.stack(
        [
            defaults[:, 0] - 0.5 * defaults[:, 2],
            defaults[:, 1] - 0.5 * defaults[:, 3],
            defaults[:, 0] + 0.5 * defaults[:, 2],
            defaults[:, 1] + 0.5 * defaults[:, 3],
        ],
        1,
    )
    table = torch.stack([torch.stack([iou(box, corner) for corner in corners]) for box in boxes])  # [G, A]
    return match_table(table, boxes, labels, defaults)


def match_table(table, boxes, labels, defaults):
    """The matching rules on a table of IoUs [G, A]."""
    num_defaults = table.shape[1]
    best_value = [max(float(table[g, a]) for g in range(len(boxes))) for a in range(num_defaults)]
    best_truth = [
        next(g for g in range(len(boxes)) if float(table[g, a]) == best_value[a]) for a in range(num_defaults)
    ]
    for g in range(len(boxes)):
        row = table[g].tolist()
        favourite = row.index(max(row))
        best_value[favourite], best_truth[favourite] = 2.0, g
    out_boxes, out_labels = defaults.clone(), torch.zeros(num_defaults, dtype=torch.int64)
    for a in range(num_defaults):
        if best_value[a] > 0.5:
            x1, y1, x2, y2 = boxes[best_truth[a]]
            out_boxes[a] = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
            out_labels[a] = labels[best_truth[a]]
    return out_boxes, out_labels


def loss(box_regression, class_logits, truth_cxcywh, truth_labels, defaults):
    """Reference loss of box regression [N, 4, A], logits [N, C, A], matched boxes [N, 4, A], labels [N, A]."""
    d = defaults.to(box_regression.dtype).t()[None]
    target = torch.cat(
        [10 * (truth_cxcywh[:, :2] - d[:, :2]) / d[:, 2:], 5 * (truth_cxcywh[:, 2:] / d[:, 2:]).log()], 1
    )
    mask = truth_labels > 0
    positives = mask.sum(1)
    sl1 = (F.smooth_l1_loss(box_regression, target, reduction="none").sum(1) * mask).sum(1)
    con = F.cross_entropy(class_logits, truth_labels, reduction="none")
    negative = con.detach().clone()
    negative[mask] = 0
    rank = negative.sort(1, descending=True).indices.sort(1).indices
    negative_mask = rank < (3 * positives).clamp(max=mask.shape[1])[:, None]
    closs = (con * (mask.to(con.dtype) + negative_mask.to(con.dtype))).sum(1)
    total = (sl1 + closs) * (positives > 0) / positives.clamp(min=1e-6)
    return total.mean()


def network(config):
    """MLPerf's network in plain nn modules with mutable BatchNorm, for an arbitrary ModelConfig."""
    return RefSSD(config.num_classes, config.trunk_blocks, config.trunk_channels, config.extra_channels)


def load_ours(model, tensors):
    """Copy weights given by ssd_graph's names, in the order of definition; the pairs of names."""
    prefixes = ("trunk.", "extra.", "box_head.", "class_head.")
    order = [name for prefix in prefixes for name in tensors if name.startswith(prefix)]
    own = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    names = dict(zip(own, order, strict=True))
    model.load_state_dict({theirs: tensors[ours] for theirs, ours in names.items()}, strict=False)
    return names
