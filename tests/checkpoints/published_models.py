"""SSD300-ResNet as the published programs build it, so that its state_dict has their names.

Written from the descriptions of those networks and sharing nothing with ssd_graph: plain nn modules, one class for
each of the two layouts.
"""

import torch
from torch import nn

NUM_BOXES = (4, 6, 6, 6, 4, 4)
R34 = {"blocks": (3, 4, 6), "widths": (64, 128, 256), "extra": ((256, 512), (256, 512), *[(128, 256)] * 3)}
NANO = {"blocks": (1, 1, 1), "widths": (16, 32, 64), "extra": ((64, 128), (64, 128), *[(32, 64)] * 3)}


class AscSSD(nn.Module):
    """ASC and NVIDIA: trunk in one Sequential, the norm adds and rectifies, one fused head a feature map."""

    def __init__(self, num_classes, blocks, widths, extra):
        super().__init__()
        self.num_classes = num_classes
        stages = [stage(*shape, FusedBlock) for shape in stage_shapes(blocks, widths)]
        stem = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.model = nn.Sequential(stem, AddRelu(widths[0]), nn.MaxPool2d(3, 2, 1), *stages)
        self.additional_blocks, maps = additional_blocks(widths[-1], extra)
        self.mbox = nn.ModuleList(
            nn.Conv2d(c, n * (4 + num_classes), 3, padding=1) for c, n in zip(maps, NUM_BOXES, strict=True)
        )

    def forward(self, images):
        locs, confs = [], []
        for x, head, n in zip(feature_maps(self, images), self.mbox, NUM_BOXES, strict=True):
            conf, loc = head(x).split([n * self.num_classes, n * 4], dim=1)
            locs.append(loc.reshape(len(x), 4, -1))
            confs.append(conf.reshape(len(x), self.num_classes, -1))
        return torch.cat(locs, 2), torch.cat(confs, 2)


class RefSSD(nn.Module):
    """MLPerf's reference: torchvision's ResNet cut in two Sequentials, two heads a feature map."""

    def __init__(self, num_classes, blocks, widths, extra):
        super().__init__()
        self.num_classes = num_classes
        stages = [stage(*shape, PlainBlock) for shape in stage_shapes(blocks, widths)]
        stem = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.model = nn.Sequential()
        self.model.layer1 = nn.Sequential(
            stem, nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *stages[:2]
        )
        self.model.layer2 = nn.Sequential(stages[2])
        self.additional_blocks, maps = additional_blocks(widths[-1], extra)
        pairs = list(zip(maps, NUM_BOXES, strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, n * 4, 3, padding=1) for c, n in pairs)
        self.conf = nn.ModuleList(nn.Conv2d(c, n * num_classes, 3, padding=1) for c, n in pairs)

    def forward(self, images):
        maps = feature_maps(self, images)
        locs = [head(x).reshape(len(x), 4, -1) for x, head in zip(maps, self.loc, strict=True)]
        confs = [head(x).reshape(len(x), self.num_classes, -1) for x, head in zip(maps, self.conf, strict=True)]
        return torch.cat(locs, 2), torch.cat(confs, 2)


def feature_maps(ssd, images):
    maps = [ssd.model(images)]
    for block in ssd.additional_blocks:
        maps.append(block(maps[-1]))
    return maps


def stage_shapes(blocks, widths):
    """(channels in, channels out, blocks, stride); the third stage does not shrink its map."""
    return zip((widths[0], *widths), widths, blocks, (1, 2, 1), strict=False)


def stage(inputs, outputs, count, stride, block):
    return nn.Sequential(block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(count - 1)))


def additional_blocks(channels, extra):
    """Five blocks and the channels of the six feature maps."""
    maps, result = [channels], []
    for (middle, out), stride, padding in zip(extra, (2, 2, 2, 1, 1), (1, 1, 1, 0, 0), strict=True):
        wide = nn.Conv2d(middle, out, 3, stride, padding)
        result.append(nn.Sequential(nn.Conv2d(maps[-1], middle, 1), nn.ReLU(), wide, nn.ReLU()))
        maps.append(out)
    return nn.ModuleList(result), maps


class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def shortcut(self, x):
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()


class FusedBlock(PlainBlock):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, stride, AddRelu)

    def forward(self, x):
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), self.shortcut(x))


class AddRelu(nn.BatchNorm2d):
    def forward(self, x, shortcut=None):
        y = super().forward(x)
        return (y if shortcut is None else y + shortcut).relu()
