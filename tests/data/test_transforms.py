"""The evaluation input is Pillow's own antialiased resize, random crops keep the SSD paper's promises for any boxes,
and a colour change is torchvision's, in any order, written as one table.
"""

from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssd_graph.config import NO_AUGMENT, AugmentConfig
from ssd_graph.data import transforms
from ssd_graph.data.decode import preprocess
from ssd_graph.data.transforms import NUM_BLENDS, draw_colour_jitter, pixel_box, random_crop

DEMANDS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)


class Remembering(tuple):
    """A tuple that remembers what was taken out of it."""

    taken: ClassVar[list] = []

    def __getitem__(self, index):
        self.taken.append(super().__getitem__(index))
        return self.taken[-1]


@pytest.fixture(autouse=True, scope="module")
def demands():
    """The demands drawn so far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_MIN_IOUS", Remembering(transforms._MIN_IOUS))
        yield Remembering.taken


def overlap(box, crop):
    """IoU of two boxes, one number at a time."""
    width = max(0.0, min(box[2], crop[2]) - max(box[0], crop[0]))
    height = max(0.0, min(box[3], crop[3]) - max(box[1], crop[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, crop)]
    return width * height / (sum(areas) - width * height)


def relative_boxes(largest_corner, smallest_side):
    """One to five boxes inside the image, float32 [G, 4]."""
    corners, sides = st.floats(0, largest_corner, width=32), st.floats(smallest_side, 1, width=32)
    boxes = st.tuples(corners, corners, sides, sides).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
    return st.lists(boxes, min_size=1, max_size=5).map(lambda rows: np.array(rows, np.float32).clip(max=1))


@st.composite
def crops(draw):
    """Boxes, and the demand and outcome of a random crop of them; box g has label g."""
    boxes = draw(relative_boxes(0.9375, 0.03125) | relative_boxes(0.0625, 0.75))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return boxes, *random_crop(rng, boxes, np.arange(len(boxes)), attempts=50), Remembering.taken[-1]


def test_preprocess_is_pillows_resize_byte_for_byte():
    noise = np.random.default_rng(0).integers(0, 256, (211, 457, 3), np.uint8)
    expected = Image.fromarray(noise).resize((300, 300), resample=Image.Resampling.BILINEAR)
    found = preprocess(Image.fromarray(noise))
    assert (found.dtype, found.shape) == (np.uint8, (300, 300, 3))
    assert found.tobytes() == expected.tobytes()


def test_preprocess_averages_with_a_triangle_as_wide_as_the_shrinkage():
    noise = np.random.default_rng(1).integers(0, 256, (150, 750, 3), np.uint8)

    def weights(size):
        scale = size / 300
        distance = np.abs(np.arange(size) + 0.5 - (np.arange(300)[:, None] + 0.5) * scale)
        triangle = (1 - distance / max(scale, 1.0)).clip(0)
        return triangle / triangle.sum(1, keepdims=True)

    expected = np.einsum("yh,xw,hwc->yxc", weights(150), weights(750), noise, optimize=True)
    assert np.abs(preprocess(Image.fromarray(noise)) - expected).max() <= 1.01


@given(crops())
def test_a_crop_has_the_papers_size_and_aspect(drawn):
    _, crop, _, _, demand = drawn
    width, height = crop[2:] - crop[:2]
    assert crop.min() >= 0
    assert crop.max() <= 1
    assert demand is None or (min(width, height) >= 0.3 and 0.5 - 1e-9 <= width / height <= 2 + 1e-9)


@given(crops())
def test_every_box_overlaps_the_crop_by_more_than_the_demand(drawn):
    boxes, crop, _, _, demand = drawn
    if demand is None:
        assert crop.tolist() == [0, 0, 1, 1]
    else:
        assert min(overlap(box, crop) for box in boxes.astype(float).tolist()) > demand


@given(crops())
def test_a_crop_keeps_just_the_boxes_whose_centre_is_inside(drawn):
    boxes, crop, _, labels, demand = drawn
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((crop[:2] < centres) & (centres < crop[2:])).all(1) | (demand is None)
    assert labels.tolist() == np.flatnonzero(inside).tolist() != []


@given(crops())
def test_kept_boxes_are_clipped_and_relative_to_the_crop(drawn):
    boxes, crop, kept, labels, _ = drawn
    x1, y1, x2, y2 = crop
    clipped = np.clip(boxes[labels].astype(float), [x1, y1, x1, y1], [x2, y2, x2, y2])
    expected = (clipped - [x1, y1, x1, y1]) / [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
    np.testing.assert_allclose(kept, expected, atol=1e-6)


@given(crops())
def test_kept_boxes_have_area_and_stay_inside(drawn):
    _, _, kept, _, _ = drawn
    assert kept.dtype == np.float32
    assert kept.min() >= 0
    assert kept.max() <= 1
    assert (kept[:, 2:] > kept[:, :2]).all()


def test_the_seven_demands_are_equally_likely(demands):
    demands.clear()
    rng = np.random.default_rng(0)
    boxes = np.array([[0.4, 0.4, 0.6, 0.6]], np.float32)
    while len(demands) < 3500:
        random_crop(rng, boxes, np.array([1]), attempts=1)
    counts = Counter(demands)
    assert set(counts) == set(DEMANDS)
    assert all(400 < count < 600 for count in counts.values())


def test_a_crop_lies_anywhere():
    draws = transforms._uniform(np.random.default_rng(0))
    crops = np.array([crop for _ in range(3000) if (crop := transforms._draw_crop(draws))])
    sides = crops[:, 2:] - crops[:, :2]
    assert sides.min() >= 0.3
    assert sides.max() <= 1
    places = crops[:, :2] / (1 - sides)
    for share in (0.25, 0.5, 0.75):
        assert np.allclose((places < share).mean(0), share, atol=0.04)


def test_more_attempts_crop_more_often():
    def num_cropped(attempts):
        rng = np.random.default_rng(0)
        boxes = np.array([[0, 0, 1, 1]], np.float32)
        found = [random_crop(rng, boxes, np.array([1]), attempts)[0] for _ in range(400)]
        return sum(crop.tolist() != [0, 0, 1, 1] for crop in found)

    assert num_cropped(50) > num_cropped(1) + 30


def test_a_crop_is_rounded_down_to_whole_pixels():
    assert pixel_box(np.array([0.1, 0.2, 0.9, 0.77]), (101, 53)) == (10, 10, 90, 40)  # 10.1, 10.6, 90.9, 40.81


def test_a_crop_of_less_than_a_pixel_is_one_pixel():
    assert pixel_box(np.array([0.6, 0.1, 0.9, 0.4]), (2, 2)) == (1, 0, 2, 1)


def jitters(count, config=AugmentConfig()):  # noqa: B008 (frozen)
    rng = np.random.default_rng(0)
    return [draw_colour_jitter(rng, config) for _ in range(count)]


def kinds(blends):
    """What each slot does: b(lack), m(ean luma), l(uma), or - for nothing."""
    names = []
    for factor, luma, mean in blends.tolist():
        names.append("-" if factor == 1 else "l" if luma else "m" if mean else "b")
    return "".join(names)


def test_three_changes_surround_the_hue_shift():
    for blends, _ in jitters(200):
        names = kinds(blends)
        assert (blends.dtype, len(names)) == (np.float32, NUM_BLENDS)
        assert sorted(names.replace("-", "")) == ["b", "l", "m"]
        assert "---" in names  # the free slots surround the hue shift, which is between slots 2 and 3
        assert names[:3].endswith("-" * names[:3].count("-"))


def test_all_24_orders_are_equally_likely():
    counts = Counter(kinds(blends) for blends, _ in jitters(4800))
    assert len(counts) == 24
    assert all(130 < count < 270 for count in counts.values())


def test_an_image_is_blended_with_one_thing():
    for blends, _ in jitters(200):
        for row, kind in zip(blends, kinds(blends), strict=True):
            assert row[1:].tolist() == {"-": [0, 0], "b": [0, 0], "l": [1, 0], "m": [0, 1]}[kind]


@pytest.mark.parametrize(("kind", "strength"), [("b", 0.125), ("m", 0.5), ("l", 0.5)])
def test_factors_are_uniform_around_one(kind, strength):
    factors = np.array([blends[kinds(blends).index(kind), 0] for blends, _ in jitters(2000)])
    assert 1 - strength <= factors.min() < 1 - 0.98 * strength
    assert 1 + 0.98 * strength < factors.max() <= 1 + strength
    assert factors.std() == pytest.approx(2 * strength / 12**0.5, rel=0.05)


def test_hue_shifts_are_uniform_up_to_18_degrees():
    degrees = 360 * np.array([hue for _, hue in jitters(2000)])
    assert -18 <= degrees.min() < -17.7
    assert 17.7 < degrees.max() <= 18
    assert degrees.std() == pytest.approx(36 / 12**0.5, rel=0.05)


def test_no_strength_means_no_change():
    for blends, hue in jitters(20, NO_AUGMENT):
        assert kinds(blends) == "------"
        assert hue == 0
