"""What is frozen keeps its weights, momenta and statistics to the bit, and normalises as in evaluation."""

from dataclasses import replace

import pytest
import torch

from ssd_graph.config import NO_AUGMENT
from ssd_graph.graph.loss import multibox_loss
from ssd_graph.graph.matcher import match
from ssd_graph.graph.resnet import STAGES
from ssd_graph.graph.step import Predict, TrainStep
from tests.graph.test_step import CONFIG, DEFAULTS, RECIPE, make_batch, new_state


@pytest.mark.parametrize("stage", ["layer1", "trunk"])
def test_what_is_frozen_keeps_its_bits_and_all_else_moves(stage):
    step = TrainStep(CONFIG, replace(RECIPE, freeze=stage, ema_decay=0.9))
    state = new_state(step)
    state = state._replace(ema=state.parameters.clone())
    state.momentum.fill_(0.1)  # as of a run that began with nothing frozen
    state.bn_statistics.uniform_(0.5, 1.5)
    before = {name: tensor.clone() for name, tensor in state._asdict().items() if tensor is not None}
    for s in range(3):
        step(state, make_batch(s), DEFAULTS, torch.tensor(0.01))
    for name in ("parameters", "momentum", "ema"):
        old, new = (step.layout.split_parameters(t, t.dtype).named for t in (before[name], getattr(state, name)))
        kept = {key for key in old if torch.equal(old[key], new[key])}
        assert kept == {key for key in old if key.startswith(tuple(f"trunk.{m}." for m in STAGES[stage]))}
    old, new = (step.layout.split_buffers(t) for t in (before["bn_statistics"], state.bn_statistics))
    kept = {key for key in old if torch.equal(old[key], new[key])}
    assert kept == {key for key in old if key.startswith(tuple(f"trunk.{m}." for m in STAGES[stage]))}


def test_the_average_of_what_is_frozen_later_is_its_value():
    step = TrainStep(CONFIG, replace(RECIPE, freeze="trunk", ema_decay=0.9))
    state = new_state(step)
    state = state._replace(ema=torch.zeros_like(state.parameters))
    step(state, make_batch(0), DEFAULTS, torch.tensor(0.01))
    values, averages = (step.layout.split_parameters(t, t.dtype).named for t in (state.parameters, state.ema))
    assert {key for key in values if torch.equal(values[key], averages[key])} == {
        key for key in values if key.startswith("trunk.")
    }


def test_frozen_layers_normalise_as_in_evaluation():
    step = TrainStep(CONFIG, replace(RECIPE, freeze="trunk", augment=NO_AUGMENT))
    state = new_state(step)
    state.bn_statistics.uniform_(0.5, 1.5)
    batch = make_batch(0)
    metrics = step(state._replace(parameters=state.parameters.clone()), batch, DEFAULTS, torch.tensor(0.0))
    regression, logits = Predict(CONFIG)(state.parameters, state.bn_statistics, batch.images)
    targets = match(batch.boxes, batch.labels, DEFAULTS, torch.float32)
    torch.testing.assert_close(metrics.loss, multibox_loss(regression, logits, targets).loss)
