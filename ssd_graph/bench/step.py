"""Speed of the training step alone, on synthetic batches that lie on the device already, against eager PyTorch.

The baseline is what a good engineer writes without compiling: autocast, channels_last, torch's fused SGD,
torch's own BatchNorm2d, images normalised and targets encoded beforehand. Our step does all of that inside.
"""

# N images

import argparse
import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ssd_graph.bench.baseline import eager_step
from ssd_graph.cli import positive
from ssd_graph.compilers.backend import (
    BACKENDS,
    compile_graph,
    default_amp,
    exact_float32,
    keep_addresses,
    lacks_memory,
    require_devices,
)
from ssd_graph.config import MODELS, RECIPES, Amp, model_config
from ssd_graph.data.decode import preprocess
from ssd_graph.data.samples import Batch
from ssd_graph.data.shapes import draw_image
from ssd_graph.data.transforms import draw_colour_jitter
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.step import AMP_DTYPES, TrainStep, device_default_boxes
from ssd_graph.training.distributed import World, device_of

NUM_CLASSES = 81
NUM_BOXES = 64
"""Ground truths an image, padding included; COCO's fullest training image has 93."""
LEARNING_RATE = 1e-4
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""Of the images that enter the network, as backend.DeviceKind has one for each device."""
_NUM_ROUNDS = 5
_MEASURED = ("compiled", "baseline", "first_call_seconds", "peak_memory_mb", "kernels_per_step")
"""Images a second, and what else is known of the compiled step."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `run` reads; every combination of those that take several values is measured."""
    add_step_flags(parser, several="+")
    parser.add_argument("--memory-format", choices=MEMORY_FORMATS, nargs="+", help="of the images; default: by device")


