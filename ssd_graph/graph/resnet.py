"""ResNet trunk up to conv4_x with stride 8 (He et al., arXiv 1512.03385; REF base_model.ResNet34).

Names are torchvision's, so that its ImageNet weights load by name.
"""

# N images, C channels

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_graph.config import Freeze


class BatchNorm2d(nn.Module):
    """Batch normalisation that hands on its batch's statistics instead of blending them into the running ones.

    In training the buffers are replaced, never mutated. Under `functional_call` the replacements come back in the
    caller's dictionary, so that running statistics are one flat blend, `MOMENTUM` of the way, for all layers.
    """

    EPS = 1e-5
    MOMENTUM = 0.1

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.EPS)
        y, _, _, self.running_mean, self.running_var = torch.ops.aten._native_batch_norm_legit_functional(
            x, self.weight, self.bias, self.running_mean, self.running_var, True, 1.0, self.EPS
        )
        return y


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


STAGES: dict[Freeze, tuple[str, ...]] = {
    "none": (),
    "stem": ("conv1", "bn1"),
    "layer1": ("conv1", "bn1", "layer1"),
    "layer2": ("conv1", "bn1", "layer1", "layer2"),
    "trunk": ("conv1", "bn1", "layer1", "layer2", "layer3"),
}
"""The trunk's modules up to a stage."""


class Trunk(nn.Module):
    """conv1 to conv4_x; conv4_x keeps conv3_x's resolution, so the output has stride 8."""

    frozen: Freeze = "none"

    def __init__(self, blocks: tuple[int, int, int], channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(channels[0])
        self.layer1 = _stage(channels[0], channels[0], blocks[0], stride=1)
        self.layer2 = _stage(channels[0], channels[1], blocks[1], stride=2)
        self.layer3 = _stage(channels[1], channels[2], blocks[2], stride=1)
        for module in self.modules():
            # Of a skeleton on `meta` torch would load its compiler, for seconds, to draw nothing.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def freeze(self, stage: Freeze) -> None:
        """Normalise by the running statistics up to `stage`, and give nothing of that a gradient."""
        self.frozen = stage
        for name in STAGES[stage]:
            self.get_submodule(name).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, C, 38, 38] of images [N, 3, 300, 300]."""
        # The same numbers as pooling after the ReLU, on a quarter of the elements, forwards and backwards.
        x = self._cut("stem", F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 3, stride=2, padding=1)))
        x = self._cut("layer1", self.layer1(x))
        x = self._cut("layer2", self.layer2(x))
        return self._cut("trunk", self.layer3(x))

    def _cut(self, stage: Freeze, x: Tensor) -> Tensor:
        return x.detach() if stage == self.frozen else x


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
