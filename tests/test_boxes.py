"""Proves the box arithmetic against counted pixels and hand-worked numbers, and that torch and numpy give the
same bits, since the host crops with one and the graph matches with the other.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.boxes import area, cxcywh_to_xyxy, iou, xyxy_to_cxcywh

GRID = 12
edges = st.lists(st.integers(0, GRID), min_size=2, max_size=2, unique=True).map(sorted)
grid_boxes = st.tuples(edges, edges).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


def pixels_of(box):
    left, top, right, bottom = box
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


def random_boxes(seed, count, dtype=np.float32):
    corners = np.random.default_rng(seed).uniform(0, 1, (count, 2, 2)).astype(dtype)
    return np.concatenate([corners.min(1), corners.max(1)], 1)


def test_corners_of_a_known_box():
    np.testing.assert_allclose(cxcywh_to_xyxy(np.array([0.5, 0.4, 0.2, 0.6])), [0.4, 0.1, 0.6, 0.7])


def test_centre_and_size_of_a_known_box():
    np.testing.assert_allclose(xyxy_to_cxcywh(np.array([10.0, 20.0, 40.0, 30.0])), [25, 25, 30, 10])


@given(st.lists(grid_boxes, min_size=1, max_size=5))
def test_conversions_are_inverse(boxes):
    boxes = np.array(boxes, np.float64)
    np.testing.assert_array_equal(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


@given(grid_boxes)
def test_area_counts_pixels(box):
    assert area(np.array(box)) == len(pixels_of(box))


@given(grid_boxes, grid_boxes)
def test_iou_counts_pixels(a, b):
    both, either = pixels_of(a) & pixels_of(b), pixels_of(a) | pixels_of(b)
    (value,) = iou(np.array([a], np.float64), np.array([b], np.float64)).ravel()
    assert value == len(both) / len(either)


def test_touching_boxes_do_not_overlap():
    assert iou(np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[1.0, 0.0, 2.0, 1.0]])) == 0


def test_iou_compares_every_pair_of_every_image():
    a, b = random_boxes(1, 6).reshape(2, 3, 4), random_boxes(2, 8).reshape(2, 4, 4)
    pairs = iou(a, b)
    assert pairs.shape == (2, 3, 4)
    assert pairs[1, 2, 3] == iou(a[1, 2:], b[1, 3:])[0, 0]


def test_iou_is_symmetric():
    a, b = random_boxes(3, 50), random_boxes(4, 60)
    np.testing.assert_array_equal(iou(a, b), iou(b, a).T)


def test_float32_iou_follows_the_reference_order_of_operations():
    a, b = random_boxes(5, 100), random_boxes(6, 100)
    for i in range(100):
        width = max(np.float32(0), min(a[i, 2], b[i, 2]) - max(a[i, 0], b[i, 0]))
        height = max(np.float32(0), min(a[i, 3], b[i, 3]) - max(a[i, 1], b[i, 1]))
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a[i], b[i])]
        union = areas[0] + areas[1] - width * height
        assert iou(a[i : i + 1], b[i : i + 1])[0, 0] == width * height / union


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torch_and_numpy_give_the_same_bits(dtype):
    a, b = random_boxes(7, 40, dtype), random_boxes(8, 40, dtype)
    tensor_a, tensor_b = torch.from_numpy(a), torch.from_numpy(b)
    np.testing.assert_array_equal(iou(tensor_a, tensor_b, torch).numpy(), iou(a, b))
    np.testing.assert_array_equal(xyxy_to_cxcywh(tensor_a, torch).numpy(), xyxy_to_cxcywh(a))
    np.testing.assert_array_equal(cxcywh_to_xyxy(tensor_a, torch).numpy(), cxcywh_to_xyxy(a))


def test_two_boxes_without_area_give_nan():
    point = np.array([[0.5, 0.5, 0.5, 0.5]])
    with np.errstate(invalid="ignore"):
        assert np.isnan(iou(point, point)).all()
