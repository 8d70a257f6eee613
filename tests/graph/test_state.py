"""Flat tensors and named ones hold the same numbers under the model's own names."""

import torch

from ssd_graph.config import ModelConfig, model_config
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import StateLayout


def nano():
    torch.manual_seed(0)
    return SSD300(model_config("ssd300-nano", 5))


def test_state_dict_returns_the_models_own_tensors():
    model = nano()
    layout = StateLayout.of(model)
    named = layout.state_dict(layout.load(model.state_dict()))
    assert set(named) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(named[name], tensor)


def test_state_dict_is_a_view_of_the_flat_vector():
    model = nano()
    layout = StateLayout.of(model)
    state = layout.load(model.state_dict())
    state.parameters.fill_(3.0)
    assert all(bool((t == 3).all()) for n, t in layout.state_dict(state).items() if "running" not in n)


def test_order_is_weights_then_biases_then_norms():
    layout = StateLayout.of(SSD300(ModelConfig()))
    kinds = [0 if len(shape) > 1 else 2 if ".bn" in n or "downsample.1" in n else 1 for n, shape in layout.parameters]
    assert kinds == sorted(kinds)
    assert layout.num_convolution - layout.num_weights == 15_094 - 9_856  # biases of extra layers and heads
    assert sum(shape.numel() for _, shape in layout.parameters) == 19_972_534


def test_only_convolutions_are_cast_to_low_precision():
    layout = StateLayout.of(nano())
    named = layout.split_parameters(layout.load(nano().state_dict()).parameters, torch.bfloat16).named
    low = {n for n, t in named.items() if t.dtype == torch.bfloat16}
    assert "trunk.conv1.weight" in low
    assert "box_head.0.bias" in low
    assert {n for n in named if n not in low} == {n for n in named if ".bn" in n or "downsample.1" in n}


def test_a_layout_of_the_meta_device_is_the_same():
    with torch.device("meta"):
        meta = SSD300(model_config("ssd300-nano", 5))
    assert StateLayout.of(meta) == StateLayout.of(nano())
