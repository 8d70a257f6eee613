"""The reference's per-image pipeline on the host, with Pillow and numpy: the benchmark's baseline, used nowhere else.

REF utils.SSDTransformer: decode, SSD crop, flip, resize, colour jitter, to floating point, normalise, encode.
"""

# G boxes of an image, A = 8732 default boxes

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from ssd_graph.boxes import cxcywh_to_xyxy, iou, xyxy_to_cxcywh
from ssd_graph.config import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD, AugmentConfig
from ssd_graph.data.decode import decode
from ssd_graph.data.transforms import pixel_box, random_crop

_POSITIVE_IOU = 0.5


def reference_sample(
    path: Path,
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    config: AugmentConfig,
    defaults_cxcywh: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One training sample.

    Args:
        boxes_xyxy: float32 [G, 4], relative to the image.
        labels: int64 [G].
        defaults_cxcywh: float32 [A, 4].

    Returns:
        Image float32 [3, 300, 300], matched boxes float32 cxcywh [A, 4], classes int64 [A].
    """
    image = decode(path)
    if config.crop:
        crop, boxes_xyxy, labels = random_crop(rng, boxes_xyxy, labels, config.crop_attempts)
        image = image.crop(pixel_box(crop, image.size))
    if rng.random() < config.flip_probability:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes_xyxy = np.stack([1 - boxes_xyxy[:, 2], boxes_xyxy[:, 1], 1 - boxes_xyxy[:, 0], boxes_xyxy[:, 3]], 1)
    image = _jitter(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR), rng, config)
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std, *encode_targets(boxes_xyxy, labels, defaults_cxcywh)


def _jitter(image: Image.Image, rng: np.random.Generator, config: AugmentConfig) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order, each rounded to uint8."""
    changes = (
        (ImageEnhance.Brightness, config.brightness),
        (ImageEnhance.Contrast, config.contrast),
        (ImageEnhance.Color, config.saturation),
    )
    for change in rng.permutation(4):
        if change == 3:
            image = _shift_hue(image, rng.uniform(-config.hue, config.hue))
        else:
            enhance, strength = changes[change]
            image = enhance(image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image


def _shift_hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    hue = Image.fromarray((np.asarray(hue) + np.int16(turns * 255)).astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def encode_targets(
    boxes_xyxy: np.ndarray, labels: np.ndarray, defaults_cxcywh: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 cxcywh [A, 4] and classes int64 [A] that default boxes stand for (REF utils.Encoder.encode)."""
    overlaps = iou(boxes_xyxy, cxcywh_to_xyxy(defaults_cxcywh))  # [G, A]
    owner, best = overlaps.argmax(0), overlaps.max(0)
    favourite = overlaps.argmax(1)
    best[favourite], owner[favourite] = 2.0, np.arange(len(boxes_xyxy))
    positive = best > _POSITIVE_IOU
    matched, classes = defaults_cxcywh.copy(), np.zeros(len(defaults_cxcywh), np.int64)
    matched[positive] = xyxy_to_cxcywh(boxes_xyxy)[owner[positive]]
    classes[positive] = labels[owner[positive]]
    return matched, classes
