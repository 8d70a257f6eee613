"""Proves that the benchmark's baseline does the reference's work: its targets are the graph's, its pixels normal."""

import numpy as np
import torch

from ssd_graph.bench.reference_pipeline import encode_targets, reference_sample
from ssd_graph.boxes import xyxy_to_cxcywh
from ssd_graph.config import NO_AUGMENT, PIXEL_MEAN, PIXEL_STD, AugmentConfig
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode as decode_image
from ssd_graph.data.decode import preprocess
from ssd_graph.graph.default_boxes import decode, default_boxes
from ssd_graph.graph.matcher import match

DEFAULTS = default_boxes()


def sample(split, i, config, seed=0):
    return reference_sample(split.path(i), *split.boxes_of(i), np.random.default_rng(seed), config, DEFAULTS)


def test_targets_are_those_of_the_graph(tiny_coco):
    split = load_split(tiny_coco, "train")
    for i in range(len(split)):
        boxes, labels = split.boxes_of(i)
        matched, classes = encode_targets(boxes, labels, DEFAULTS)
        targets = match(
            torch.from_numpy(boxes)[None], torch.from_numpy(labels)[None], torch.from_numpy(DEFAULTS), torch.float32
        )
        assert classes.tolist() == targets.labels[0].tolist()
        positive = classes > 0
        assert positive.any()
        expected = decode(targets.boxes[0].T.numpy(), DEFAULTS)[positive]
        np.testing.assert_allclose(matched[positive], expected, atol=1e-5)
        assert {tuple(b) for b in matched[positive].tolist()} <= {tuple(b) for b in xyxy_to_cxcywh(boxes).tolist()}


def test_without_augmentation_pixels_are_the_normalised_evaluation_input(tiny_coco):
    split = load_split(tiny_coco, "train")
    image, _, _ = sample(split, 0, NO_AUGMENT)
    expected = preprocess(decode_image(split.path(0))).transpose(2, 0, 1).astype(np.float32)
    assert image.shape == (3, 300, 300)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (PIXEL_MEAN, PIXEL_STD))
    # The way to HSV and back costs a few levels even if the hue stays.
    np.testing.assert_allclose((image * std + mean) * 255, expected, atol=6)


def test_augmentation_changes_the_sample_and_nothing_else_does(tiny_coco):
    split = load_split(tiny_coco, "train")
    first, again, other = (sample(split, 1, AugmentConfig(), seed) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()
