"""Starts a command in as many processes as it has devices, and again when one of them dies."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ssd_graph.cli import launched
from ssd_graph.cores import usable_cores

if TYPE_CHECKING:  # torch is imported when it is needed
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_LAUNCHER = "SSD_GRAPH_LAUNCHER"
"""The launcher's process number, for its children."""

_BEGUN = ".torchrun.tmp"
"""In a run's folder."""


def die_with_launcher() -> None:
    """Let this rank be killed when its launcher is: a resumed run would meet it in the same folder.

    To be called before anything that takes time. A launcher that was killed before is noticed too: its ranks would
    wait for one another, or for it, as long as ranks may.
    """
    if launched() and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.environ.get(_LAUNCHER, str(os.getppid())) != str(os.getppid()):
            os.kill(os.getpid(), signal.SIGKILL)


def num_restarts() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def note_beginning(out: Path) -> None:
    """Let `has_begun` say so after a restart; called when nothing can refuse the command any more."""
    if launched() and _LAUNCHER not in os.environ:
        (out / _BEGUN).write_text(_torchrun())


def has_begun(out: Path) -> bool:
    """Whether torchrun has started this process again and the run in `out` is what it had begun.

    A command that was refused is started again too, and has to be refused again.
    """
    return num_restarts() > 0 and (out / _BEGUN).is_file() and (out / _BEGUN).read_text() == _torchrun()


def _torchrun() -> str:
    """What tells the torchrun that started this process from others; of one on several machines only its run id."""
    agent = os.getppid() if os.environ.get("GROUP_WORLD_SIZE") == "1" else ""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} {agent}"


def _cause(failures: Mapping[int, "ProcessFailure"]) -> tuple[int, "ProcessFailure"]:
    """The rank that failed first, and how: a killed one before those whose collective with it broke off."""
    rank = min(failures, key=lambda rank: failures[rank].timestamp)
    killed = [r for r, failure in failures.items() if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM]
    # The launcher may see both at once; what it kills itself ends later.
    killed = [r for r in killed if failures[r].timestamp <= failures[rank].timestamp + 1]
    if failures[rank].exitcode == 1 and killed:
        rank = killed[0]
    return rank, failures[rank]


def launch(num_processes: int, max_restarts: int, again: Callable[[], Sequence[str]] = tuple) -> None:
    """Run this very command again in `num_processes` processes of this machine, by torch's elastic launcher.

    When a process dies, all are started again, up to `max_restarts` times, with the flags that `again` then
    gives added to the command. When one ends by an error of its own they are not: it would come again.

    Raises:
        SystemExit: the run failed, with the exit code of the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It reports signals and each ended process in its own words, by loggers that set their levels themselves.
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[_LAUNCHER] = str(os.getpid())
    # Asked to stop, processes save at their next console line; after half a minute they would be killed. torch 2.11
    # does not read it.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // num_processes)))
    command = ["-u", *sys.argv]
    for restart in range(max_restarts + 1):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",  # a container may know neither localhost nor its own name
            local_addr="127.0.0.1",
            max_restarts=0,
        )
        try:
            elastic_launch(config, sys.executable)(*command)
            return
        except SignalException as error:  # passed on to the processes, which have saved
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            rank, failure = _cause(error.failures)
            if failure.exitcode > 0 or restart == max_restarts:
                sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
        print(
            f"process {rank} was killed by signal {-failure.exitcode}; restart {restart + 1} of {max_restarts}",
            flush=True,
        )
        command = ["-u", *sys.argv, *again()]
