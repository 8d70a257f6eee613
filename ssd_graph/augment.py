"""Device side of the pipeline: flip, colour jitter, normalisation, layout and dtype.

The jitter is the reference's (torchvision ColorJitter on PIL images) in floating point; the reference
rounds to uint8 after each change, which moves a pixel by about half a level.
"""

# N images, G boxes an image, H = W = 300

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_graph.config import PIXEL_MEAN, PIXEL_STD, AugmentConfig
from ssd_graph.loader import Batch
from ssd_graph.transforms import NUM_BLENDS

_LUMA = (0.299, 0.587, 0.114)
"""Weights of ITU-R 601, which PIL's conversion to greyscale uses."""


def augment(batch: Batch, config: AugmentConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normalised images `dtype` [N, 3, H, W] and boxes xyxy float32 [N, G, 4] of a training batch."""
    images = batch.images.permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)
    boxes = batch.boxes
    if config.flip_probability:
        images = torch.where(batch.flip.view(-1, 1, 1, 1), images.flip(3), images)
        boxes = torch.where(batch.flip.view(-1, 1, 1), flip_boxes(boxes), boxes)
    if config.jitters_colour:
        images = jitter_colour(images, batch.blends.to(dtype), batch.hue.to(dtype))
    return normalise(images), boxes


def normalise(images: Tensor) -> Tensor:
    """Levels 0 to 255 of RGB [N, 3, H, W] to zero mean and unit variance of ImageNet."""
    return (images - _channels([m * 255 for m in PIXEL_MEAN], images)) * _channels(
        [1 / (s * 255) for s in PIXEL_STD], images
    )


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    """A constant [3, 1, 1], one value a colour channel; filled in, since a literal would be copied to the device."""
    return torch.cat([torch.full((1, 1, 1), value, dtype=like.dtype, device=like.device) for value in values])


def flip_boxes(boxes_xyxy: Tensor) -> Tensor:
    """Boxes [..., 4] relative to an image, mirrored left to right with it."""
    x1, y1, x2, y2 = boxes_xyxy.split((1, 1, 1, 1), -1)
    return torch.cat((1.0 - x2, y1, 1.0 - x1, y2), -1)


def jitter_colour(images: Tensor, blends: Tensor, hue: Tensor) -> Tensor:
    """Apply `ColourJitter`s (`blends` [N, 6, 3], `hue` [N] in turns) to RGB levels [N, 3, H, W]."""
    weights = blends.view(-1, NUM_BLENDS * 3, 1, 1).split((1,) * (NUM_BLENDS * 3), 1)
    for slot in range(NUM_BLENDS):
        if slot == NUM_BLENDS // 2:
            images = _shift_hue(images, hue.view(-1, 1, 1, 1))
        images = _blend(images, *weights[3 * slot : 3 * slot + 3])
    return images


def _blend(images: Tensor, of_image: Tensor, of_luma: Tensor, of_mean: Tensor) -> Tensor:
    """Weighted sum of an image, its luma and its mean luma, clamped to levels; weights [N, 1, 1, 1]."""
    red, green, blue = images.split((1, 1, 1), 1)
    luma = (red * _LUMA[0]).add(green, alpha=_LUMA[1]).add(blue, alpha=_LUMA[2])
    other = torch.addcmul(luma * of_luma, luma.mean((2, 3), keepdim=True), of_mean)
    return torch.addcmul(other, images, of_image).clamp(0.0, 255.0)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of RGB levels [N, 3, H, W] by `turns` [N, 1, 1, 1], keeping HSV's value and saturation."""
    red, green, blue = images.split((1, 1, 1), 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    # Each channel is `value` less a trapezoid of the hue whose top lies two sixths from the other channels'.
    position = (sixths + 6.0 * turns + _channels((5.0, 3.0, 1.0), images)).remainder(6.0)
    return value - chroma * torch.minimum(position, 4.0 - position).clamp(0.0, 1.0)
