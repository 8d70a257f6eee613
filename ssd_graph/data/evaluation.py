"""Work on a split beside the network: batches of images that are decoded ahead, and results in their order."""

# N images of a batch

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.decode import evaluation_input

_AHEAD = 3

T = TypeVar("T")


def image_batches(
    split: CocoSplit, images: Sequence[int], batch_size: int, threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which of `images` are in a batch, int64 [N], and their pixels, uint8 [N, 300, 300, 3], decoded ahead.

    Raises:
        InputError: an image cannot be decoded, or has another size than the annotations say.
    """
    with pool_of(threads) as pool:

        def decode(chosen: np.ndarray) -> tuple[np.ndarray, list[Future[np.ndarray]]]:
            return chosen, [pool.submit(evaluation_input, split, i) for i in chosen.tolist()]

        chunks = (np.asarray(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
        for chosen, futures in _ahead(map(decode, chunks), _AHEAD):
            yield chosen, np.stack([future.result() for future in futures])


def beside(function: Callable[..., T], calls: Iterable[tuple[Any, ...]], threads: int) -> Generator[T, None, None]:
    """`function` of each of `calls`, in their order, computed by threads while the next calls are made."""
    with pool_of(threads) as pool:
        for future in _ahead((pool.submit(function, *arguments) for arguments in calls), threads + 1):
            yield future.result()


@contextmanager
def pool_of(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more once the body is left: an executor's own `with` waits for all asked of it."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items, each taken from its source `count` items before it is asked for."""
    queue: deque[T] = deque()
    for item in items:
        queue.append(item)
        if len(queue) > count:
            yield queue.popleft()
    yield from queue
