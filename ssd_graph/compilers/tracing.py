"""The step as compilers are shown it where nothing is to run: arguments without memory, and where each node is from."""

# G boxes an image

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from ssd_graph.config import MODELS, RECIPES, Amp, Freeze, ModelConfig
from ssd_graph.data.samples import Batch
from ssd_graph.graph.model import skeleton
from ssd_graph.graph.state import StateLayout, TrainState
from ssd_graph.graph.step import TrainStep, device_default_boxes

NUM_BOXES = 96
"""G of COCO's training images, whose fullest has 93 boxes."""

STAGES = {
    "augment.py": "augment",
    "matcher.py": "match",
    "boxes.py": "match",
    "default_boxes.py": "match",
    "state.py": "unpack",
    "model.py": "network",
    "resnet.py": "network",
    "loss.py": "loss",
}
"""The part of the step that a source file makes; step.py makes the backward pass, the reduction and the update."""


@contextmanager
def traceable_step(
    preset: str,
    batch_size: int,
    amp: Amp,
    world_size: int = 1,
    num_boxes: int = NUM_BOXES,
    memory_format: torch.memory_format = torch.contiguous_format,
    device: str = "cpu",
    freeze: Freeze = "none",
) -> Iterator[tuple[TrainStep, tuple[TrainState, Batch, Tensor, Tensor]]]:
    """The step of recipe mlperf-256 as rank 0 of `world_size`, and fake tensors on a device to call it with.

    `batch_size` counts images a device, `num_boxes` is G.
    """
    config, recipe = MODELS[preset], replace(RECIPES["mlperf-256"], freeze=freeze)
    state = empty_state(config)
    with _ranks(world_size), FakeTensorMode() as mode:
        step = TrainStep(config, recipe, amp=amp, world_size=world_size, memory_format=memory_format)
        batch = Batch(*map(torch.from_numpy, Batch.empty(1, num_boxes)))
        batch = Batch(*(torch.empty((batch_size, *array.shape[1:]), dtype=array.dtype) for array in batch))
        yield step, fake(mode, (state, batch, device_default_boxes("cpu"), torch.empty(())), device)


def empty_state(config: ModelConfig) -> TrainState:
    """A state of the right shapes, on the device `meta`."""
    network = skeleton(config)
    return StateLayout.of(network).load(network.state_dict())


def fake(mode: FakeTensorMode, arguments: Any, device: str) -> Any:
    """The arguments with tensors that have no memory, on a device that need not be there."""

    def on_device(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    return pytree.tree_map_only(Tensor, on_device, arguments)


@contextmanager
def _ranks(world_size: int) -> Iterator[None]:
    """A process group of `world_size` ranks that talks to nobody, for the collectives to refer to."""
    if world_size == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized(), "trace a step outside any process group"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def flops(module: fx.GraphModule) -> int:
    """Floating-point operations of an FX graph's convolutions and matrix products."""
    total = 0
    for node in module.graph.nodes:
        count = flop_registry.get(getattr(node.target, "overloadpacket", None))
        if count is not None:
            args = map_arg(node.args, lambda n: n.meta["val"])
            total += count(*args, **node.kwargs, out_val=node.meta["val"])
    return total


def source_line(node: fx.Node) -> str:
    """`ssd_graph/graph/file.py:line` of the innermost code outside torch that made this node, or `unknown`.

    Nodes of the backward pass were made where the gradient is taken.
    """
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    torch_folder = Path(torch.__file__).parent
    for name, line in reversed(frames):
        path = Path(name)
        if not {torch_folder, torch_folder.with_name("torch_npu")} & set(path.parents):
            root = _PACKAGE if _PACKAGE in path.parents else path.parent
            return f"{path.relative_to(root.parent)}:{line}"
    return "unknown"


def stage(node: fx.Node) -> str:
    """The part of the step that a node belongs to, by the line that made it, or `unknown`."""
    file, _, line = source_line(node).rpartition("/")[2].partition(":")
    if file != "step.py":
        return STAGES.get(file, "unknown")
    lines, first = _source(TrainStep._average_over_ranks)
    if 0 <= int(line) - first < len(lines):
        return "reduce"
    lines, first = _source(TrainStep)
    return "backward" if "= differentiate(" in lines[int(line) - first] else "update"


_PACKAGE = Path(__file__).parents[1]

_source = cache(inspect.getsourcelines)
"""Parses the file at each call, and each of thousands of nodes asks."""
