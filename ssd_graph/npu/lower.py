"""Lowers the training step and the inference graph for an Ascend NPU that need not be there."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from ssd_graph.compilers.tracing import empty_state, fake, traceable_step
from ssd_graph.config import IMAGE_SIZE, MODELS, Amp, Freeze
from ssd_graph.graph.step import Predict
from ssd_graph.npu.capture import Soc, capture
from ssd_graph.npu.engine.facts import Facts, shipped_facts
from ssd_graph.npu.stand_in import load_stand_in
from ssd_graph.npu.statistics import Lowering

DEVICE = "npu:0"
"""Where a training run's tensors lie, which decides some of what torchair makes."""


def lower_step(
    socs: Sequence[Soc],
    preset: str,
    batch_size: int,
    amp: Amp,
    world_size: int,
    facts: Facts | None = None,
    freeze: Freeze = "none",
) -> dict[Soc, Lowering]:
    """Lower the training step of recipe mlperf-256, as rank 0 of `world_size`, for each SoC.

    Args:
        batch_size: images a device.
        facts: what kernels there are; the published ones if None.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    load_stand_in()
    with traceable_step(preset, batch_size, amp, world_size, device=DEVICE, freeze=freeze) as (step, arguments):
        return lower(step, arguments, socs, arguments[0].parameters, facts)


def lower_predict(
    socs: Sequence[Soc], preset: str, batch_size: int, amp: Amp, facts: Facts | None = None
) -> dict[Soc, Lowering]:
    """Lower the inference graph for each SoC.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    load_stand_in()
    predict, state = Predict(MODELS[preset], amp=amp), empty_state(MODELS[preset])
    with FakeTensorMode() as mode:
        images = torch.empty((batch_size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
        args = fake(mode, (state.parameters, state.bn_statistics, images), DEVICE)
        return lower(predict, args, socs, state.parameters, facts)


def lower(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    socs: Sequence[Soc] = ("a2",),
    weights: Tensor | None = None,
    facts: Facts | None = None,
) -> dict[Soc, Lowering]:
    """What `function(*args)` becomes on each SoC; `weights` is the argument that counts as parameters.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    graphs, breaks = capture(function, args, socs)
    facts = shipped_facts() if facts is None else facts
    return {soc: Lowering.of(graphs, breaks, soc, weights, facts) for soc in socs}
