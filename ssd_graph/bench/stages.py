"""The stages of the input pipeline, each alone on the same few images: what pipeline.py measures on one core."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from ssd_graph.bench.reference_pipeline import reference_sample
from ssd_graph.config import AugmentConfig
from ssd_graph.data import jpeg
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.decode import decode_part, preprocess, read_file
from ssd_graph.data.resize import resize_into
from ssd_graph.data.samples import Batch, Samples, generator
from ssd_graph.data.transforms import PixelBox, pixel_box, random_crop
from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.training.feed import to_device

STAGES = ("read", "decode", "crop", "resize", "collate", "copy")
DECODER = "simplejpeg"
"""What training decodes ordinary files with; the others are for comparison."""
AUGMENT = AugmentConfig()

Work = Callable[[], int]
"""Does its work once and returns for how many images."""


class Stages:
    """A batch of images and what is done with them: each method does it once, and returns for how many."""

    def __init__(self, split: CocoSplit, device: torch.device) -> None:
        """Of a split of a few images; batches are copied to `device`."""
        self.split, self.device, self.all = split, device, range(len(split))
        self.samples = Samples(split=split, augment=AUGMENT, batch_size=len(split))
        self.batch = Batch.empty(len(split), -(-split.max_boxes // 8) * 8)
        self.defaults = default_boxes()
        self.crops = [self._crop(i) for i in self.all]
        self.views = [self._cropped(i) for i in self.all]
        files = [read_file(split.path(i)) for i in self.all]
        frames = [(file, jpeg.find_frame(file), crop) for file, crop in zip(files, self.crops, strict=True)]
        self.files = [file for file, frame, _ in frames if frame]
        """Ordinary files; those that only Pillow decodes are no part of what decoders are compared on."""
        self.parts = [(memoryview(bytearray(file)), frame, crop[3]) for file, frame, crop in frames if frame]

    def works(self) -> dict[str, Work]:
        """All there is to measure, by name: stages, whole pipelines, and what might be used instead."""
        works: dict[str, Work] = {f"stage {stage}": getattr(self, stage) for stage in STAGES}
        works |= {"baseline": self.baseline, "resize Pillow": self.resize_by_pillow}
        for name, decoder in (("Pillow", _by_pillow), (DECODER, jpeg.decode_ordinary)):
            works[f"decode {name}"] = partial(self.decode_whole, decoder)
            works[f"pipeline {name}"] = partial(self.fill, decoder)
        try:
            import cv2  # pyright: ignore[reportMissingImports]
        except ImportError:
            return works
        by_opencv = lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)  # noqa: E731
        return {**works, "decode OpenCV": partial(self.decode_whole, by_opencv)}

    def _crop(self, i: int) -> PixelBox:
        crop, _, _ = random_crop(generator(0, 0, i + 1), *self.split.boxes_of(i), AUGMENT.crop_attempts)
        return pixel_box(crop, self.split.size(i))

    def _cropped(self, i: int) -> np.ndarray:
        left, top, right, bottom = self.crops[i]
        return decode_part(self.split.path(i), self.split.size(i), bottom)[top:, left:right]

    def read(self) -> int:
        """Files to bytes."""
        for i in self.all:
            read_file(self.split.path(i))
        return len(self.all)

    def decode(self) -> int:
        """Bytes to the rows that the crops need."""
        for file, frame, num_rows in self.parts:
            jpeg.decode_rows(file, frame, num_rows)
        return len(self.parts)

    def crop(self) -> int:
        """Draw the crops."""
        for i in self.all:
            self._crop(i)
        return len(self.all)

    def resize(self) -> int:
        """Crops to the batch's pixels."""
        for i in self.all:
            resize_into(self.views[i], self.batch.images[i])
        return len(self.all)

    def collate(self) -> int:
        """Boxes into the batch, and the draws of what the graph does."""
        return len(replace(self.samples, augment=replace(AUGMENT, crop=False)).plan(self.batch, 0, self.all))

    def copy(self) -> int:
        """The batch to the device."""
        to_device(self.batch, self.device).hue.sum().item()
        return len(self.all)

    def baseline(self) -> int:
        """The reference's pipeline."""
        for i in self.all:
            rng = generator(0, 0, i + 1)
            reference_sample(self.split.path(i), *self.split.boxes_of(i), rng, AUGMENT, self.defaults)
        return len(self.all)

    def decode_whole(self, decoder: Callable[[memoryview], object]) -> int:
        """Bytes to all rows."""
        for file in self.files:
            decoder(file)
        return len(self.files)

    def fill(self, decoder: Callable[[memoryview], np.ndarray]) -> int:
        """The whole pipeline."""
        used, jpeg.decode_ordinary = jpeg.decode_ordinary, decoder
        for plan in self.samples.plan(self.batch, 0, self.all):
            self.samples.write(self.batch, plan)
        jpeg.decode_ordinary = used
        return len(self.all)

    def resize_by_pillow(self) -> int:
        """Crops to the batch's pixels as the reference does it."""
        for i in self.all:
            self.batch.images[i] = preprocess(Image.fromarray(self.views[i]))
        return len(self.all)

    def resize_difference(self) -> np.ndarray:
        """Differences of the batch's pixels from the reference's resize, in levels."""
        self.resize()
        found = self.batch.images.astype(np.int16)
        self.resize_by_pillow()
        return np.abs(found - self.batch.images)


def _by_pillow(data: memoryview) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.array(image.convert("RGB"))
