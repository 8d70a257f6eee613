"""Proves that training images are resized by the reference's filter to within two levels, from anywhere in memory."""

import numpy as np
import pytest
from PIL import Image

from ssd_graph.data import resize
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.resize import RESIZER, resize_into

NOISE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)


@pytest.fixture(params=sorted({"Pillow", RESIZER}))
def resizer(request, monkeypatch):
    monkeypatch.setattr(resize, "RESIZER", request.param)
    return request.param


def resized(pixels):
    batch = np.full((3, 300, 300, 3), 77, np.uint8)
    resize_into(pixels, batch[1])
    assert (batch[[0, 2]] == 77).all()
    return batch[1]


@pytest.mark.parametrize(
    "part",
    [
        np.s_[:],
        np.s_[:300, :300],
        np.s_[100:250, 31:200],
        np.s_[7:8, 3:4],
        np.s_[:1],
        np.s_[:, :1],
        np.s_[2:302, 5:605],
    ],
)
def test_every_crop_is_within_two_levels_of_pillows(resizer, part):
    pixels = NOISE[part]
    difference = np.abs(resized(pixels).astype(int) - preprocess(Image.fromarray(np.ascontiguousarray(pixels))))
    assert difference.max() <= 2
    assert difference.mean() < 0.2


def test_real_images_differ_by_far_less_than_two_levels_on_average(shared):
    split = load_split(shared / "coco_mini", "train")
    differences = []
    for i in range(0, len(split), 40):
        image = decode(split.path(i))
        differences.append(np.abs(resized(np.array(image)).astype(int) - preprocess(image)))
    assert max(d.max() for d in differences) <= 2
    assert np.mean([d.mean() for d in differences]) < 0.2


def test_memory_that_cannot_be_written_is_read(resizer):
    pixels = NOISE[:100, :200].copy()
    expected = resized(pixels)
    pixels.flags.writeable = False
    np.testing.assert_array_equal(resized(pixels), expected)


def test_without_vector_code_the_result_is_pillows_own(monkeypatch):
    monkeypatch.setattr(resize, "RESIZER", "Pillow")
    np.testing.assert_array_equal(resized(NOISE), preprocess(Image.fromarray(NOISE)))
