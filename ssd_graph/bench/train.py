"""The training loop on a data set's images against the step alone: the difference is what the loader costs."""

# N images

import argparse
from contextlib import closing
from typing import Any

import torch

from ssd_graph.bench.step import add_step_flags, compiled_step, device_name, seconds_of
from ssd_graph.cli import not_negative
from ssd_graph.compilers.backend import advice_on_memory, default_amp, exact_float32, require_devices
from ssd_graph.config import AugmentConfig
from ssd_graph.data.cache import open_cache
from ssd_graph.data.coco import DEFAULT_ROOT, load_split
from ssd_graph.data.loader import Loader
from ssd_graph.data.samples import Batch
from ssd_graph.data.shapes import data_root
from ssd_graph.training.distributed import World, device_of
from ssd_graph.training.feed import feed
from ssd_graph.training.options import default_workers


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `run` reads."""
    add_step_flags(parser)
    parser.add_argument("--data", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    parser.add_argument("--workers", type=not_negative, help="decoding processes (default: by cores)")
    parser.add_argument("--cache", metavar="ram|DIR", help="as tools/train_graph.py's")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second of the step on a batch that stays on the device, and on the loader's batches, in turns.

    Returns:
        `step`, `loop` and their ratio `share`; `first_call_seconds`, compilation included.

    Raises:
        InputError: the device or the data set is not there.
    """
    kind = require_devices(args.devices, 1)
    device = device_of(kind.type, World())
    amp, backend = args.amp or default_amp(kind), args.backend or kind.backend
    torch.backends.cudnn.benchmark = True  # as training does, and the next
    if args.amp == "off":
        exact_float32(device)
    split = load_split(data_root(args.data), "train")
    workers = default_workers(args.devices, 1) if args.workers is None else args.workers
    cache = open_cache(args.cache, split, workers=workers) if args.cache else None
    loader = Loader(split, args.batch_size, AugmentConfig(), workers=workers, cache=cache)
    with advice_on_memory(args.batch_size), closing(feed(loader.batches(), device)) as batches:
        resident = Batch(*(tensor.clone() for tensor in next(batches)))
        train_on, first_call = compiled_step(
            args.preset, split.categories.num_classes, resident, amp, backend, device, kind.memory_format
        )
        turns = lambda: train_on(resident), lambda: train_on(next(batches))
        step, loop = (args.batch_size / seconds for seconds in seconds_of(turns, args.steps, device))
    return {
        "preset": args.preset,
        "batch_size": args.batch_size,
        "device": device_name(device),
        "amp": amp,
        "backend": backend,
        "torch": torch.__version__,
        "workers": workers,
        "cache": args.cache,
        "num_images": len(split),
        "first_call_seconds": round(first_call, 1),
        "step": step,
        "loop": loop,
        "share": loop / step,
    }


def table(result: dict[str, Any]) -> str:
    """The result as a few lines."""
    return "\n".join(
        [
            f"{result['preset']}, batch {result['batch_size']}, {result['device']}, amp {result['amp']}, "
            f"{result['backend']}, {result['workers']} workers, torch {result['torch']}",
            f"  step alone       {result['step']:10.1f} images/s",
            f"  whole loop       {result['loop']:10.1f} images/s   share {result['share']:.1%}",
            f"  first call       {result['first_call_seconds']:10.1f} s, compilation included",
        ]
    )
