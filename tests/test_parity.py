"""The export check accepts what the rules allow and notices each way of being wrong."""

import numpy as np
import pytest
import torch

from ssd_graph.config import EvalConfig
from ssd_graph.parity import largest_difference, unexplained
from ssd_graph.postprocess import Postprocess

IDS = (1, 4, 9)


@pytest.fixture(scope="module", params=[5.0, 2.0], ids=["short list", "full list"])
def case(request):
    """Detections of two images, and the boxes and probabilities they come from."""
    rng = np.random.default_rng(4)
    regression = torch.from_numpy(rng.normal(0, 1, (2, 4, 8732)).astype(np.float32))
    logits = torch.from_numpy(rng.normal(0, 1, (2, 4, 8732)).astype(np.float32))
    logits[:, 0] += request.param
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


def test_identical_detections_differ_by_nothing(case):
    assert largest_difference(case[0], case[0], 0.05, 1e-5) == 0.0


def test_order_does_not_matter_but_labels_and_scores_do(case):
    reversed_order = [case[0][0], *(d.copy() for d in case[0][1:])]
    for field in reversed_order[1:]:
        field[0, : case[0][0][0]] = field[0, : case[0][0][0]][::-1].copy()
    assert largest_difference(case[0], reversed_order, 0.05, 1e-5) == 0.0
    moved = [case[0][0], case[0][1], case[0][2] + np.float32(0.01), case[0][3]]
    assert largest_difference(case[0], moved, 0.05, 1e-5) > 0.001
