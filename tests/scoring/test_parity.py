"""The export check accepts what the rules allow and notices each way of being wrong, and two models' detections
are compared as sets: order and padding do not matter, every move shows, only rounding at the cut is forgiven.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.config import EvalConfig
from ssd_graph.graph.postprocess import Postprocess
from ssd_graph.scoring.parity import signal_to_noise, unexplained
from tests.graph.test_postprocess import IDS, random_outputs
from tests.scoring.agreement import largest_difference


@pytest.fixture(scope="module", params=[5.0, 2.0], ids=["short list", "full list"])
def case(request):
    """Detections of two images, and the boxes and probabilities they come from."""
    regression, logits = map(torch.from_numpy, random_outputs(4, request.param, 2))
    postprocess = Postprocess(IDS, EvalConfig())
    boxes, probabilities = postprocess.decode(regression, logits)
    return [o.numpy() for o in postprocess(regression, logits)], boxes.numpy(), probabilities.numpy()


def judge(case, change=lambda *arrays: None):
    detections, boxes, probabilities = case
    detections = [d.copy() for d in detections]
    change(*detections)
    return unexplained(detections, boxes, probabilities, IDS, EvalConfig(), 1e-5)


def test_the_rules_own_detections_are_explained(case):
    assert judge(case) == 0.0


def test_a_small_shift_of_a_box_is_measured(case):
    def shift(num, boxes, scores, labels):
        boxes[1, 2, 3] += 0.001

    assert judge(case, shift) == pytest.approx(0.001, rel=0.01)


def test_a_missing_detection_is_noticed(case):
    def drop(num, boxes, scores, labels):
        for field in (boxes, scores, labels):
            field[0, 3:-1] = field[0, 4:].copy()
        num[0] -= 1

    assert judge(case, drop) == float("inf")


def test_a_swapped_label_is_noticed(case):
    def relabel(num, boxes, scores, labels):
        labels[0, 0] = IDS[(IDS.index(labels[0, 0]) + 1) % 3]

    assert judge(case, relabel) > 0.01


def test_a_box_that_should_have_been_suppressed_is_noticed(case):
    def duplicate(num, boxes, scores, labels):
        boxes[0, 1], scores[0, 1], labels[0, 1] = boxes[0, 0], scores[0, 0], labels[0, 0]

    assert judge(case, duplicate) == float("inf")


def test_a_box_that_is_no_number_is_not_passed_over():
    boxes = np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]], np.float32)
    found = (np.array([1]), np.array([[[0, 0, 0.5, np.nan]]], np.float32), np.array([[0.9]]), np.array([[1]]))
    config = replace(EvalConfig(), candidates_per_class=1)
    assert np.isnan(unexplained(found, boxes, np.array([[[0.9, 0.0]]]), (1,), config, 1e-5))


def random_detections(seed=0):
    """Outputs of a model for two images with 5 and 3 of 6 possible detections, best first."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.uniform(0.1, 1, (2, 6)).astype(np.float32))
    return np.array([5, 3]), rng.random((2, 6, 4), np.float32), scores, rng.integers(1, 4, (2, 6))


def difference(a, b, tolerance=1e-4):
    return largest_difference(a, b, score_threshold=0.05, tolerance=tolerance)


@given(st.integers(0, 2**32))
def test_order_does_not_matter(seed):
    num, *fields = random_detections()
    order = np.random.default_rng(seed).permutation(3)
    shuffled = [np.concatenate([field[:, order], field[:, 3:]], 1) for field in fields]
    assert difference((num, *fields), (num, *shuffled)) == 0


def test_what_lies_behind_the_last_detection_does_not_matter():
    num, *fields = random_detections()
    other = [field.copy() for field in fields]
    for field in other:
        field[0, 5:] = field[1, 3:] = 8
    assert difference((num, *fields), (num, *other)) == 0


@pytest.mark.parametrize("field", [1, 2])
def test_a_moved_box_or_score_is_the_difference(field):
    a, b = random_detections(), random_detections()
    b[field][1, 2] += 0.01
    assert difference(a, b) == difference(b, a) == pytest.approx(0.01, abs=1e-6)


def test_another_label_has_no_counterpart():
    a, b = random_detections(), random_detections()
    b[3][0, 1] = 50
    assert difference(a, b) == difference(b, a) == np.inf


def test_a_missing_detection_has_no_counterpart():
    a, b = random_detections(), random_detections()
    a[3][1, 2], b[0][1] = 50, 2  # the third of the second image is the only one of its label
    assert difference(a, b) == difference(b, a) == np.inf


@pytest.mark.parametrize(("score", "expected"), [(0.05005, 0), (0.0502, np.inf)])
def test_a_detection_at_the_threshold_may_be_missing(score, expected):
    a, b = random_detections(), random_detections()
    a[2][1, 2], a[3][1, 2], b[0][1] = score, 50, 2
    assert difference(a, b) == difference(b, a) == expected


def test_the_last_of_a_full_list_may_be_missing():
    a, b = ((np.array([6, 3]), *random_detections()[1:]) for _ in range(2))
    b[3][0, 5] = 50
    assert difference(a, b) == difference(b, a) == 0


def test_identical_detections_differ_by_nothing(case):
    assert largest_difference(case[0], case[0], 0.05, 1e-5) == 0.0


def test_the_ratio_of_signal_to_noise_is_in_decibels_of_power():
    signal = np.array([3.0, -4.0], np.float32)
    assert signal_to_noise(signal, signal * np.float32(1.125)) == pytest.approx(20 * np.log10(8), abs=1e-4)
    assert signal_to_noise(signal, signal) == float("inf")
    assert np.isnan(signal_to_noise(signal, signal * np.float32("nan")))
