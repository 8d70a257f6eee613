"""Lowers the training step and the inference graph for an Ascend NPU that need not be there."""

# G boxes an image

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from ssd_graph.config import IMAGE_SIZE, RECIPES, Amp, model_config
from ssd_graph.loader import Batch
from ssd_graph.npu.capture import Soc, capture
from ssd_graph.npu.statistics import Lowering
from ssd_graph.state import StateLayout, TrainState
from ssd_graph.step import Predict, TrainStep, device_default_boxes

NUM_CLASSES = 81
"""COCO's categories and the background."""

NUM_BOXES = 96
"""G of COCO's training images, whose fullest has 93 boxes."""


def lower_step(
    preset: str, batch_size: int, amp: Amp, world_size: int, soc: Soc = "a2", num_boxes: int = NUM_BOXES
) -> Lowering:
    """Lower the training step of recipe mlperf-256, as rank 0 of `world_size`.

    Args:
        batch_size: images a device.
        num_boxes: G.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    return lower_step_for((soc,), preset, batch_size, amp, world_size, num_boxes)[soc]


def lower_step_for(
    socs: Sequence[Soc], preset: str, batch_size: int, amp: Amp, world_size: int, num_boxes: int = NUM_BOXES
) -> dict[Soc, Lowering]:
    """`lower_step` for several SoCs, traced once."""
    with _ranks(world_size):
        config = model_config(preset, NUM_CLASSES)
        step = TrainStep(config, RECIPES["mlperf-256"], amp=amp, world_size=world_size)
        state = _empty_state(step.layout)
        batch = Batch(*map(torch.from_numpy, Batch.empty(batch_size, num_boxes)))
        with FakeTensorMode() as mode:
            args = _fake(mode, (state, batch, device_default_boxes("cpu"), torch.empty(())))
            return lower(step, args, socs, state.parameters)


def lower_predict(preset: str, batch_size: int, amp: Amp, soc: Soc = "a2") -> Lowering:
    """Lower the inference graph.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    return lower_predict_for((soc,), preset, batch_size, amp)[soc]


def lower_predict_for(socs: Sequence[Soc], preset: str, batch_size: int, amp: Amp) -> dict[Soc, Lowering]:
    """`lower_predict` for several SoCs, traced once."""
    predict = Predict(model_config(preset, NUM_CLASSES), amp=amp)
    state = _empty_state(predict.layout)
    images = torch.empty((batch_size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    with FakeTensorMode() as mode:
        args = _fake(mode, (state.parameters, state.bn_statistics, images))
        return lower(predict, args, socs, state.parameters)


def lower(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    socs: Sequence[Soc] = ("a2",),
    weights: Tensor | None = None,
) -> dict[Soc, Lowering]:
    """What `function(*args)` becomes on each SoC; `weights` is the argument that counts as parameters.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    graphs, breaks = capture(function, args, socs)
    return {soc: Lowering.of(graphs, breaks, soc, weights) for soc in socs}


def _empty_state(layout: StateLayout) -> TrainState:
    num_parameters = sum(shape.numel() for _, shape in layout.parameters)
    num_statistics = sum(shape.numel() for _, shape in layout.buffers)
    return TrainState(
        parameters=torch.empty(num_parameters),
        momentum=torch.empty(num_parameters),
        bn_statistics=torch.empty(num_statistics),
        loss_scale=torch.empty(()),
        num_skipped=torch.empty((), dtype=torch.int64),
        skip_streak=torch.empty((), dtype=torch.int64),
        finite_streak=torch.empty((), dtype=torch.int64),
    )


def _fake(mode: FakeTensorMode, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with tensors that have no memory."""
    return pytree.tree_map_only(Tensor, mode.from_tensor, args)


@contextmanager
def _ranks(world_size: int) -> Iterator[None]:
    """A process group of `world_size` ranks that talks to nobody, for the collectives to refer to."""
    if world_size == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized(), "lower a step outside any process group"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
