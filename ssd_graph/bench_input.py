"""The input pipeline's speed by stage and by number of workers, beside decoding alone and the reference's pipeline.

All is measured in turns, in several rounds, and each counts with its best round, so that what else the machine
does falls on no figure alone.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from PIL import Image

from ssd_graph import jpeg
from ssd_graph.coco import CocoSplit
from ssd_graph.config import AugmentConfig
from ssd_graph.default_boxes import default_boxes
from ssd_graph.feed import to_device
from ssd_graph.loader import Batch, Loader
from ssd_graph.reference_input import reference_sample
from ssd_graph.resize import RESIZER, resize_into
from ssd_graph.samples import Samples, generator
from ssd_graph.transforms import decode_part, pixel_box, preprocess, random_crop, read_file

Work = Callable[[], int]
"""Does its work once and returns for how many images."""
Task = Callable[[], float]
"""Returns its images a second."""

_STAGES = ("read", "decode", "crop", "resize", "collate", "copy")
_PACKAGES = ("numpy", "pillow", "simplejpeg", "opencv-python-headless", "torch")
_AUGMENT = AugmentConfig()
_BATCH_SIZE = 32
_WARM_UP, _MEASURED = 4, 10
"""Batches of a loader; as many as it fills ahead must not be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpeed:
    """Images a second; of one core where nothing else is said."""

    baseline: float
    """The reference's pipeline on the same images with the same crops."""
    decode_only: float
    """The decoder in use on whole files that are in memory, and nothing else."""
    pipeline: float
    """From reading the file to the filled batch, in the caller's process."""
    stages: dict[str, float]
    """Each stage of the pipeline alone; `copy` is to the device."""
    alternatives: dict[str, float]
    """`decode NAME` as decode_only and `pipeline NAME` by decoder; `resize Pillow`."""
    workers: dict[str, float]
    """The loader by number of worker processes, on all cores; keys are numbers."""
    beside_python: dict[str, float]
    """One worker as a `process` and as a `thread`, and each beside a thread of the caller that runs Python code."""
    resize_difference: dict[str, float]
    """`mean` and `max` over images from the reference's resize of the same crops, in levels of 0 to 255."""
    num_images: int
    environment: dict[str, str]

    def table(self) -> str:
        """The same for a reader."""
        groups = (
            {"reference's pipeline": self.baseline},
            {f"decode only, {jpeg.DECODER}": self.decode_only, "pipeline, one core": self.pipeline},
            {f"  {stage}": speed for stage, speed in self.stages.items()},
            {f"loader, worker processes: {count}": speed for count, speed in self.workers.items()},
            {f"one worker: {kind}": speed for kind, speed in self.beside_python.items()},
            self.alternatives,
        )
        lines = [f"{name:38}{speed:9.0f} images/s" for group in groups for name, speed in group.items()]
        mean, most = self.resize_difference["mean"], self.resize_difference["max"]
        return "\n".join(
            [
                *lines,
                f"pipeline / decode only: {self.pipeline / self.decode_only:.3f}",
                f"pipeline / reference's: {self.pipeline / self.baseline:.2f}",
                f"resize differs from the reference's by {mean:.3f} levels of 255 on average, {most:.0f} at most",
            ]
        )


def measure_input(
    split: CocoSplit, *, num_images: int = 200, rounds: int = 5, workers: Sequence[int] = (1, 2), device: str = "cpu"
) -> InputSpeed:
    """Measure on the first `num_images` images of `split`, copying batches to `device`."""
    torch.set_num_threads(1)
    pictures = _Pictures(_first(split, num_images), torch.device(device))
    works: dict[str, Work] = {f"stage {stage}": getattr(pictures, stage) for stage in _STAGES}
    works |= {"baseline": pictures.baseline, "resize Pillow": pictures.resize_by_pillow}
    for name in jpeg.DECODERS:
        works[f"decode {name}"] = partial(pictures.decode_whole, jpeg.DECODERS[name])
        works[f"pipeline {name}"] = partial(pictures.fill, name)
    if _version("opencv-python-headless"):
        works["decode OpenCV"] = partial(pictures.decode_whole, _by_opencv)
    tasks: dict[str, Task] = {name: partial(_timed, work) for name, work in works.items()}
    tasks |= {f"workers {count}": partial(_load, pictures.split, count) for count in workers}
    for kind, task in (
        ("process", partial(_load, pictures.split, 1)),
        ("thread", partial(_timed, pictures.fill_in_a_thread)),
    ):
        tasks |= {kind: task, f"{kind} beside Python": partial(_beside_python, task)}
    best = dict.fromkeys(tasks, 0.0)
    for _ in range(rounds):
        best = {name: max(best[name], task()) for name, task in tasks.items()}
    return InputSpeed(
        baseline=best["baseline"],
        decode_only=best[f"decode {jpeg.DECODER}"],
        pipeline=best[f"pipeline {jpeg.DECODER}"],
        stages={stage: best[f"stage {stage}"] for stage in _STAGES},
        alternatives={name: best[name] for name in best if name.startswith(("decode ", "pipeline ", "resize "))},
        workers={str(count): best[f"workers {count}"] for count in workers},
        beside_python={name: best[name] for name in best if name.startswith(("process", "thread"))},
        resize_difference=pictures.resize_difference(),
        num_images=len(pictures.split),
        environment=_environment(),
    )


