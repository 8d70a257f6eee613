"""Several processes: their process group, their devices, and what they tell each other outside the graph."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ssd_graph.cli import launched
from ssd_graph.compilers.backend import DeviceKind, exact_float32, keep_freed_memory
from ssd_graph.training.failure import failing_together
from ssd_graph.training.launch import num_restarts

_PATIENCE = timedelta(hours=1)
"""How long a rank waits for another one: compilers may take many minutes, and longer on one rank."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among all processes of a run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def mean_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its mean over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size

    def from_main(self, value: Any) -> Any:
        """Rank 0's `value`, on every process."""
        return self.gather(value)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, in rank order, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined_world(kind: DeviceKind, first: int = 0, exact: bool = False) -> Iterator[tuple[World, torch.device]]:
    """This process among those of its run, and its device; without a launcher it is alone.

    The device comes first and stays current, since communication is set up on the current one. Compiled graphs that
    communicate are dropped before the group is.

    Args:
        first: number of the device of local rank 0.
        exact: whether float32 is to be computed in float32, see `exact_float32`.
    """
    world = World()
    if launched():
        world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    device = device_of(kind.type, world, first)
    if exact:
        exact_float32(device)
    if world.size == 1:
        yield world, device
        return
    # Ranks compile minutes apart, while the first to be ready waits in a collective, or for a connection.
    for name in ("HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"):
        os.environ.setdefault(name, str(int(_PATIENCE.total_seconds())))
    dist.init_process_group(kind.collectives, timeout=_PATIENCE, **_store_of_restart())
    stop = None
    with failing_together(world.rank):
        try:
            yield world, device
        except SystemExit as error:  # as a signal asked, on all ranks together
            stop = error
    if kind.type != "cpu":
        torch.accelerator.synchronize()
    torch.compiler.reset()
    dist.destroy_process_group()
    if stop:
        raise stop


def _store_of_restart() -> dict[str, Any]:
    """The store of a group that torchrun has started again on one machine, where the addresses of the processes before
    do not stand; elsewhere torch's own will do, or must.
    """
    if not num_restarts() or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    store, rank, size = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    store = PrefixStore(f"restart {num_restarts()}", store)
    return {"store": store, "rank": rank, "world_size": size}


def broadcast_state(tensors: Iterable[Tensor | None], world: World) -> None:
    """Overwrite `tensors` by rank 0's."""
    for tensor in tensors:
        if tensor is not None and world.size > 1:
            dist.broadcast(tensor, 0)


def device_of(kind: str, world: World, first: int = 0) -> torch.device:
    """The device of this process, made ready: of accelerators, the `first` plus local rank becomes the current one."""
    if kind == "cpu":
        keep_freed_memory()
        return torch.device("cpu")
    torch.accelerator.set_device_index(first + world.local_rank)  # gathering objects uses the current device
    return torch.device(kind, first + world.local_rank)
