"""The MLPerf reference's mathematics, written again from its description, slowly and plainly.

Nothing here shares code with ssd_graph's graph: loops where that has tensors, two sorts where that has a
threshold, torch.optim.SGD and autograd's own backward where that has flat vectors.
"""

import torch
from torch import nn
from torch.nn import functional as F


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


class TorchvisionStyleSSD(nn.Module):
    """The network in plain nn modules with mutable BatchNorm, for an arbitrary ModelConfig."""

    def __init__(self, config):
        super().__init__()
        c = config.trunk_channels
        layers = [
            nn.Conv2d(3, c[0], 7, 2, 3, bias=False),
            nn.BatchNorm2d(c[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        previous = c[0]
        for channels, blocks, stride in zip(c, config.trunk_blocks, (1, 2, 1), strict=True):
            for b in range(blocks):
                layers.append(_Block(previous, channels, stride if b == 0 else 1))
                previous = channels
        self.trunk = nn.Sequential(*layers)
        self.add = nn.ModuleList()
        sizes = [previous]
        for (mid, out), stride, pad in zip(config.extra_channels, (2, 2, 2, 1, 1), (1, 1, 1, 0, 0), strict=True):
            self.add.append(
                nn.Sequential(nn.Conv2d(sizes[-1], mid, 1), nn.ReLU(), nn.Conv2d(mid, out, 3, stride, pad), nn.ReLU())
            )
            sizes.append(out)
        counts = (4, 6, 6, 6, 4, 4)
        self.loc = nn.ModuleList(nn.Conv2d(s, n * 4, 3, padding=1) for s, n in zip(sizes, counts, strict=True))
        self.conf = nn.ModuleList(
            nn.Conv2d(s, n * config.num_classes, 3, padding=1) for s, n in zip(sizes, counts, strict=True)
        )
        self.num_classes = config.num_classes

    def forward(self, x):
        x = self.trunk(x)
        maps = [x]
        for block in self.add:
            x = block(x)
            maps.append(x)
        loc = torch.cat([h(m).reshape(len(m), 4, -1) for h, m in zip(self.loc, maps, strict=True)], 2)
        conf = torch.cat([h(m).reshape(len(m), self.num_classes, -1) for h, m in zip(self.conf, maps, strict=True)], 2)
        return loc, conf

    def load_ours(self, tensors):
        """Copy weights given by ssd_graph's names, in definition order within trunk, extra and heads."""
        names = list(tensors)
        order = [n for n in names if n.startswith("trunk.")] + [n for n in names if n.startswith("extra.")]
        order += [n for n in names if n.startswith("box_head.")] + [n for n in names if n.startswith("class_head.")]
        own = [n for n in self.state_dict() if not n.endswith("num_batches_tracked")]
        assert len(own) == len(order)
        self.load_state_dict({a: tensors[b] for a, b in zip(own, order, strict=True)}, strict=False)
        return dict(zip(own, order, strict=True))


class _Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
