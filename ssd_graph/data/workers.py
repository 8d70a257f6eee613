"""Processes that fill batches in shared memory; pixels are never pickled.

Image n of a rank's stream is filled by worker n modulo the number of workers, so no queue decides anything.
Processes and not threads: beside a busy Python thread, such as one that launches a training step, threads lose
most of their speed to the interpreter lock (docs/input.md).
"""

import signal
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.samples import Batch, Samples
from ssd_graph.data.shared import PROCESSES, SharedArrays

_BATCHES_AHEAD = 3
_BATCHES_LENT = 3
"""Batches a consumer may hold without a copy: the one in use, the one on its way to the device, and one more."""
_SECONDS_TO_END = 5.0


class _Job(NamedTuple):
    """What a worker needs to know."""

    samples: Samples
    """Without the arrays of its split, which are in `arrays`."""
    arrays: SharedArrays
    ring: list[SharedArrays]
    now: SharedArrays
    """`image`: the index of the image that each worker is at, should it not live to tell."""


class Workers:
    """Worker processes and the ring of buffers they fill, until `close`."""

    def __init__(self, samples: Samples, num_workers: int, num_boxes: int) -> None:
        layout = Batch.layout(samples.batch_size, num_boxes)
        self._ring = [SharedArrays(layout) for _ in range(_BATCHES_AHEAD + _BATCHES_LENT)]
        self._free = deque(range(len(self._ring)))
        self._filling: deque[int] = deque()
        self._now = SharedArrays({"image": ((num_workers,), np.int64)})
        self._split = samples.split
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        arrays, skeleton = _share_arrays(samples.split)
        job = _Job(replace(samples, split=skeleton), arrays, self._ring, self._now)
        PROCESSES.set_forkserver_preload([__name__, "ssd_graph.data.resize"])
        try:
            for index in range(num_workers):
                ours, theirs = PROCESSES.Pipe()
                self._connections.append(ours)
                work = (theirs, job, index, num_workers)
                process = PROCESSES.Process(target=_work, args=work, name=f"loader-{index}", daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    @property
    def wants_step(self) -> bool:
        """Whether another step should be begun."""
        return len(self._filling) < _BATCHES_AHEAD

    def begin(self, step: int) -> None:
        """Have the next batch filled with the samples of `step`."""
        buffer = self._free.popleft()
        self._filling.append(buffer)
        for connection in self._connections:
            with suppress(OSError):  # it has died; `finish` says so
                connection.send((buffer, step))

    def finish(self) -> tuple[Batch, list[str]]:
        """Wait for the oldest batch begun; returns it with what is wrong with the images passed over.

        The batch is a view of its buffer, which is filled anew only when nothing refers to any of the arrays any
        more, nor to anything made of them; it is a copy when more than three are held.

        Raises:
            InputError: an image cannot be used, or a worker was killed.
        """
        buffer = self._filling.popleft()
        skipped = [message for index in range(len(self._processes)) for message in self._receive(index)]
        if len(self._free) + len(self._filling) < _BATCHES_AHEAD:
            batch = Batch(*(array.copy() for array in self._ring[buffer].views().values()))
            self._free.append(buffer)
            return batch, skipped
        return Batch(**self._ring[buffer].views(partial(self._free.append, buffer))), skipped

    def _receive(self, index: int) -> list[str]:
        """A worker's answer for the oldest batch."""
        try:
            answer = self._connections[index].recv()
        except (EOFError, ConnectionError) as error:
            self._processes[index].join(_SECONDS_TO_END)
            path = self._split.path(int(self._now.views()["image"][index]))
            raise InputError(
                f"a loader process was killed (exit code {self._processes[index].exitcode}) at {path}; if memory is "
                "short, give fewer --workers, else look at that file"
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the processes; batches that are held stay as they are."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(_SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._connections.clear()
        self._processes.clear()


def _share_arrays(split: CocoSplit) -> tuple[SharedArrays, CocoSplit]:
    """The split's arrays in shared memory, of which all workers have one copy, and the split without them."""
    arrays = {f.name: getattr(split, f.name) for f in fields(split) if isinstance(getattr(split, f.name), np.ndarray)}
    shared = SharedArrays({name: (array.shape, array.dtype) for name, array in arrays.items()})
    for name, view in shared.views().items():
        view[...] = arrays[name]
    return shared, replace(split, **{name: array[:0] for name, array in arrays.items()})


def _work(connection: Connection, job: _Job, index: int, num_workers: int) -> None:
    """A worker's life: fill its slots of each batch asked for, until the connection closes."""
    import torch

    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent gets them too, and closes the connection
        signal.signal(number, signal.SIG_IGN)
    samples = replace(job.samples, split=replace(job.samples.split, **job.arrays.views()))
    buffers = [Batch(**shared.views()) for shared in job.ring]
    now = job.now.views()["image"][index:]
    with suppress(EOFError, OSError):
        while True:
            buffer, step = connection.recv()
            first = (index - step * samples.batch_size) % num_workers
            slots = range(first, samples.batch_size, num_workers)
            connection.send(_fill(samples, buffers[buffer], step, slots, now))


def _fill(samples: Samples, batch: Batch, step: int, slots: range, now: np.ndarray) -> list[str] | Exception:
    """Fill slots; returns what is wrong with images passed over, or why it cannot go on."""
    skipped: list[str] = []
    try:
        for plan in samples.plan(batch, step, slots):
            now[0] = plan.image
            skipped += samples.write(batch, plan)
    except InputError as error:
        return error
    except Exception as error:
        failure = RuntimeError(f"{samples.split.path(int(now[0]))}: {type(error).__name__}: {error}")
        failure.add_note(traceback.format_exc())
        return failure
    return skipped
