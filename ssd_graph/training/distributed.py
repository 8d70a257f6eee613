"""Several processes: launching them, their process group, and what they tell each other outside the graph."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from ssd_graph.cli import launched
from ssd_graph.compilers.backend import keep_freed_memory
from ssd_graph.cores import usable_cores

_FINAL = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes after which no process is started again: what a user can mend, or asked for."""


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


def launch(num_processes: int, max_restarts: int) -> None:
    """Run this very command again in `num_processes` processes of this machine, by torch's elastic launcher.

    When a process dies, all are started again, up to `max_restarts` times, with `--resume auto` added to the
    command. A process that ends by `InputError` is not: its command would fail again.

    Raises:
        SystemExit: the run failed, with the exit code of the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // num_processes)))
    command = ["-u", *sys.argv]
    for restart in range(max_restarts + 1):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
        )
        try:
            elastic_launch(config, sys.executable)(*command)
            return
        except SignalException as error:  # passed on to the processes, which have saved
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode in _FINAL or restart == max_restarts:
                sys.exit(max(1, failure.exitcode))
        fate = f"was killed by signal {-failure.exitcode}" if failure.exitcode < 0 else f"exited {failure.exitcode}"
        print(f"process {rank} {fate}; restart {restart + 1} of {max_restarts}", flush=True)
        command = ["-u", *sys.argv, "--resume", "auto"]


def join_world(backend: str) -> World:
    """Join the process group that the launcher's environment describes; a lone process needs none.

    Args:
        backend: `gloo`, `nccl` or `hccl`.
    """
    if not launched():
        return World()
    _die_with_parent()
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if world.size > 1:
        dist.init_process_group(backend)
    return world


def _die_with_parent() -> None:
    """A rank must not train on when its launcher was killed: a resumed run would meet it in the same folder."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def leave_world() -> None:
    """Leave the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


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
