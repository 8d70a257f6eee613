"""The eager baseline computes the same loss and gradients as the step, by the means that are fastest uncompiled."""

import pytest
import torch
from torch.func import functional_call

from ssd_graph.bench.baseline import plain_loss
from ssd_graph.config import model_config
from ssd_graph.graph.loss import multibox_loss
from ssd_graph.graph.matcher import match
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import StateLayout
from ssd_graph.graph.step import device_default_boxes
from tests.graph.test_step import make_batch


def test_loss_and_gradients_are_those_of_the_step():
    torch.manual_seed(0)
    model = SSD300(model_config("ssd300-nano", 7)).train()
    layout = StateLayout.of(model)
    parameters = layout.load(model.state_dict()).parameters.requires_grad_()
    named, heads = layout.split_parameters(parameters, torch.float32)
    batch = make_batch(0)
    images = batch.images.permute(0, 3, 1, 2).float() / 255
    targets = match(batch.boxes, batch.labels, device_default_boxes("cpu"), torch.float32)
    ours = plain_loss(*model(images), targets)
    theirs = multibox_loss(*functional_call(model, named, (images, heads)), targets).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    ours.backward()
    theirs.backward()
    gradients = layout.split_parameters(parameters.grad, torch.float32).named
    for name, a in model.named_parameters():
        difference = (a.grad - gradients[name]).norm() / gradients[name].norm().clamp_min(1e-12)
        assert difference < 1e-4, name


def test_an_image_without_objects_adds_nothing():
    labels = torch.zeros(2, 8732, dtype=torch.int64)
    labels[0, :5] = 3
    targets = type(match(*(make_batch(0)[1:3]), device_default_boxes("cpu"), torch.float32))(
        torch.zeros(2, 4, 8732), labels
    )
    boxes, logits = torch.randn(2, 4, 8732), torch.randn(2, 7, 8732)
    assert plain_loss(boxes, logits, targets).item() == pytest.approx(
        multibox_loss(boxes, logits, targets).loss.item(), rel=1e-6
    )
