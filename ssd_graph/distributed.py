"""Several processes: launching them, their process group, and what they tell each other outside the graph."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, in rank order, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def launched() -> bool:
    """Whether a launcher (ours or torchrun) started this process."""
    return "LOCAL_RANK" in os.environ


def launch(num_processes: int) -> None:
    """Run this very command again in `num_processes` processes of this machine, by torch's elastic launcher."""
    from torch.distributed.run import main

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    main(["--standalone", f"--nproc_per_node={num_processes}", *sys.argv])


def join_world(backend: str) -> World:
    """Join the process group that the launcher's environment describes; a lone process needs none.

    Args:
        backend: `gloo`, `nccl` or `hccl`.
    """
    if not launched():
        return World()
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if world.size > 1:
        dist.init_process_group(backend)
    return world


def leave_world() -> None:
    """Leave the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def broadcast_state(tensors: tuple[Tensor, ...], world: World) -> None:
    """Overwrite `tensors` by rank 0's."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def device_of(kind: str, world: World) -> torch.device:
    """The device of this process; an accelerator is chosen by local rank and made the current one."""
    if kind == "cpu":
        return torch.device("cpu")
    torch.accelerator.set_device_index(world.local_rank)  # gathering objects uses the current device
    return torch.device(kind, world.local_rank)
