"""Flip, colour jitter and normalisation in the graph do what Pillow and torchvision do on the host."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from ssd_graph.augment import augment, flip_boxes, jitter_colour, normalise
from ssd_graph.config import NO_AUGMENT, AugmentConfig
from ssd_graph.loader import Batch
from ssd_graph.shapes import draw_image
from ssd_graph.transforms import draw_colour_jitter, preprocess


@pytest.fixture(scope="module")
def picture():
    return preprocess(draw_image(np.random.default_rng(5))[0])


def planes(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].double()


def batch(picture, flip=False):
    result = Batch.empty(1, 8)
    result.images[0], result.flip[0] = picture, flip
    result.blends[0, :, 0] = 1.0
    result.boxes[0, 0], result.labels[0, 0] = (0.1, 0.2, 0.4, 0.9), 3
    return Batch(*(torch.from_numpy(a) for a in result))


def pillow_hue(image, turns):
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue, np.int16) + round(turns * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), saturation, value)).convert("RGB")


def identity():
    blends = torch.zeros(1, 6, 3, dtype=torch.float64)
    blends[:, :, 0] = 1.0
    return blends


@pytest.mark.parametrize(
    ("enhance", "row"),
    [
        (ImageEnhance.Brightness, lambda f: (f, 0, 0)),
        (ImageEnhance.Contrast, lambda f: (f, 0, 1 - f)),
        (ImageEnhance.Color, lambda f: (f, 1 - f, 0)),
    ],
)
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.125, 1.5])
@pytest.mark.parametrize("slot", [0, 5])
def test_each_blend_is_pillows_enhancement_within_a_level(picture, enhance, row, factor, slot):
    blends = identity()
    blends[0, slot] = torch.tensor(row(factor))
    found = jitter_colour(planes(picture), blends, torch.zeros(1).double())
    expected = planes(np.asarray(enhance(Image.fromarray(picture)).enhance(factor)))
    assert (found - expected).abs().max() <= 1.51  # Pillow rounds the luma, then cuts off the blend's fraction
    assert (found - planes(picture)).abs().mean() > 1.1


@pytest.mark.parametrize("turns", [-0.05, 0.02, 0.05])
def test_hue_shift_is_pillows_within_its_256_steps(picture, turns):
    found = jitter_colour(planes(picture), identity(), torch.tensor([turns]).double())
    expected = planes(np.asarray(pillow_hue(Image.fromarray(picture), turns)))
    assert (found - expected).abs().mean() < 2
    assert (found - expected).abs().mean() < 0.25 * (found - planes(picture)).abs().mean()


def test_hue_shift_matches_the_standard_library_exactly(picture):
    import colorsys

    turns, pixels = 0.04, picture[::50, ::50].reshape(-1, 3)
    found = jitter_colour(planes(picture), identity(), torch.tensor([turns]).double())[0]
    for pixel, result in zip(pixels, found[:, ::50, ::50].reshape(3, -1).t(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(float(c) / 255 for c in pixel))
        expected = colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)
        np.testing.assert_allclose(result.numpy() / 255, expected, atol=1e-12)


def test_a_full_turn_and_grey_pixels_change_nothing(picture):
    grey = np.repeat(picture[:, :, :1], 3, axis=2)
    for image, turns in ((picture, 1.0), (grey, 0.03)):
        found = jitter_colour(planes(image), identity(), torch.tensor([turns]).double())
        torch.testing.assert_close(found, planes(image), rtol=0, atol=1e-10)


def test_jitter_applies_the_drawn_changes_in_the_drawn_order(picture):
    """The whole chain against Pillow, for several draws; each draw has another order."""
    orders = set()
    for seed in range(12):
        config = AugmentConfig()
        drawn = draw_colour_jitter(np.random.default_rng(seed), config)
        image = Image.fromarray(picture)
        order = []
        for slot in range(6):
            if slot == 3:
                image = pillow_hue(image, drawn.hue)
                order.append("hue")
            ratio, luma, mean = (float(v) for v in drawn.blends[slot])
            if luma:
                image = ImageEnhance.Color(image).enhance(ratio)
            elif mean:
                image = ImageEnhance.Contrast(image).enhance(ratio)
            elif ratio != 1.0:
                image = ImageEnhance.Brightness(image).enhance(ratio)
            if ratio != 1.0:
                order.append("luma" if luma else "mean" if mean else "black")
        blends = torch.from_numpy(drawn.blends)[None].double()
        found = jitter_colour(planes(picture), blends, torch.tensor([drawn.hue]).double())
        assert (found - planes(np.asarray(image))).abs().mean() < 3
        orders.add(tuple(order))
        assert sorted(order) == ["black", "hue", "luma", "mean"]
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
    assert torch.equal(images, normalise(planes(picture)))
    assert torch.equal(boxes, marked.boxes)
