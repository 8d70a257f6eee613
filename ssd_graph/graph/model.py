"""SSD300: trunk, five extra blocks and two heads on each of six feature maps (REF ssd300.SSD300)."""

# N images, A = 8732 default boxes, A' those of one level, C classes, S cells a side of a feature map

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_graph.cli import InputError
from ssd_graph.config import SSD300_BOXES, ModelConfig
from ssd_graph.graph.resnet import Trunk

_EXTRA_STRIDES = (2, 2, 2, 1, 1)


class JointHead(NamedTuple):
    """Both heads of one level as one convolution, which reads the features once: the box head's channels come first."""

    weight: Tensor
    bias: Tensor

    def padded(self, multiple: int) -> "JointHead":
        """With zeros behind its channels up to a multiple: tensor cores want 8."""
        num = -len(self.bias) % multiple
        return JointHead(F.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, num)), F.pad(self.bias, (0, num))) if num else self


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

    def forward(self, images: Tensor, heads: Sequence[JointHead] | None = None) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A] and class logits [N, C, A] of normalised images [N, 3, 300, 300].

        A head's channel is `coordinate * num_per_cell + box` (or class instead of coordinate), so that
        flattening gives REF's anchor order.

        Args:
            heads: each level's, in place of the module's own; they may be padded.
        """
        features = [self.trunk(images)]
        for block in self.extra:
            features.append(block(features[-1]))
        if heads is None:
            boxes = [_flat(head(f), 4) for head, f in zip(self.box_head, features, strict=True)]
            classes = [
                _flat(head(f), self.config.num_classes) for head, f in zip(self.class_head, features, strict=True)
            ]
            return torch.cat(boxes, 2), torch.cat(classes, 2)
        sizes = (4, self.config.num_classes)
        levels = zip(features, heads, SSD300_BOXES.num_per_cell, strict=True)
        joint = [_flat(_first(F.conv2d(f, *head, padding=1), sum(sizes) * n), sum(sizes)) for f, head, n in levels]
        boxes, classes = torch.cat(joint, 2).split(sizes, 1)
        return boxes, classes


def _first(maps: Tensor, num: int) -> Tensor:
    """The first channels of [N, num or more, S, S]; a slice would have a scatter as its gradient, a split has none."""
    return maps if maps.shape[1] == num else maps.split((num, maps.shape[1] - num), 1)[0]


def _flat(maps: Tensor, num: int) -> Tensor:
    """A level's head outputs [N, num * num_per_cell, S, S] by default box, [N, num, A']."""
    return maps.reshape(maps.shape[0], num, -1)


def skeleton(config: ModelConfig) -> SSD300:
    """The network on torch's device `meta`: names, shapes and operations, and no memory."""
    with torch.device("meta"):
        return SSD300(config)


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
