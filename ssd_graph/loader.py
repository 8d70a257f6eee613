"""Training batches of fixed shape, the same for any number of workers and ranks.

Training is one endless stream of samples: number k is position `k % I` of the shuffled epoch `k // I`. Step
s of a run takes numbers `s * B` to `s * B + B - 1`, of which each rank takes its own slice. So every epoch
is covered in full, batches never run short (they may span two epochs), and any step can be produced
without producing the ones before it.
"""

# I images of the split, N images of this rank's batch, G boxes an image, B images of all ranks' batch

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.coco import CocoSplit
from ssd_graph.config import IMAGE_SIZE, AugmentConfig
from ssd_graph.transforms import NUM_BLENDS, cut, decode, draw_colour_jitter, preprocess, random_crop

_BATCHES_AHEAD = 3


class Batch(NamedTuple):
    """Everything that crosses to the device in a step: numpy arrays here, torch tensors there."""

    images: Any
    """uint8 RGB [N, 300, 300, 3], cropped and resized, not flipped."""
    boxes: Any
    """float32 xyxy [N, G, 4] relative to `images`, not flipped; zeros behind the last."""
    labels: Any
    """int64 [N, G], 0 is padding."""
    flip: Any
    """bool [N]: mirror the image left to right."""
    blends: Any
    """float32 [N, NUM_BLENDS, 3], see transforms.ColourJitter."""
    hue: Any
    """float32 [N], turns."""

    @staticmethod
    def empty(num_images: int, num_boxes: int) -> Batch:
        """A batch to be filled."""
        return Batch(
            images=np.zeros((num_images, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
            boxes=np.zeros((num_images, num_boxes, 4), np.float32),
            labels=np.zeros((num_images, num_boxes), np.int64),
            flip=np.zeros(num_images, bool),
            blends=np.zeros((num_images, NUM_BLENDS, 3), np.float32),
            hue=np.zeros(num_images, np.float32),
        )


class Loader:
    """Batches of a split for one rank of a run."""

    def __init__(
        self,
        split: CocoSplit,
        batch_size: int,
        augment: AugmentConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
    ) -> None:
        """`batch_size` counts this rank's images; `workers` decode in threads, 0 in the caller's."""
        self.split, self.batch_size, self.augment = split, batch_size, augment
        self.seed, self.rank, self.world_size, self.workers = seed, rank, world_size, workers
        self.num_boxes = -(-split.max_boxes // 8) * 8
        """G, the same for the whole run: the split's largest count rounded up to a multiple of 8."""

    def batches(self, first_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of steps `first_step`, `first_step + 1`, ... without end.

        Raises:
            InputError: an image cannot be decoded.
        """
        if not self.workers:
            step = first_step
            while True:
                batch = Batch.empty(self.batch_size, self.num_boxes)
                for slot in range(self.batch_size):
                    self._fill(batch, slot, step)
                yield batch
                step += 1
        with ThreadPoolExecutor(self.workers, thread_name_prefix="loader") as pool:
            queue: deque[tuple[Batch, list[Future[None]]]] = deque()
            step = first_step
            try:
                while True:
                    while len(queue) < _BATCHES_AHEAD:
                        batch = Batch.empty(self.batch_size, self.num_boxes)
                        slots = range(self.batch_size)
                        queue.append((batch, [pool.submit(self._fill, batch, slot, step) for slot in slots]))
                        step += 1
                    batch, futures = queue.popleft()
                    for future in futures:
                        future.result()
                    yield batch
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def sample_of(self, step: int, slot: int) -> tuple[int, int]:
        """(epoch, image index) of this rank's `slot` in `step`."""
        number = (step * self.world_size + self.rank) * self.batch_size + slot
        epoch, position = divmod(number, len(self.split))
        return epoch, int(_order(self.seed, epoch, len(self.split))[position])

    def _fill(self, batch: Batch, slot: int, step: int) -> None:
        epoch, i = self.sample_of(step, slot)
        rng = _generator(self.seed, epoch, i + 1)
        boxes, labels = self.split.boxes_of(i)
        image = decode(self.split.path(i))
        if self.augment.crop:
            crop, boxes, labels = random_crop(rng, boxes, labels, self.augment.crop_attempts)
            image = cut(image, crop)
        batch.images[slot] = preprocess(image)
        batch.boxes[slot, : len(boxes)] = boxes
        batch.labels[slot, : len(labels)] = labels
        batch.flip[slot] = rng.random() < self.augment.flip_probability
        batch.blends[slot], batch.hue[slot] = draw_colour_jitter(rng, self.augment)


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """A counter-based generator of its own for each (seed, epoch, stream); stream 0 shuffles the epoch."""
    key = np.array([seed % 2**64, (epoch << 32) | stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """The shuffled image indices of an epoch."""
    return _generator(seed, epoch, 0).permutation(num_images)
