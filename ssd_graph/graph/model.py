"""SSD300: trunk, five extra blocks and two heads on each of six feature maps (REF ssd300.SSD300)."""

# N images, A = 8732 default boxes, C classes, S cells a side of a feature map

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_graph.cli import InputError
from ssd_graph.config import SSD300_BOXES, ModelConfig
from ssd_graph.graph.resnet import Trunk

_EXTRA_STRIDES = (2, 2, 2, 1, 1)


class SSD300(nn.Module):
    """The detector without its postprocessing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.trunk_blocks, config.trunk_channels)
        channels = [config.trunk_channels[-1], *(out for _, out in config.extra_channels)]
        self.extra = nn.ModuleList(
            _extra_block(channels[i], *config.extra_channels[i], stride) for i, stride in enumerate(_EXTRA_STRIDES)
        )
        per_cell = SSD300_BOXES.num_per_cell
        self.box_head = nn.ModuleList(_head(c, n * 4) for c, n in zip(channels, per_cell, strict=True))
        self.class_head = nn.ModuleList(
            _head(c, n * config.num_classes) for c, n in zip(channels, per_cell, strict=True)
        )
        for module in (*self.extra.modules(), *self.box_head, *self.class_head):
            if isinstance(module, nn.Conv2d):
                # Biases keep PyTorch's default: REF initialises only parameters of more than one dimension.
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A] and class logits [N, C, A] of normalised images [N, 3, 300, 300].

        A head's channel is `coordinate * num_per_cell + box` (or class instead of coordinate), so that
        flattening gives REF's anchor order.
        """
        features = [self.trunk(images)]
        for block in self.extra:
            features.append(block(features[-1]))
        boxes, classes = zip(*(self._heads(level, f) for level, f in enumerate(features)), strict=True)
        return torch.cat(boxes, 2), torch.cat(classes, 2)

    def _heads(self, level: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A'] and class logits [N, C, A'] of one level's features [N, D, S, S]."""
        box_head, class_head = cast(nn.Conv2d, self.box_head[level]), cast(nn.Conv2d, self.class_head[level])
        if not self.training:
            boxes, classes = box_head(features), class_head(features)
        else:  # one convolution reads the features once, and tensor cores want channels in multiples of 8
            sizes = [box_head.out_channels, class_head.out_channels]
            sizes.append(-sum(sizes) % 8)
            weight = torch.cat(
                [box_head.weight, class_head.weight, features.new_zeros(sizes[2], features.shape[1], 3, 3)]
            )
            bias = torch.cat([cast(Tensor, box_head.bias), cast(Tensor, class_head.bias), features.new_zeros(sizes[2])])
            boxes, classes, _ = F.conv2d(features, weight, bias, padding=1).split(sizes, 1)
        num_images = features.shape[0]
        return boxes.reshape(num_images, 4, -1), classes.reshape(num_images, self.config.num_classes, -1)


def refit_heads(tensors: Mapping[str, Tensor], target: SSD300) -> dict[str, Tensor]:
    """A state_dict for `target` to learn other categories from: its own heads, all else from `tensors`.

    Both heads start anew, as when the seed fine-tunes, although the box head would fit any number of categories.

    Raises:
        InputError: a tensor is missing or of another shape, since `tensors` are of another preset.
    """
    result = target.state_dict()
    for name, tensor in result.items():
        if name.startswith(("box_head.", "class_head.")):
            continue
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise InputError(f"the checkpoint's '{name}' does not fit {target.config.preset}; choose its --preset")
        result[name] = tensors[name]
    return result


class _ExtraBlock(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        for conv in self:
            input = F.relu(conv(input))
        return input


def _extra_block(in_channels: int, mid: int, out: int, stride: int) -> _ExtraBlock:
    # The last two blocks shrink their map by leaving out the padding instead of by stride.
    return _ExtraBlock(nn.Conv2d(in_channels, mid, 1), nn.Conv2d(mid, out, 3, stride, padding=stride - 1))


def _head(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
