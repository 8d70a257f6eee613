"""Device side of the pipeline: flip, colour jitter, normalisation, layout and dtype.

The jitter is the reference's, which is torchvision's ColorJitter on Pillow images: with Pillow's arithmetic, and
levels cut off to whole numbers behind each change. They stay uint8 between changes; float32 computes them exactly.
"""

# N images, G boxes an image, H = W = 300

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_graph.config import PIXEL_MEAN, PIXEL_STD, AugmentConfig
from ssd_graph.data.samples import Batch
from ssd_graph.data.transforms import HUE_SLOT, NUM_BLENDS

_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue: ITU-R 601 as Pillow converts to greyscale, with 16 bits."""


def augment(batch: Batch, config: AugmentConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normalised images `dtype` [N, 3, H, W] and boxes xyxy float32 [N, G, 4] of a training batch."""
    levels = batch.images.permute(0, 3, 1, 2).contiguous()
    boxes = batch.boxes
    if config.flip_probability:
        # In half precision, which holds 0 to 255: Atlas A2 has no kernel that mirrors bytes.
        mirrored = levels.to(torch.float16).flip(3).to(torch.uint8)
        levels = torch.where(batch.flip.view(-1, 1, 1, 1), mirrored, levels)
        boxes = torch.where(batch.flip.view(-1, 1, 1), flip_boxes(boxes), boxes)
    if config.jitters_colour:
        levels = jitter_colour(levels, batch.blends, batch.hue if config.hue else None)
    return normalise(levels.to(dtype)), boxes


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
    # torchair lowers 1 - x to an operator that CANN calls experimental.
    return torch.cat((-x2 + 1.0, y1, -x1 + 1.0, y2), -1)


def jitter_colour(levels: Tensor, blends: Tensor, hue: Tensor | None) -> Tensor:
    """Apply `ColourJitter`s (`blends` [N, 6, 3], `hue` [N] in turns) to RGB levels, uint8 [N, 3, H, W].

    Without a hue nothing goes through HSV, whose 256 steps would change an image even if they did not turn it.
    """
    weights = blends.view(-1, NUM_BLENDS * 3, 1, 1).split((1,) * (NUM_BLENDS * 3), 1)
    for slot in range(NUM_BLENDS):
        if hue is not None and slot == HUE_SLOT:
            levels = _shift_hue(levels, hue.view(-1, 1, 1, 1))
        levels = _blend(levels, *weights[3 * slot : 3 * slot + 3])
    return levels


def _blend(levels: Tensor, factor: Tensor, to_luma: Tensor, to_mean: Tensor) -> Tensor:
    """`factor` of the way to an image from its luma, its mean luma or black, as the other two are 1 or not.

    All three are [N, 1, 1, 1].
    """
    image = levels.float()
    red, green, blue = image.split((1, 1, 1), 1)
    luma = _whole((red * _LUMA[0]).add(green, alpha=_LUMA[1]).add(blue, alpha=_LUMA[2]))
    other = torch.addcmul(luma * to_luma, _whole(luma.mean((2, 3), keepdim=True)), to_mean)
    return torch.addcmul(other, image - other, factor).clamp(0.0, 255.0).to(torch.uint8)


def _whole(numbers: Tensor) -> Tensor:
    """Rounded to the nearest whole number, and upwards from the middle."""
    return (numbers + 0.5).floor()


def _shift_hue(levels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by `turns` [N, 1, 1, 1], in Pillow's HSV."""
    hue, saturation, value = _to_hsv(levels)
    shifted = (hue.int() + (turns * 255.0).int()).remainder(256).float()  # Atlas A2 takes remainders of integers only
    # Each channel is `value` less a trapezoid of the hue whose top lies two sixths from the other channels'.
    position = shifted * (6.0 / 255.0) + _channels((5.0, 3.0, 1.0), shifted)
    position = torch.where(position < 6.0, position, position - 6.0)
    fraction = torch.minimum(position, -position + 4.0).clamp(0.0, 1.0)
    return (value.float() * (saturation.float() / -255.0 * fraction + 1.0) + 0.5).to(torch.uint8)


def _to_hsv(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value of RGB levels [N, 3, H, W], each uint8 [N, 1, H, W]."""
    red, green, blue = (plane.float() for plane in levels.split((1, 1, 1), 1))
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp(min=1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    sixths = torch.where(sixths < 0.0, sixths + 6.0, sixths)
    hue, saturation = sixths * 42.5, chroma * 255.0 / value.clamp(min=1.0)
    return hue.to(torch.uint8), saturation.to(torch.uint8), value.to(torch.uint8)