def add_step_flags(parser: argparse.ArgumentParser, several: str | None = None) -> None:
    """The flags that say which step is measured and where; with `several="+"` three of them take lists."""
    batch_size = [32] if several else 32
    parser.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="default: %(default)s")
    parser.add_argument("--batch-size", "-b", type=positive, nargs=several, default=batch_size, help="default: 32")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), nargs=several, help="default: by device")
    parser.add_argument("--backend", choices=BACKENDS, nargs=several, help="default: by device")
    parser.add_argument("--steps", type=positive, default=30, help="default: %(default)s")
    parser.add_argument("--gpus", action="store_const", const="gpu", default="cpu", dest="devices", help="on one GPU")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second of the compiled step and of the eager baseline, in turns on one device.

    Returns:
        What ran where, `matmul_tflops` by amp mode, and `rows`, one for each combination of the flags:
        `compiled` and `baseline` images/s and their `ratio`; `first_call_seconds`, compilation included;
        `peak_memory_mb` of the compiled step on a GPU, of the process so far elsewhere; `kernels_per_step` on a
        GPU; `tflops` of the compiled step and their share `of_matmul_peak`. What cannot be said, or does not fit
        into the device's memory, is None.

    Raises:
        InputError: the device or a backend is not there.
    """
    kind = require_devices(args.devices, 1)
    device = device_of(kind.type, World())
    amps: list[Amp] = args.amp or [default_amp(kind)]
    exact_float32(device)  # and so the product that the speed in float32 is a share of
    torch.backends.cudnn.benchmark = True  # for the compiled step and the baseline alike
    batch_sizes: list[int] = args.batch_size
    by_device = [name for name, memory_format in MEMORY_FORMATS.items() if memory_format == kind.memory_format]
    memory_formats: list[str] = args.memory_format or by_device
    peaks = {amp: matmul_tflops(AMP_DTYPES.get(amp, torch.float32), device) for amp in amps}
    gflop = train_flops_per_image(args.preset) / 1e9
    rows = []
    backends = args.backend or [kind.backend]
    bar = tqdm(
        total=len(amps) * len(batch_sizes) * len(backends) * len(memory_formats), unit="row", leave=False, disable=None
    )
    for amp, batch_size in product(amps, batch_sizes):
        batch = synthetic_batch(batch_size, device)
        for backend, memory_format in product(backends, memory_formats):
            bar.set_description(f"batch {batch_size}, {amp}, {backend}, {memory_format}")
            compiled = partial(
                compiled_step, args.preset, NUM_CLASSES, batch, amp, backend, device, MEMORY_FORMATS[memory_format]
            )
            baseline = partial(eager_step, args.preset, NUM_CLASSES, batch, amp, device, LEARNING_RATE)
            timed = _if_it_fits(partial(_measure, compiled, baseline, batch, device, args.steps))
            tflops = timed["compiled"] and timed["compiled"] * gflop / 1e3
            rows.append(
                {
                    "batch_size": batch_size,
                    "amp": amp,
                    "backend": backend,
                    "memory_format": memory_format,
                    **timed,
                    "ratio": timed["compiled"] and timed["compiled"] / timed["baseline"],
                    "tflops": tflops,
                    "of_matmul_peak": tflops and tflops / peaks[amp],
                }
            )
            bar.update()
            tqdm.write(_row(rows[-1]), file=sys.stderr)
    bar.close()
    return {
        "preset": args.preset,
        "device": device_name(device),
        "torch": torch.__version__,
        "steps": args.steps,
        "gflop_per_image": gflop,
        "matmul_tflops": peaks,
        "rows": rows,
    }


def device_name(device: torch.device) -> str:
    """What the figures were taken on."""
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def _if_it_fits(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` returns, with nothing left over from the measurement before; Nones if memory is too small."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    try:
        return measure()
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return dict.fromkeys(_MEASURED)


def _measure(
    make_compiled: Callable[[], tuple[Callable[[Batch], Any], float]],
    make_baseline: Callable[[], Callable[[], Any]],
    batch: Batch,
    device: torch.device,
    num_steps: int,
) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train_on, first_call = make_compiled()
    compiled = partial(train_on, batch)
    compiled()
    peak = _peak_memory_mb(device)  # before the baseline's model lies beside it
    speeds = [len(batch.images) / s for s in seconds_of([compiled, make_baseline()], num_steps, device)]
    kernels = _count_kernels(compiled) if device.type == "cuda" else None
    return dict(zip(_MEASURED, (*speeds, first_call, peak, kernels), strict=True))


def synthetic_batch(num_images: int, device: torch.device) -> Batch:
    """Generated pictures with their objects, as a loader would give them."""
    batch = Batch.empty(num_images, NUM_BOXES)
    for i in range(num_images):
        rng = np.random.default_rng(i)
        picture, objects = draw_image(rng)
        batch.images[i] = preprocess(picture)
        for g, item in enumerate(objects):
            x, y, w, h = item["bbox"]
            batch.boxes[i, g] = np.array([x, y, x + w, y + h]) / np.tile(picture.size, 2)
            batch.labels[i, g] = 1 + g % (NUM_CLASSES - 1)
        batch.blends[i], batch.hue[i] = draw_colour_jitter(rng, RECIPES["mlperf-256"].augment)
    return Batch(*(torch.from_numpy(field).to(device) for field in batch))


def compiled_step(
    preset: str,
    num_classes: int,
    batch: Batch,
    amp: Amp,
    backend: str,
    device: torch.device,
    memory_format: torch.memory_format,
) -> tuple[Callable[[Batch], Any], float]:
    """What trains once on a batch shaped like `batch`, and the seconds its first call took."""
    config = model_config(preset, num_classes)
    step = TrainStep(config, RECIPES["mlperf-256"], amp=amp, memory_format=memory_format)
    state = step.layout.load(SSD300(config).to(device).state_dict(), loss_scale=128.0 if amp == "fp16" else 1.0)
    keep_addresses(state)
    graph = compile_graph(step.__call__, backend)
    defaults, rate = device_default_boxes(device), torch.tensor(LEARNING_RATE, device=device)
    begin = time.perf_counter()
    graph(state, batch, defaults, rate)
    wait_for(device)
    return lambda batch: graph(state, batch, defaults, rate), time.perf_counter() - begin


def seconds_of(steps: Sequence[Callable[[], Any]], num_steps: int, device: torch.device) -> list[float]:
    """Seconds a call of each of `steps`: the quickest of _NUM_ROUNDS windows, which take turns, after one to warm up.

    Turns, so that a machine that slows down slows all of them; the quickest, because whatever else it does can
    only add time.
    """
    length = max(1, num_steps // _NUM_ROUNDS)
    windows = [[] for _ in steps]
    for _ in range(_NUM_ROUNDS + 1):
        for step, seconds in zip(steps, windows, strict=True):
            begin = time.perf_counter()
            for _ in range(length):
                step()
            wait_for(device)
            seconds.append((time.perf_counter() - begin) / length)
    return [min(seconds[1:]) for seconds in windows]


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def train_flops_per_image(preset: str) -> int:
    """Multiplications and additions of the convolutions of a forward and a backward pass."""
    with torch.device("meta"):
        # In evaluation mode, where no head is filled up with channels that are not used.
        model, image = SSD300(model_config(preset, NUM_CLASSES)).eval(), torch.empty(1, 3, 300, 300)
    with FlopCounterMode(display=False) as counter:
        boxes, logits = model(image)
        (boxes.sum() + logits.sum()).backward()
    return counter.get_total_flops()


def matmul_tflops(dtype: torch.dtype, device: torch.device) -> float:
    """What this device reaches in a large matrix product: its practical peak."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / seconds_of([lambda: a @ a], 30, device)[0] / 1e12


def _count_kernels(step: Callable[[], Any]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(str(event.device_type).endswith("CUDA") for event in profile.events() or ())


def table(result: dict[str, Any]) -> str:
    """The result as lines of a Markdown table."""
    peaks = ", ".join(f"{peak:.2f} TFLOP/s ({amp})" for amp, peak in result["matmul_tflops"].items())
    columns = ("batch", "amp", "backend", "memory format", "images/s", "eager", "ratio", "of peak")
    lines = [
        f"{result['preset']} on {result['device']}, torch {result['torch']}; matrix products: {peaks}",
        "",
        "| " + " | ".join((*columns, "first call", "memory", "kernels")) + " |",
        "|---" * (len(columns) + 3) + "|",
    ]
    return "\n".join([*lines, *map(_row, result["rows"])])


def _row(row: dict[str, Any]) -> str:
    cells = [str(row[name]) for name in ("batch_size", "amp", "backend", "memory_format")]
    for name, form in (
        ("compiled", "{:.1f}"),
        ("baseline", "{:.1f}"),
        ("ratio", "{:.2f}"),
        ("of_matmul_peak", "{:.1%}"),
        ("first_call_seconds", "{:.1f} s"),
        ("peak_memory_mb", "{:,.0f} MB"),
        ("kernels_per_step", "{:,}"),
    ):
        cells.append("-" if row[name] is None else form.format(row[name]))
    return "| " + " | ".join(cells) + " |"
