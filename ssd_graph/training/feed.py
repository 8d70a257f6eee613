"""Batches on their way to the device: pinned memory, an asynchronous copy, one batch ahead of the step."""

from collections.abc import Generator
from contextlib import closing

import torch

from ssd_graph.data.samples import Batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch as tensors on `device`; on the CPU they are the arrays' own memory.

    An accelerator's copy starts from pinned memory and is not waited for. The arrays are free again on return.
    """
    tensors = map(torch.from_numpy, batch)
    if device.type == "cpu":
        return Batch(*tensors)
    return Batch(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors))


def feed(batches: Generator[Batch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """`batches` as tensors on `device`; an accelerator copies each while it works on the one before.

    Closing it closes `batches`.
    """
    with closing(batches):
        if device.type == "cpu":
            for batch in batches:
                yield to_device(batch, device)
                del batch  # so that its buffer is free before the next one is waited for
        else:
            yield from _ahead(batches, device)


def _ahead(batches: Generator[Batch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """Copies on a stream of their own, each begun before the batch in front of it is handed out."""
    copies = torch.Stream(device)
    following: tuple[Batch, torch.Event] | None = None
    for arrays in batches:
        current = following
        with copies:
            following = to_device(arrays, device), copies.record_event()
        del arrays
        if current is not None:
            yield _arrived(*current, device)
    if following is not None:
        yield _arrived(*following, device)


def _arrived(batch: Batch, copied: torch.Event, device: torch.device) -> Batch:
    """Have the stream in use wait for the copy, and the memory stay until that stream is done with it."""
    stream = torch.accelerator.current_stream(device)
    stream.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(stream)
    return batch
