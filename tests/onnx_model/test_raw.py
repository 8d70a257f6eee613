"""The host's half of a raw model, in numpy, agrees with the graph's, edges included."""

import numpy as np
import pytest
import torch

from ssd_graph.config import EvalConfig
from ssd_graph.graph.augment import normalise
from ssd_graph.graph.postprocess import Postprocess
from ssd_graph.onnx_model import raw
from tests.graph.test_postprocess import IDS, random_outputs
from tests.scoring.agreement import largest_difference


def test_the_networks_input_is_the_graphs_normalisation_bit_by_bit():
    images = np.random.default_rng(0).integers(0, 256, (2, 300, 300, 3)).astype(np.uint8)
    expected = normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    assert np.array_equal(raw.network_input(images), expected)


@pytest.mark.parametrize(
    ("spread", "candidates"), [(6.0, 200), (4.5, 200), (2.0, 200), (4.5, 5)], ids=["few", "some", "many", "cut off"]
)
def test_detections_are_the_graphs(spread, candidates):
    config = EvalConfig(candidates_per_class=candidates, detections_per_image=min(200, 2 * candidates))
    regression, logits = random_outputs(1, spread, 2)
    graph = Postprocess(IDS, config)
    expected = [o.numpy() for o in graph(torch.from_numpy(regression), torch.from_numpy(logits))]
    found = raw.detections(regression, logits, IDS, config)
    assert expected[0].min() > 5
    assert np.array_equal(found[0], expected[0])
    assert largest_difference(expected, found, 0.05, 1e-5) < 1e-5
    for e, f in zip(expected, found, strict=True):
        assert (f.shape, f.dtype) == (e.shape, e.dtype)
        assert not any(row[count:].any() for row, count in zip(f, found[0], strict=True) if f.ndim > 1)


def test_an_image_without_detections_is_empty_and_spoils_no_other():
    regression, logits = random_outputs(2, 5.0, 2)
    logits[0, 0] += 50
    found = raw.detections(regression, logits, IDS, EvalConfig())
    alone = raw.detections(regression[1:], logits[1:], IDS, EvalConfig())
    assert found[0][0] == 0
    assert not found[1][0].any()
    assert all(np.array_equal(f[1], a[0]) for f, a in zip(found, alone, strict=True))


def pair(second):
    """Whether each of two boxes of a class, the first (0, 0, 1, 1), survives."""
    return raw._unsuppressed(np.array([[[0, 0, 1, 1], second]], np.float32), 0.5)[0].tolist()


def test_an_iou_of_exactly_one_half_is_dropped_and_just_less_is_kept():
    assert pair([0, 0, 1, 0.5]) == [True, False]
    assert pair([0, 0, 1, np.nextafter(np.float32(0.5), np.float32(0))]) == [True, True]


def test_a_suppressed_box_suppresses_nothing():
    chain = np.array([[[0, 0, 1, 1], [0.3, 0, 1.3, 1], [0.6, 0, 1.6, 1]]], np.float32)
    assert raw._unsuppressed(chain, 0.5)[0].tolist() == [True, False, True]
