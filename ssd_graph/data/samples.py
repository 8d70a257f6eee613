"""A sample of the training stream: which image, how it is changed, and its slot of a batch of fixed shape."""

# I images of the split, N images of this rank's batch, G boxes an image, B images of all ranks' batch

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.config import IMAGE_SIZE, AugmentConfig
from ssd_graph.data.cache import PackedImages
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.decode import decode_part
from ssd_graph.data.shared import Layout
from ssd_graph.data.transforms import NUM_BLENDS, PixelBox, draw_colour_jitter, pixel_box, random_crop

_MOST_SUBSTITUTES = 16
"""Unusable images in a row that end a run whatever it was told: more are no accident but a lost folder."""


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
    def layout(num_images: int, num_boxes: int) -> Layout:
        """Shape and dtype of each field."""
        return {
            "images": ((num_images, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
            "boxes": ((num_images, num_boxes, 4), np.float32),
            "labels": ((num_images, num_boxes), np.int64),
            "flip": ((num_images,), np.bool_),
            "blends": ((num_images, NUM_BLENDS, 3), np.float32),
            "hue": ((num_images,), np.float32),
        }

    @staticmethod
    def empty(num_images: int, num_boxes: int) -> "Batch":
        """A batch to be filled."""
        return Batch(*(np.zeros(*described) for described in Batch.layout(num_images, num_boxes).values()))


class Plan(NamedTuple):
    """A slot whose pixels are still to be written."""

    slot: int
    epoch: int
    image: int
    crop: PixelBox


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The stream of one rank: sample k of all ranks' is position k % I of the shuffled epoch k // I."""

    split: CocoSplit
    augment: AugmentConfig
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    offset: int = 0
    """Number of step 0's first sample, see Schedule.offset."""
    skip_bad: bool = False
    """Whether the next image in file order takes the place of one that cannot be used."""
    cache: PackedImages | None = None
    """Where the images are taken from, instead of their files."""

    def position(self, step: int, slot: int) -> tuple[int, int]:
        """(epoch, image index) of this rank's `slot` in `step`."""
        number = self.offset + (step * self.world_size + self.rank) * self.batch_size + slot
        epoch, position = divmod(number, len(self.split))
        return epoch, int(_order(self.seed, epoch, len(self.split))[position])

    def plan(self, batch: Batch, step: int, slots: Iterable[int]) -> list[Plan]:
        """Write all but the pixels of some slots: boxes, and the draws of what the graph does.

        Apart from `write`, since these many small calls take a third of the time when nothing lies between them.
        """
        plans = []
        for slot in slots:
            epoch, i = self.position(step, slot)
            plans.append(Plan(slot, epoch, i, self._annotate(batch, slot, i, generator(self.seed, epoch, i + 1))))
        return plans

    def write(self, batch: Batch, plan: Plan) -> list[str]:
        """Write a slot's pixels; returns what is wrong with each image that had to be passed over.

        A substitute is changed by the random numbers of the image it stands for, so it depends on nothing but
        the data set and the seed.

        Raises:
            InputError: an image cannot be used, unless `skip_bad`; or too many in a row.
        """
        slot, epoch, i, box = plan
        skipped: list[str] = []
        while True:
            try:
                self._write_pixels(batch, slot, i, box)
                return skipped
            except InputError as error:
                if not self.skip_bad or len(skipped) == min(_MOST_SUBSTITUTES, len(self.split) - 1):
                    raise
                skipped.append(str(error))
                i = (i + 1) % len(self.split)
                box = self._annotate(batch, slot, i, generator(self.seed, epoch, plan.image + 1))

    def _annotate(self, batch: Batch, slot: int, i: int, rng: np.random.Generator) -> PixelBox:
        """Write a slot's boxes and draws; returns the crop."""
        size = self.split.size(i)
        boxes, labels = self.split.boxes_of(i)
        box = (0, 0, *size)
        if self.augment.crop:
            crop, boxes, labels = random_crop(rng, boxes, labels, self.augment.crop_attempts)
            box = pixel_box(crop, size)
        batch.boxes[slot], batch.labels[slot] = 0, 0
        batch.boxes[slot, : len(boxes)] = boxes
        batch.labels[slot, : len(labels)] = labels
        batch.flip[slot] = rng.random() < self.augment.flip_probability
        batch.blends[slot], batch.hue[slot] = draw_colour_jitter(rng, self.augment)
        return box

    def _write_pixels(self, batch: Batch, slot: int, i: int, box: PixelBox) -> None:
        from ssd_graph.data.resize import resize_into  # imports torch, which the evaluator does without

        left, top, right, bottom = box
        size = self.split.size(i)
        pixels = (
            self.cache.pixels(i, size)
            if self.cache
            else decode_part(self.split.path(i), size, bottom, upright=self.split.upright)
        )
        resize_into(pixels[top:bottom, left:right], batch.images[slot])


def generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """A counter-based generator of its own for each (seed, epoch, stream); stream 0 shuffles the epoch."""
    key = np.array([seed % 2**64, (epoch << 32) | stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """The shuffled image indices of an epoch."""
    return generator(seed, epoch, 0).permutation(num_images)
