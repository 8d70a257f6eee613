"""Detections follow the reference's rules, edges included, against a plain loop over classes and boxes."""

import numpy as np
import pytest
import torch

from ssd_graph.config import EvalConfig
from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.graph.postprocess import Postprocess, below, nms

DEFAULTS = default_boxes().astype(np.float64)
IDS = (1, 4, 9)


def overlap(a, b):
    w, h = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def plain_detections(regression, logits):
    """Best-first (score, label, box) of one image: regression [4, A], logits [C, A], float64."""
    centre = regression[:2].T * 0.1 * DEFAULTS[:, 2:] + DEFAULTS[:, :2]
    size = np.exp(regression[2:].T * 0.2) * DEFAULTS[:, 2:]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    exponents = np.exp(logits - logits.max(0))
    probabilities = exponents / exponents.sum(0)
    found = []
    for k in range(1, len(logits)):
        candidates = [a for a in np.argsort(-probabilities[k])[:200] if probabilities[k, a] > 0.05]
        while candidates:
            best = candidates.pop(0)
            found.append((probabilities[k, best], IDS[k - 1], boxes[best]))
            candidates = [a for a in candidates if overlap(boxes[a], boxes[best]) < 0.5]
    return sorted(found, key=lambda d: -d[0])[:200]


def random_outputs(seed, spread, num_images=1):
    rng = np.random.default_rng(seed)
    regression = rng.normal(0, 1, (num_images, 4, 8732)).astype(np.float32)
    logits = rng.normal(0, 1, (num_images, len(IDS) + 1, 8732)).astype(np.float32)
    logits[:, 0] += spread
    return regression, logits


@pytest.mark.parametrize(("seed", "spread"), [(0, 6.0), (1, 4.5), (2, 2.0)])
def test_detections_equal_the_plain_loop(seed, spread):
    """Few, some and far more than 200 candidates of each class."""
    regression, logits = random_outputs(seed, spread)
    found = Postprocess(IDS, EvalConfig())(torch.from_numpy(regression), torch.from_numpy(logits))
    expected = plain_detections(regression[0].astype(np.float64), logits[0].astype(np.float64))
    count = int(found.num_detections[0])
    assert count == len(expected) > 5
    np.testing.assert_allclose(found.scores[0, :count], [d[0] for d in expected], atol=1e-6)
    assert found.labels[0, :count].tolist() == [d[1] for d in expected]
    np.testing.assert_allclose(found.boxes[0, :count], [d[2] for d in expected], atol=1e-5)
    assert not any(bool(t[0, count:].any()) for t in found[1:])


def test_an_image_without_any_box_above_the_threshold_has_no_detections_and_spoils_no_other():
    regression, logits = random_outputs(3, 5.0)
    quiet = logits.copy()
    quiet[:, 0] += 50
    both = Postprocess(IDS, EvalConfig())(
        torch.from_numpy(np.repeat(regression, 2, 0)), torch.from_numpy(np.concatenate([quiet, logits]))
    )
    alone = Postprocess(IDS, EvalConfig())(torch.from_numpy(regression), torch.from_numpy(logits))
    assert int(both.num_detections[0]) == 0
    assert not both.boxes[0].any()
    assert all(torch.equal(b[1], a[0]) for a, b in zip(alone, both, strict=True))


def run_nms(boxes, scores, iou=0.5, score=0.05):
    boxes, scores = torch.tensor([boxes]), torch.tensor([[scores]])
    return nms(boxes, scores, 200, below(iou), score)[:, 2].tolist()


def test_an_iou_of_exactly_one_half_is_dropped_and_just_less_is_kept():
    half = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]]
    assert run_nms(half, [0.9, 0.8]) == [0]
    less = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, float(np.nextafter(np.float32(0.5), np.float32(0)))]]
    assert run_nms(less, [0.9, 0.8]) == [0, 1]


def test_a_score_of_exactly_the_threshold_is_not_a_detection():
    threshold = float(np.float32(0.05))
    apart = [[0.0, 0.0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6]]
    assert run_nms(apart, [threshold, 0.06]) == [1]


def test_of_equal_scores_the_lower_index_is_kept():
    same = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]]
    assert run_nms(same, [0.7, 0.7]) == [0]


def test_boxes_of_different_classes_do_not_suppress_each_other():
    logits = torch.full((1, 4, 8732), -20.0)
    logits[0, 0] = 20.0
    logits[0, :, 100] = torch.tensor([0.0, 1.0, 1.1, -20.0])
    found = Postprocess(IDS, EvalConfig())(torch.zeros(1, 4, 8732), logits)
    assert found.labels[0, :2].tolist() == [4, 1]
    assert int(found.num_detections[0]) == 2
