"""The in-graph matcher gives the reference's assignment, ties, forced matches and padding included."""

import numpy as np
import pytest
import torch

from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.graph.matcher import match
from tests import reference

DEFAULTS = torch.from_numpy(default_boxes())


def random_truth(seed, count):
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0.1, 0.9, (count, 2)), rng.uniform(0.02, 0.7, (count, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1).clip(0, 1).astype(np.float32)
    return torch.from_numpy(corners), torch.from_numpy(rng.integers(1, 81, count))


def pad(boxes, labels, num_boxes=8):
    out_boxes, out_labels = torch.zeros(1, num_boxes, 4), torch.zeros(1, num_boxes, dtype=torch.int64)
    out_boxes[0, : len(boxes)], out_labels[0, : len(labels)] = boxes, labels
    return out_boxes, out_labels


@pytest.mark.parametrize("seed", range(4))
def test_same_labels_and_boxes_as_the_reference_loops(seed):
    # A ninth of the default boxes keeps the loops short; the rules do not know how many there are.
    subset = DEFAULTS[torch.arange(seed, len(DEFAULTS), 9)]
    boxes, labels = random_truth(seed, 5)
    expected_boxes, expected_labels = reference.encode(boxes, labels, subset)
    found = match(*pad(boxes, labels), subset, torch.float64)
    assert torch.equal(found.labels[0], expected_labels)
    assert (expected_labels > 0).sum() >= 5
    d = subset.double().t()
    decoded = torch.cat([found.boxes[0, :2] * 0.1 * d[2:] + d[:2], (found.boxes[0, 2:] * 0.2).exp() * d[2:]])
    torch.testing.assert_close(decoded.t(), expected_boxes.double(), rtol=0, atol=1e-12)


def test_every_ground_truth_gets_a_default_box_however_small_the_overlap():
    boxes = torch.tensor([[0.5, 0.5, 0.501, 0.501]])
    found = match(*pad(boxes, torch.tensor([7])), DEFAULTS, torch.float32)
    assert (found.labels == 7).sum() == 1


def test_of_two_equal_ground_truths_the_later_wins_their_favourite():
    boxes, _ = random_truth(3, 1)
    found = match(*pad(boxes.repeat(2, 1), torch.tensor([5, 9])), DEFAULTS, torch.float32)
    # Every other default box ties between the two and takes the first.
    assert (found.labels == 9).sum() == 1
    assert (found.labels == 5).sum() > 0


def test_of_equally_good_default_boxes_the_lowest_index_is_forced():
    # Four quarters of a square, exact in binary, and a ground truth in their middle.
    quarters = torch.tensor([[x, y, 0.25, 0.25] for y in (0.375, 0.625) for x in (0.375, 0.625)])
    found = match(*pad(torch.tensor([[0.375, 0.375, 0.625, 0.625]]), torch.tensor([3])), quarters, torch.float32)
    assert found.labels[0].tolist() == [3, 0, 0, 0]


def test_an_iou_of_exactly_one_half_is_not_positive():
    # All corners are exact in binary, and so are the overlaps of one half.
    defaults = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.25]])
    box = torch.tensor([[0.25, 0.25, 0.75, 0.5], [0.25, 0.375, 0.75, 0.625]])
    found = match(*pad(box[:1], torch.tensor([4])), defaults, torch.float32)
    assert found.labels[0].tolist() == [4, 0]  # forced on its favourite; the other overlaps by less
    found = match(*pad(box, torch.tensor([4, 6])), defaults, torch.float32)
    # Box 0 has IoU exactly 1/2 with default 0; box 1 has 1/2 with default 0 and 1 with default 1.
    assert found.labels[0].tolist() == [4, 6]
    found = match(*pad(box[1:], torch.tensor([6])), defaults, torch.float32)
    assert found.labels[0].tolist() == [0, 6]


def test_padding_matches_nothing_and_an_image_without_boxes_is_all_background():
    found = match(*pad(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), DEFAULTS, torch.float32)
    assert not found.labels.any()
    assert not found.boxes.any()


def test_background_targets_are_zero_and_all_targets_finite():
    boxes, labels = random_truth(1, 6)
    found = match(*pad(boxes, labels), DEFAULTS, torch.float32)
    assert found.boxes.isfinite().all()
    assert not found.boxes[:, :, found.labels[0] == 0].any()


def test_images_of_a_batch_do_not_influence_each_other():
    one, two = pad(*random_truth(1, 3)), pad(*random_truth(2, 8))
    both = match(torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]]), DEFAULTS, torch.float32)
    for i, single in enumerate((one, two)):
        alone = match(*single, DEFAULTS, torch.float32)
        assert torch.equal(both.labels[i], alone.labels[0])
        assert torch.equal(both.boxes[i], alone.boxes[0])
