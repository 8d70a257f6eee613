"""The eager baseline computes the same loss and gradients as the step, by the means that are fastest uncompiled."""

import pytest
import torch

from ssd_graph.bench.baseline import _PlainHeads, plain_loss
from ssd_graph.config import model_config
from ssd_graph.graph.loss import multibox_loss
from ssd_graph.graph.matcher import match
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.step import device_default_boxes
from tests.graph.test_step import make_batch


def test_loss_and_gradients_are_those_of_the_step():
    torch.manual_seed(0)
    plain = _PlainHeads(model_config("ssd300-nano", 7)).train()
    model = SSD300(model_config("ssd300-nano", 7)).train()
    model.load_state_dict(plain.state_dict())
    batch = make_batch(0)
    images = batch.images.permute(0, 3, 1, 2).float() / 255
    targets = match(batch.boxes, batch.labels, device_default_boxes("cpu"), torch.float32)
    ours, theirs = plain_loss(*plain(images), targets), multibox_loss(*model(images), targets).total
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    ours.backward()
    theirs.backward()
    for (name, a), b in zip(plain.named_parameters(), model.parameters(), strict=True):
        difference = (a.grad - b.grad).norm() / b.grad.norm().clamp_min(1e-12)
        assert difference < 1e-4, name


def test_an_image_without_objects_adds_nothing():
    labels = torch.zeros(2, 8732, dtype=torch.int64)
    labels[0, :5] = 3
    targets = type(match(*(make_batch(0)[1:3]), device_default_boxes("cpu"), torch.float32))(
        torch.zeros(2, 4, 8732), labels
    )
    boxes, logits = torch.randn(2, 4, 8732), torch.randn(2, 7, 8732)
    assert plain_loss(boxes, logits, targets).item() == pytest.approx(
        multibox_loss(boxes, logits, targets).total.item(), rel=1e-6
    )
