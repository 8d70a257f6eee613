"""Proves the 8732 default boxes against the reference's hashes and against a plain loop
over the paper's formula, and the codec against its written-out formula.
"""

import hashlib
import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.boxes import cxcywh_to_xyxy
from ssd_graph.config import SSD300_BOXES
from ssd_graph.graph.default_boxes import decode, default_boxes, encode

BOXES = default_boxes()
LEVEL_OFFSETS = [0, 5776, 7942, 8542, 8692, 8728, 8732]


def unclamped_boxes():
    """The reference's loops, in Python floats and without the clamp."""
    scales, ratios = (21, 45, 99, 153, 207, 261, 315), ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    for k, (cells, step) in enumerate(zip((38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300), strict=True)):
        small = scales[k] / 300
        between = math.sqrt(small * scales[k + 1] / 300)
        sizes = [(small, small), (between, between)]
        for root in map(math.sqrt, ratios[k]):
            sizes += [(small * root, small / root), (small / root, small * root)]
        for w, h in sizes:
            for row in range(cells):
                for column in range(cells):
                    yield (column + 0.5) * step / 300, (row + 0.5) * step / 300, w, h


def test_bytes_equal_the_reference():
    assert (BOXES.shape, BOXES.dtype) == ((8732, 4), np.float32)
    assert hashlib.sha256(BOXES.tobytes()).hexdigest().startswith("4906fa2e69958980")


def test_bytes_of_the_corners_equal_the_reference():
    assert hashlib.sha256(cxcywh_to_xyxy(BOXES).tobytes()).hexdigest().startswith("a9c736974b4b2e9f")


def test_2221_boxes_stick_out_of_the_image():
    corners = cxcywh_to_xyxy(BOXES)
    assert ((corners < 0) | (corners > 1)).any(1).sum() == 2221
    np.testing.assert_allclose([corners.min(), corners.max()], [-0.335, 1.4017], atol=5e-5)


def test_the_clamp_changes_122_scalars_and_nothing_else():
    plain = np.array(list(unclamped_boxes()))
    changed = (plain < 0) | (plain > 1)
    assert changed.sum() == 122
    assert (BOXES[changed] == 1).all()
    np.testing.assert_allclose(BOXES[~changed], plain[~changed], rtol=1e-7)


def test_levels_begin_at_the_reference_offsets():
    counts = [n * s * s for n, s in zip((4, 6, 6, 6, 4, 4), (38, 19, 10, 5, 3, 1), strict=True)]
    assert [0, *np.cumsum(counts).tolist()] == LEVEL_OFFSETS
    assert SSD300_BOXES.num_per_cell == (4, 6, 6, 6, 4, 4)
    widths = BOXES[LEVEL_OFFSETS[:-1], 2]
    np.testing.assert_allclose(widths, [0.07, 0.15, 0.33, 0.51, 0.69, 0.87], rtol=1e-6)


def test_a_level_runs_over_columns_then_rows_then_boxes():
    level = BOXES[: LEVEL_OFFSETS[1]].reshape(4, 38, 38, 4)
    assert (np.diff(level[..., 0], axis=2) > 0).all()
    assert (np.diff(level[..., 1], axis=1) > 0).all()
    assert (level[..., 2:] == level[:, :1, :1, 2:]).all()


def test_encoding_a_known_box():
    box, default = np.array([[0.5, 0.6, 0.2, 0.1]]), np.array([[0.4, 0.4, 0.4, 0.1]])
    expected = [[10 * 0.1 / 0.4, 10 * 0.2 / 0.1, 5 * math.log(0.5), 0.0]]
    np.testing.assert_allclose(encode(box, default), expected, atol=1e-12)


def test_a_default_box_encodes_to_zero():
    assert not encode(BOXES, BOXES).any()


def test_decoding_known_offsets():
    decoded = decode(np.array([[1.0, -2.0, 5 * math.log(2), 0.0]]), np.array([[0.5, 0.5, 0.4, 0.2]]))
    np.testing.assert_allclose(decoded, [[0.54, 0.46, 0.8, 0.2]], atol=1e-12)


@given(st.integers(0, 2**32), st.integers(0, 8731))
def test_decode_inverts_encode(seed, index):
    rng = np.random.default_rng(seed)
    box = np.concatenate([rng.uniform(0, 1, 2), np.exp(rng.uniform(-7, 0, 2))])
    default = BOXES[index].astype(np.float64)
    np.testing.assert_allclose(decode(encode(box, default), default), box, rtol=1e-12, atol=1e-14)


def test_torch_and_numpy_codecs_agree():
    boxes = np.random.default_rng(0).uniform(0.01, 1, (2, *BOXES.shape))
    defaults = BOXES.astype(np.float64)
    encoded = encode(torch.from_numpy(boxes), torch.from_numpy(defaults), torch)
    np.testing.assert_allclose(encoded.numpy(), encode(boxes, defaults), rtol=1e-12, atol=1e-12)
    decoded = decode(encoded, torch.from_numpy(defaults), torch)
    np.testing.assert_allclose(decoded.numpy(), boxes, rtol=1e-12)
