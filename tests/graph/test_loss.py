"""The MultiBox loss equals the reference's double-sort form, and its edges are the reference's edges."""

import pytest
import torch

from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.graph.loss import mine_negatives, multibox_loss, smooth_l1
from ssd_graph.graph.matcher import Targets
from tests import reference

DEFAULTS = torch.from_numpy(default_boxes())
A = len(DEFAULTS)


def case(num_positive, num_classes=11, seed=0):
    """Random outputs and targets with the given numbers of positives, float64."""
    generator = torch.Generator().manual_seed(seed)
    n = len(num_positive)
    regression = torch.randn(n, 4, A, generator=generator, dtype=torch.float64)
    logits = torch.randn(n, num_classes, A, generator=generator, dtype=torch.float64)
    labels, boxes = torch.zeros(n, A, dtype=torch.int64), DEFAULTS.double().t().repeat(n, 1, 1)
    for i, count in enumerate(num_positive):
        where = torch.randperm(A, generator=generator)[:count]
        labels[i, where] = torch.randint(1, num_classes, (count,), generator=generator)
        boxes[i, :, where] *= 1 + 0.3 * torch.rand(4, count, generator=generator, dtype=torch.float64)
    d = DEFAULTS.double().t()
    encoded = torch.cat([(boxes[:, :2] - d[:2]) / d[2:] / 0.1, (boxes[:, 2:] / d[2:]).log() / 0.2], 1)
    return regression, logits, boxes, labels, Targets(encoded, labels)


@pytest.mark.parametrize("num_positive", [[1], [40, 3, 200], [0, 12], [3000]])
def test_loss_and_gradients_equal_the_reference(num_positive):
    regression, logits, boxes, labels, targets = case(num_positive)
    ours = [regression.clone().requires_grad_(), logits.clone().requires_grad_()]
    theirs = [regression.clone().requires_grad_(), logits.clone().requires_grad_()]
    loss = multibox_loss(*ours, targets).loss
    expected = reference.loss(*theirs, boxes, labels, DEFAULTS)
    assert abs((loss - expected).item()) < 1e-12 * max(1.0, expected.item())
    for a, b in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_positives_share_the_places_that_no_negative_is_left_for():
    # 3P = 7500 lies above the 6232 negatives: REF doubles 1268 arbitrary positives, here each a 1268/2500th.
    regression, logits, _, labels, targets = case([2500])
    entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (entropy.sum() + entropy[labels > 0].sum() * 1268 / 2500) / 2500
    assert float(multibox_loss(regression, logits, targets).class_loss) == pytest.approx(float(expected), rel=1e-12)


def test_an_image_without_positives_adds_nothing_but_counts_in_the_mean():
    regression, logits, _, _, targets = case([30, 0])
    both = multibox_loss(regression, logits, targets)
    alone = multibox_loss(regression[:1], logits[:1], Targets(targets.boxes[:1], targets.labels[:1]))
    assert float(both.loss) == pytest.approx(float(alone.loss) / 2, rel=1e-14)


def test_a_batch_without_any_positive_has_loss_and_gradient_zero():
    regression, logits, _, _, targets = case([0])
    logits.requires_grad_()
    loss = multibox_loss(regression, logits, targets).loss
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_three_negatives_are_mined_for_each_positive():
    hardness = torch.rand(2, 100)
    positive = torch.zeros(2, 100)
    positive[0, :5], positive[1, 7] = 1, 1
    weight = mine_negatives(hardness, positive, positive.sum(1))
    assert weight.sum(1).tolist() == [15, 3]
    kept = hardness[0][weight[0] > 0].min()
    assert kept >= hardness[0, 5:].sort(descending=True).values[14]


def test_with_more_than_a_quarter_positives_every_anchor_is_counted_again():
    positive = torch.zeros(1, 8732)
    positive[0, :3000] = 1
    weight = mine_negatives(torch.rand(1, 8732), positive, positive.sum(1))
    assert bool((weight == 1).all())


def test_equally_hard_negatives_share_the_places_that_are_left():
    hardness = torch.tensor([[9.0, 5.0, 4.0, 4.0, 4.0, 4.0, 1.0]])
    positive = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]])
    weight = mine_negatives(hardness, positive, positive.sum(1))
    assert weight.tolist() == [[0, 1, 0.5, 0.5, 0.5, 0.5, 0]]


def test_order_of_anchors_does_not_change_the_gradient_of_tied_ones():
    positive = torch.zeros(1, 50)
    positive[0, 10] = 1
    weight = mine_negatives(torch.full((1, 50), 2.0), positive, positive.sum(1))
    others = weight[0, positive[0] == 0]
    assert others.unique().numel() == 1
    assert float(others.sum()) == pytest.approx(3)


def test_smooth_l1_is_pytorchs():
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(smooth_l1(x), torch.nn.functional.smooth_l1_loss(x, x * 0, reduction="none"))


def test_loss_of_untrained_logits_is_log_c_for_each_counted_anchor():
    labels = torch.zeros(1, A, dtype=torch.int64)
    labels[0, 17] = 4
    losses = multibox_loss(torch.zeros(1, 4, A), torch.zeros(1, 81, A), Targets(torch.zeros(1, 4, A), labels))
    assert float(losses.class_loss) == pytest.approx(4 * 4.394449, rel=1e-6)
    assert float(losses.box_loss) == 0
    assert float(losses.num_positive) == 1
