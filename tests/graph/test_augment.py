"""Flip, colour jitter and normalisation in the graph do what Pillow and torchvision do on the host."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from ssd_graph.config import NO_AUGMENT, AugmentConfig
from ssd_graph.data.decode import preprocess
from ssd_graph.data.loader import Batch
from ssd_graph.data.shapes import draw_image
from ssd_graph.data.transforms import draw_colour_jitter
from ssd_graph.graph.augment import augment, flip_boxes, jitter_colour, normalise


@pytest.fixture(scope="module")
def picture():
    return preprocess(draw_image(np.random.default_rng(5))[0])


def planes(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


def batch(picture, flip=False):
    result = Batch.empty(1, 8)
    result.images[0], result.flip[0] = picture, flip
    result.blends[0, :, 0] = 1.0
    result.boxes[0, 0], result.labels[0, 0] = (0.1, 0.2, 0.4, 0.9), 3
    return Batch(*(torch.from_numpy(a) for a in result))


def pillow_hue(image, turns):
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue, np.int16) + int(turns * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), saturation, value)).convert("RGB")


def identity():
    blends = torch.zeros(1, 6, 3)
    blends[:, :, 0] = 1.0
    return blends


def off_by(found, image):
    """Levels that differ from a Pillow image's, one for each value."""
    return (found.short() - planes(np.asarray(image)).short()).abs()


@pytest.mark.parametrize(
    ("enhance", "row"),
    [
        (ImageEnhance.Brightness, (0, 0)),
        (ImageEnhance.Contrast, (0, 1)),
        (ImageEnhance.Color, (1, 0)),
    ],
)
@pytest.mark.parametrize("factor", [0.5, 0.8765, 0.9, 1.125, 1.4321, 1.5])
@pytest.mark.parametrize("slot", [0, 5])
def test_each_blend_is_pillows_enhancement_to_the_last_level(picture, enhance, row, factor, slot):
    blends = identity()
    blends[0, slot] = torch.tensor((factor, *row))
    found = jitter_colour(planes(picture), blends, None)
    assert (found.dtype, found.shape) == (torch.uint8, (1, 3, 300, 300))
    assert off_by(found, enhance(Image.fromarray(picture)).enhance(float(blends[0, slot, 0]))).max() == 0
    assert off_by(found, picture).float().mean() > 1.1


@pytest.mark.parametrize("turns", [-0.05, -0.003, 0.0, 0.02, 0.05])
def test_hue_shift_is_pillows(picture, turns):
    """But for pixels whose hue or saturation is a whole number of Pillow's 255 steps and rounds to the one below."""
    found = jitter_colour(planes(picture), identity(), torch.tensor([turns]))
    difference = off_by(found, pillow_hue(Image.fromarray(picture), turns))
    assert (difference > 0).float().mean() < 0.01
    assert difference.max() <= 8
    assert turns * 255 < 1 or off_by(found, picture).float().mean() > 100 * difference.float().mean()


@pytest.mark.parametrize("turns", [-0.5, -0.04, 0.04, 0.3])
def test_hue_shift_is_the_standard_librarys_within_a_step(picture, turns):
    pixels = picture[::50, ::50].reshape(-1, 3)
    found = jitter_colour(planes(picture), identity(), torch.tensor([turns]))[0]
    for pixel, result in zip(pixels, found[:, ::50, ::50].reshape(3, -1).t(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(float(c) / 255 for c in pixel))
        expected = colorsys.hsv_to_rgb((h + int(turns * 255) / 255) % 1.0, s, v)
        np.testing.assert_allclose(result.numpy() / 255, expected, atol=8 / 255)


def test_grey_pixels_have_no_hue(picture):
    grey = np.repeat(picture[:, :, :1], 3, axis=2)
    found = jitter_colour(planes(grey), identity(), torch.tensor([0.03]))
    assert torch.equal(found, planes(grey))


def test_without_a_hue_no_image_goes_through_hsv(picture):
    assert torch.equal(jitter_colour(planes(picture), identity(), None), planes(picture))
    config = AugmentConfig(flip_probability=0, hue=0)
    images, _ = augment(batch(picture), config, torch.float64)
    assert torch.equal(images, normalise(planes(picture).double()))


def test_jitter_applies_the_drawn_changes_in_the_drawn_order(picture):
    """The whole chain against Pillow, for several draws; each draw has another order."""
    orders, wrong = set(), []
    for seed in range(12):
        config = AugmentConfig()
        drawn = draw_colour_jitter(np.random.default_rng(seed), config)
        image = Image.fromarray(picture)
        order = []
        for slot in range(6):
            if slot == 3:
                image = pillow_hue(image, drawn.hue)
                order.append("hue")
            factor, luma, mean = (float(v) for v in drawn.blends[slot])
            if luma:
                image = ImageEnhance.Color(image).enhance(factor)
            elif mean:
                image = ImageEnhance.Contrast(image).enhance(factor)
            elif factor != 1.0:
                image = ImageEnhance.Brightness(image).enhance(factor)
            if factor != 1.0:
                order.append("luma" if luma else "mean" if mean else "black")
        found = jitter_colour(planes(picture), torch.from_numpy(drawn.blends)[None], torch.tensor([drawn.hue]))
        difference = off_by(found, image)
        assert difference.max() <= 12
        wrong.append(float((difference > 0).float().mean()))
        orders.add(tuple(order))
        assert sorted(order) == ["black", "hue", "luma", "mean"]
    assert np.mean(wrong) < 0.01
    assert len(orders) > 6


def test_normalised_channels_have_imagenet_statistics_as_zero_and_one():
    levels = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64) * 255
    images = levels[None, :, None, None].repeat(1, 1, 2, 2)
    assert normalise(images).abs().max() < 1e-12
    one_std = images + torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[None, :, None, None] * 255
    torch.testing.assert_close(normalise(one_std), torch.ones_like(images))


def test_flip_mirrors_image_and_boxes_together(picture):
    config = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
    plain_images, plain_boxes = augment(batch(picture), config, torch.float64)
    images, boxes = augment(batch(picture, flip=True), config, torch.float64)
    assert torch.equal(images, plain_images.flip(3))
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.6, 0.2, 0.9, 0.9]))
    assert torch.equal(plain_boxes[0, 0], torch.tensor([0.1, 0.2, 0.4, 0.9]))


def test_flipping_twice_is_nothing():
    boxes = torch.rand(3, 5, 4)
    torch.testing.assert_close(flip_boxes(flip_boxes(boxes)), boxes)


def test_without_augmentation_the_image_is_only_normalised(picture):
    marked = batch(picture, flip=True)
    images, boxes = augment(marked, NO_AUGMENT, torch.float64)
    assert torch.equal(images, normalise(planes(picture).double()))
    assert torch.equal(boxes, marked.boxes)
