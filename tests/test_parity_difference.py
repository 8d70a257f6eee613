"""Proves that two models' detections are compared as sets: order and padding do not matter, every move shows,
a detection without a counterpart is an infinite difference, and only rounding at the cut is forgiven.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.parity import largest_difference


def random_outputs(seed=0):
    """Outputs of a model for two images with 5 and 3 of 6 possible detections, best first."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.uniform(0.1, 1, (2, 6)).astype(np.float32))
    return np.array([5, 3]), rng.random((2, 6, 4), np.float32), scores, rng.integers(1, 4, (2, 6))


def difference(a, b, tolerance=1e-4):
    return largest_difference(a, b, score_threshold=0.05, tolerance=tolerance)


@given(st.integers(0, 2**32))
def test_order_does_not_matter(seed):
    num, *fields = random_outputs()
    order = np.random.default_rng(seed).permutation(3)
    shuffled = [np.concatenate([field[:, order], field[:, 3:]], 1) for field in fields]
    assert difference((num, *fields), (num, *shuffled)) == 0


def test_what_lies_behind_the_last_detection_does_not_matter():
    num, *fields = random_outputs()
    other = [field.copy() for field in fields]
    for field in other:
        field[0, 5:] = field[1, 3:] = 8
    assert difference((num, *fields), (num, *other)) == 0


@pytest.mark.parametrize("field", [1, 2])
def test_a_moved_box_or_score_is_the_difference(field):
    a, b = random_outputs(), random_outputs()
    b[field][1, 2] += 0.01
    assert difference(a, b) == difference(b, a) == pytest.approx(0.01, abs=1e-6)


def test_another_label_has_no_counterpart():
    a, b = random_outputs(), random_outputs()
    b[3][0, 1] = 50
    assert difference(a, b) == difference(b, a) == np.inf


def test_a_missing_detection_has_no_counterpart():
    a, b = random_outputs(), random_outputs()
    a[3][1, 2], b[0][1] = 50, 2  # the third of the second image is the only one of its label
    assert difference(a, b) == difference(b, a) == np.inf


@pytest.mark.parametrize(("score", "expected"), [(0.05005, 0), (0.0502, np.inf)])
def test_a_detection_at_the_threshold_may_be_missing(score, expected):
    a, b = random_outputs(), random_outputs()
    a[2][1, 2], a[3][1, 2], b[0][1] = score, 50, 2
    assert difference(a, b) == difference(b, a) == expected


def test_the_last_of_a_full_list_may_be_missing():
    a, b = ((np.array([6, 3]), *random_outputs()[1:]) for _ in range(2))
    b[3][0, 5] = 50
    assert difference(a, b) == difference(b, a) == 0
