"""The input pipeline's speed by stage and by number of workers, beside decoding alone and the reference's pipeline.

All is measured in turns, in several rounds, and each counts with its best round, so that what else the machine
does falls on no figure alone.
"""

import argparse
import math
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssd_graph.bench.stages import AUGMENT, DECODER, STAGES, Stages, Work
from ssd_graph.cli import positive
from ssd_graph.compilers.backend import DEVICES, require_devices
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import DEFAULT_ROOT, CocoSplit, load_split
from ssd_graph.data.loader import Loader
from ssd_graph.data.resize import RESIZER
from ssd_graph.data.shapes import data_root
from ssd_graph.onnx_model.machine import package_versions
from ssd_graph.training.distributed import World, device_of

_PACKAGES = ("numpy", "pillow", "simplejpeg", "opencv-python-headless", "torch")
_BATCH_SIZE = 32
_WARM_UP = 4
"""Batches of a loader that are not counted: more than it has filled when it is first looked at."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `run` reads."""
    parser.add_argument("--data", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="default: %(default)s")
    parser.add_argument("--images", type=positive, default=200, help="the first N (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="the best counts (default: %(default)s)")
    parser.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where batches are copied (default: cpu)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second, of one core where nothing else is said.

    Returns:
        `baseline`, the reference's pipeline on the same images with the same crops; `decode_only`, the decoder in use
        on whole files that are in memory; `pipeline`, from reading the file to the filled batch, in the caller's
        process; `stages`, each one of it alone, `copy` being to the device; `alternatives`, these by decoder, and
        `resize Pillow`; `workers`, the loader on all cores by number of worker processes; `resize_difference`, `mean`
        and `max` over images from the reference's resize of the same crops, in levels of 0 to 255.

    Raises:
        InputError: the device or the data set is not there.
    """
    torch.set_num_threads(1)
    device = device_of(require_devices(args.device, 1).type, World())
    split = load_split(data_root(args.data), args.split).part(slice(args.images))
    one_core, difference = _on_one_core(split, args.rounds, device)
    others = ("decode ", "pipeline ", "resize ")
    return {
        "baseline": one_core["baseline"],
        "decode_only": one_core[f"decode {DECODER}"],
        "pipeline": one_core[f"pipeline {DECODER}"],
        "stages": {stage: one_core[f"stage {stage}"] for stage in STAGES},
        "alternatives": {name: speed for name, speed in one_core.items() if name.startswith(others)},
        "workers": _by_workers(split, args.workers, args.rounds),
        "resize_difference": difference,
        "num_images": len(split),
        "environment": {
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "num_cores": str(usable_cores()),
            "decoder": DECODER,
            "resizer": RESIZER,
            "python": platform.python_version(),
            **package_versions(_PACKAGES),
        },
    }


def _on_one_core(split: CocoSplit, rounds: int, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
    """Images a second of all that `Stages` does, each batch in its best round; and how far the resize is off."""
    images, seconds, differences = Counter[str](), defaultdict[str, float](float), []
    for begin in tqdm(range(0, len(split), _BATCH_SIZE), "one core", leave=False, disable=None, unit="batch"):
        stages = Stages(split.part(slice(begin, begin + _BATCH_SIZE)), device)
        works = stages.works()
        times = [{name: _time(work) for name, work in works.items()} for _ in range(rounds)]
        for name in works:
            count, best = min((measured[name] for measured in times), key=itemgetter(1))
            images[name] += count
            seconds[name] += best
        differences.append(stages.resize_difference())
    levels = np.concatenate(differences)
    difference = {"mean": float(levels.mean()), "max": float(levels.max())}
    return {name: round(images[name] / seconds[name], 1) for name in seconds}, difference


def _time(work: Work) -> tuple[int, float]:
    """Images and seconds."""
    begin = time.perf_counter()
    num_images = work()
    return num_images, time.perf_counter() - begin


def _by_workers(split: CocoSplit, counts: Sequence[int], rounds: int) -> dict[str, float]:
    """The loader's images a second by number of processes, each in its best round; they take turns."""
    turns = tqdm(range(rounds), "workers", leave=False, disable=None, unit="round")
    speeds = [{str(count): _load(split, count) for count in counts} for _ in turns]
    return {name: round(max(speed[name] for speed in speeds), 1) for name in speeds[0]}


def _load(split: CocoSplit, num_workers: int) -> float:
    """A loader's speed, without its start and the batches filled before the clock."""
    batch_size = min(_BATCH_SIZE, len(split))
    with closing(Loader(split, batch_size, AUGMENT, workers=num_workers).batches()) as batches:
        for _ in range(_WARM_UP):
            next(batches)
        num_batches = max(2, len(split) // batch_size)
        begin = time.perf_counter()
        for _ in range(num_batches):
            next(batches)
        return num_batches * batch_size / (time.perf_counter() - begin)


def table(result: dict[str, Any]) -> str:
    """What `run` returns, for a reader."""
    decoder = result["environment"]["decoder"]
    groups = (
        {"reference's pipeline": result["baseline"]},
        {f"decode only, {decoder}": result["decode_only"], "pipeline, one core": result["pipeline"]},
        {f"  {stage}": speed for stage, speed in result["stages"].items()},
        {f"loader, worker processes: {count}": speed for count, speed in result["workers"].items()},
        result["alternatives"],
    )
    lines = [f"{name:38}{speed:9.0f} images/s" for group in groups for name, speed in group.items()]
    mean, most = result["resize_difference"]["mean"], result["resize_difference"]["max"]
    return "\n".join(
        [
            *lines,
            f"pipeline / decode only: {result['pipeline'] / (result['decode_only'] or math.nan):.3f}",
            f"pipeline / reference's: {result['pipeline'] / result['baseline']:.2f}",
            f"resize differs from the reference's by {mean:.3f} levels of 255 on average, {most:.0f} at most",
        ]
    )
