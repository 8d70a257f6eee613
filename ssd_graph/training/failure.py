"""One rank's failure ends all ranks of a run within seconds, with one message and one exit code.

A rank that waits in a collective for one that has failed would wait for ever, and so would the failed one if it left
the process group, which is a collective too (NCCL, HCCL). So the first rank to fail notes it in the group's store,
says why, and ends at once; the others look into the store now and then.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from ssd_graph.cli import READER_LEFT, InputError, reader_left

_KEY = f"ssd_graph/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
"""torchrun's store outlives the processes that it starts again."""

_SECONDS = 0.5
"""Between two looks."""

_GONE = 10.0
"""Seconds without a store in which a run that is at its end ends."""


@contextmanager
def failing_together(rank: int) -> Iterator[None]:
    """End all ranks if the body raises on this one, or if another one fails meanwhile; SystemExit is no failure."""
    # A client of its own: the group's waits in collectives' set-up with its lock held.
    store: Store = dist.distributed_c10d._get_default_store().clone()  # pyright: ignore[reportAttributeAccessIssue]
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(store, rank, done), daemon=True, name="watch for failures")
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:  # before the loop takes it as a request: all ranks get it, and the launcher says so
        _end(130)
    except Exception as error:
        _fail(store, rank, error)
    finally:
        done.set()
        watcher.join(_GONE)  # Python's end aborts a process of which a thread is in the store's code


def _watch(store: Store, rank: int, done: threading.Event) -> None:
    try:
        while not done.wait(_SECONDS):
            if store.check([_KEY]):
                _end_after_others(rank, int(store.get(_KEY)))
    except Exception:  # the store has ended, with its launcher, with rank 0 where there is none, or with the run
        if not done.wait(_GONE):
            sys.stderr.write(f"rank {rank}: rank 0 or the launcher is gone\n")
            _end(1)


def _fail(store: Store, rank: int, error: Exception) -> NoReturn:
    code = 2 if isinstance(error, InputError) else 1
    if isinstance(error, BrokenPipeError) and reader_left():  # of which cli.run says nothing either
        code = READER_LEFT
    with suppress(Exception):  # the store is gone with its launcher
        if store.add(f"{_KEY}/count", 1) > 1:  # what a rank meets because another one failed says nothing
            _end_after_others(rank, int(store.get(_KEY)))
    if isinstance(error, InputError):
        sys.stderr.write(f"{Path(sys.argv[0]).name}: rank {rank}: {' '.join(str(error).split())}\n")
    elif code == 1:
        sys.stderr.write(f"rank {rank}:\n{''.join(traceback.format_exception(error))}")
    sys.stderr.flush()
    with suppress(Exception):
        store.set(_KEY, str(code))  # after the message: the launcher ends this rank when another one has ended
    _end_after_others(rank, code)


def _end_after_others(rank: int, code: int) -> NoReturn:
    """Where no launcher keeps the store rank 0 does, and it ends with that; so the others look first."""
    if rank == 0:
        time.sleep(2 * _SECONDS)
    _end(code)


def _end(code: int) -> NoReturn:
    """Without leaving the group, and without the clean-up that would wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