def _timed(work: Work) -> float:
    begin = time.perf_counter()
    num_images = work()
    return round(num_images / (time.perf_counter() - begin), 1)


def _load(split: CocoSplit, num_workers: int) -> float:
    """A loader's speed, without its start and the batches filled before the clock."""
    with closing(Loader(split, _BATCH_SIZE, _AUGMENT, workers=num_workers).batches()) as batches:
        for _ in range(_WARM_UP):
            next(batches)

        def take() -> int:
            for _ in range(_MEASURED):
                next(batches)
            return _MEASURED * _BATCH_SIZE

        return _timed(take)


def _beside_python(task: Task) -> float:
    """A task's speed while another thread of this process never lets go of the interpreter unasked."""
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        return task()
    finally:
        over.set()
        thread.join()


def _by_opencv(file: bytes) -> np.ndarray:
    import cv2  # pyright: ignore[reportMissingImports]

    return np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB))


def _first(split: CocoSplit, num_images: int) -> CocoSplit:
    arrays = {name: getattr(split, name)[:num_images] for name in ("image_ids", "file_names", "sizes")}
    return replace(split, **arrays, offsets=split.offsets[: num_images + 1])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _environment() -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_cores": str(os.cpu_count()),
        "decoder": jpeg.DECODER,
        "resizer": RESIZER,
        "python": platform.python_version(),
        **{package: _version(package) or "not installed" for package in _PACKAGES},
    }


class _Pictures:
    """The images measured on, and each stage of the pipeline on all of them."""

    def __init__(self, split: CocoSplit, device: torch.device) -> None:
        self.split, self.device = split, device
        self.samples = Samples(split=split, augment=_AUGMENT, batch_size=_BATCH_SIZE)
        self.defaults = default_boxes()
        self.all = range(len(split))
        self.batch = Batch.empty(len(split), -(-split.max_boxes // 8) * 8)
        self.crops = [self._crop(i) for i in self.all]
        self.views = [
            self._decoded(i)[top:bottom, left:right] for i, (left, top, right, bottom) in enumerate(self.crops)
        ]
        files = [split.path(i).read_bytes() for i in self.all]
        # Greyscale files, which are Pillow's, are no part of what decoders are compared on.
        self.files = [
            (file, frame, crop[3])
            for file, crop in zip(files, self.crops, strict=True)
            if (frame := jpeg.find_frame(file))
        ]

    def _crop(self, i: int) -> tuple[int, int, int, int]:
        crop, _, _ = random_crop(generator(0, 0, i + 1), *self.split.boxes_of(i), _AUGMENT.crop_attempts)
        return pixel_box(crop, self.split.size(i))

    def _decoded(self, i: int) -> np.ndarray:
        return decode_part(self.split.path(i), self.split.size(i), self.crops[i][3])

    def read(self) -> int:
        return len([read_file(self.split.path(i)) for i in self.all])

    def decode(self) -> int:
        """The rows that the crops need."""
        for file, frame, num_rows in self.files:
            jpeg.decode_rows(bytearray(file), frame, num_rows)
        return len(self.files)

    def crop(self) -> int:
        return len([self._crop(i) for i in self.all])

    def resize(self) -> int:
        for i in self.all:
            resize_into(self.views[i], self.batch.images[i])
        return len(self.all)

    def collate(self) -> int:
        """Boxes, and the draws of what the graph does."""
        whole = replace(self.samples, augment=replace(_AUGMENT, crop=False))
        return len(whole.plan(self.batch, 0, self.all))

    def copy(self) -> int:
        to_device(self.batch, self.device).hue.sum().item()
        return len(self.all)

    def baseline(self) -> int:
        for i in self.all:
            rng, path = generator(0, 0, i + 1), self.split.path(i)
            reference_sample(path, *self.split.boxes_of(i), rng, _AUGMENT, self.defaults)
        return len(self.all)

    def decode_whole(self, decoder: Callable[[bytes], np.ndarray]) -> int:
        for file, _, _ in self.files:
            decoder(file)
        return len(self.files)

    def resize_by_pillow(self) -> int:
        for i in self.all:
            self.batch.images[i] = preprocess(Image.fromarray(self.views[i]))
        return len(self.all)

    def fill(self, decoder: str) -> int:
        """The pipeline, the first epoch of its stream."""
        used, jpeg.DECODER = jpeg.DECODER, decoder
        for begin in range(0, len(self.all), _BATCH_SIZE):
            for plan in self.samples.plan(self.batch, 0, self.all[begin : begin + _BATCH_SIZE]):
                self.samples.write(self.batch, plan)
        jpeg.DECODER = used
        return len(self.all)

    def fill_in_a_thread(self) -> int:
        thread = threading.Thread(target=self.fill, args=(jpeg.DECODER,))
        thread.start()
        thread.join()
        return len(self.all)

    def resize_difference(self) -> dict[str, float]:
        self.resize()
        found = self.batch.images.astype(np.int16)
        self.resize_by_pillow()
        difference = np.abs(found - self.batch.images)
        return {"mean": round(float(difference.mean()), 4), "max": float(difference.max())}
