"""Speed of the training step alone, on synthetic batches that lie on the device already, against eager PyTorch.

The baseline is what a good engineer writes without compiling: autocast, channels_last, torch's fused SGD,
torch's own BatchNorm2d, images normalised and targets encoded beforehand. Our step does all of that inside.
"""

# N images

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssd_graph.backend import compile_graph, require_devices
from ssd_graph.cli import positive
from ssd_graph.config import MODELS, RECIPES, Amp, model_config
from ssd_graph.loader import Batch
from ssd_graph.loss import multibox_loss
from ssd_graph.matcher import match
from ssd_graph.model import SSD300
from ssd_graph.resnet import BatchNorm2d
from ssd_graph.shapes import draw_image
from ssd_graph.step import AMP_DTYPES, TrainStep, device_default_boxes
from ssd_graph.transforms import draw_colour_jitter, preprocess

NUM_CLASSES = 81
NUM_BOXES = 64
"""Ground truths an image, padding included; COCO's fullest training image has 93."""
LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions:
    """What is measured."""

    preset: str = "ssd300-r34"
    batch_size: int = 32
    devices: str = "cpu"
    """A key of backend.DEVICES; one device is used."""
    amp: Amp | None = None
    backend: str | None = None
    num_steps: int = 30


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `run` reads."""
    parser.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="default: %(default)s")
    parser.add_argument("--batch-size", "-b", type=positive, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=30, help="default: %(default)s")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), help="default: by device")
    parser.add_argument("--backend", help="eager, aot_eager, inductor or torchair (default: by device)")
    parser.add_argument("--gpus", action="store_const", const="gpu", default="cpu", dest="devices", help="on one GPU")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What `bench_step` measures for these flags."""
    return bench_step(
        StepOptions(
            preset=args.preset,
            batch_size=args.batch_size,
            num_steps=args.steps,
            amp=args.amp,
            backend=args.backend,
            devices=args.devices,
        )
    )


def bench_step(options: StepOptions) -> dict[str, Any]:
    """Images a second of the compiled step and of the eager baseline, one after the other on one device.

    Returns:
        `compiled` and `baseline` images/s and their `ratio`; `first_call_seconds` (compilation included),
        `peak_memory_mb` of the compiled step, `kernels_per_step` on a GPU (None elsewhere), `tflops` of the
        compiled step, `matmul_tflops` measured in the same precision, and the share `of_matmul_peak`.

    Raises:
        InputError: the device is not there.
    """
    kind = require_devices(options.devices, 1)
    device = torch.device(kind.type)
    amp, backend = options.amp or kind.amp, options.backend or kind.backend
    batch = synthetic_batch(options.batch_size, device)
    train_on, first_call = compiled_step(options.preset, NUM_CLASSES, batch, amp, backend, device)
    step = partial(train_on, batch)
    compiled = options.batch_size / seconds_of(step, options.num_steps, device)
    peak = peak_memory_mb(device)
    kernels = _count_kernels(step) if device.type == "cuda" else None
    baseline_step = _eager_step(options.preset, batch, amp, device)
    baseline = options.batch_size / seconds_of(baseline_step, options.num_steps, device)
    tflops = compiled * train_flops_per_image(options.preset) / 1e12
    matmul = matmul_tflops(AMP_DTYPES.get(amp, torch.float32), device)
    return {
        "options": asdict(options) | {"amp": amp, "backend": backend},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "compiled": round(compiled, 2),
        "baseline": round(baseline, 2),
        "ratio": round(compiled / baseline, 3),
        "first_call_seconds": round(first_call, 1),
        "peak_memory_mb": round(peak),
        "kernels_per_step": kernels,
        "tflops": round(tflops, 4),
        "matmul_tflops": round(matmul, 4),
        "of_matmul_peak": round(tflops / matmul, 3),
    }


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
    preset: str, num_classes: int, batch: Batch, amp: Amp, backend: str, device: torch.device
) -> tuple[Callable[[Batch], Any], float]:
    """What trains once on a batch shaped like `batch`, and the seconds its first call took."""
    config = model_config(preset, num_classes)
    step = TrainStep(config, RECIPES["mlperf-256"], amp=amp)
    state = step.layout.new_state(SSD300(config).to(device), loss_scale=128.0 if amp == "fp16" else 1.0)
    graph = compile_graph(step.__call__, backend)
    defaults, rate = device_default_boxes(device), torch.tensor(LEARNING_RATE, device=device)
    begin = time.perf_counter()
    graph(state, batch, defaults, rate)
    wait_for(device)
    return lambda batch: graph(state, batch, defaults, rate), time.perf_counter() - begin


def _eager_step(preset: str, batch: Batch, amp: Amp, device: torch.device) -> Callable[[], Any]:
    model = SSD300(model_config(preset, NUM_CLASSES))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.weight.numel()))
    model = model.to(device).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=1.3e-4, fused=True)
    targets = match(batch.boxes, batch.labels, device_default_boxes(device), torch.float32)
    images = batch.images.permute(0, 3, 1, 2).float().sub(114).div(57).to(memory_format=torch.channels_last)
    dtype = AMP_DTYPES.get(amp)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            boxes, logits = model(images)
        loss = multibox_loss(boxes.float(), logits.float(), targets).total
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def seconds_of(step: Callable[[], Any], num_steps: int, device: torch.device, num_windows: int = 3) -> float:
    """Seconds a step: the median of windows of `num_steps` / `num_windows` steps after as many to warm up."""
    length = max(1, num_steps // num_windows)
    windows = []
    for _ in range(num_windows + 1):
        begin = time.perf_counter()
        for _ in range(length):
            step()
        wait_for(device)
        windows.append((time.perf_counter() - begin) / length)
    return median(windows[1:])


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def train_flops_per_image(preset: str) -> int:
    """Multiplications and additions of the convolutions of a forward and a backward pass."""
    with torch.device("meta"):
        model, image = SSD300(model_config(preset, NUM_CLASSES)), torch.empty(1, 3, 300, 300)
    with FlopCounterMode(display=False) as counter:
        boxes, logits = model(image)
        (boxes.sum() + logits.sum()).backward()
    return counter.get_total_flops()


def matmul_tflops(dtype: torch.dtype, device: torch.device) -> float:
    """What this device reaches in a large matrix product: its practical peak."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / seconds_of(lambda: a @ a, 30, device) / 1e12


def _count_kernels(step: Callable[[], Any]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(str(event.device_type).endswith("CUDA") for event in profile.events() or ())


def table(result: dict[str, Any]) -> str:
    """The result as a few lines."""
    options = result["options"]
    memory, kernels = result["peak_memory_mb"], result["kernels_per_step"]
    return "\n".join(
        [
            f"{options['preset']}, batch {options['batch_size']}, {result['device']}, amp {options['amp']}, "
            f"{options['backend']}, torch {result['torch']}",
            f"  compiled step    {result['compiled']:10.1f} images/s",
            f"  eager baseline   {result['baseline']:10.1f} images/s   ratio {result['ratio']:.2f}",
            f"  first call       {result['first_call_seconds']:10.1f} s, compilation included",
            f"  peak memory      {memory:10,} MB",
            f"  of matmul peak   {result['of_matmul_peak']:10.1%}   ({result['tflops']:.2f} of "
            f"{result['matmul_tflops']:.2f} TFLOP/s)",
            *([f"  kernels a step   {kernels:10,}"] if kernels is not None else []),
        ]
    )
