"""What each exported form costs and keeps: AP against torch, images/s against one another and a bare loop."""

# N images

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssd_graph.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ssd_graph.cli import positive
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import CocoSplit, load_split
from ssd_graph.data.evaluation import image_batches
from ssd_graph.data.shapes import data_root
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
from ssd_graph.onnx_model.export import ExportOptions, export_onnx, sample_images
from ssd_graph.onnx_model.machine import processor, versions
from ssd_graph.onnx_model.raw import network_input
from ssd_graph.onnx_model.translate import TorchDetector
from ssd_graph.scoring.detections import DetectionRows, detection_rows, join_rows
from ssd_graph.scoring.evaluate import CocoScorer

FORMS = {
    "fp32": ExportOptions(),
    "raw": ExportOptions(raw=True),
    "fp16": ExportOptions(precision="fp16"),
    "int8": ExportOptions(precision="int8"),
}
"""The forms that are compared."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `run` reads."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, help="COCO folder, or `shapes`; train calibrates, val is scored")
    parser.add_argument("--models", type=Path, default=Path("build/export"), help="folder for the exported forms")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="onnxruntime's (default: all cores)")
    parser.add_argument("--rounds", type=positive, default=3, help="the best of this many passes counts")
    parser.add_argument("--limit", type=positive, default=24, help="images timed (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export every form into `args.models`, score them and time them; the figures by name."""
    root = data_root(args.data)
    checkpoint = load_checkpoint(args.checkpoint)
    upright = bool(checkpoint.run.get("upright"))
    split = load_split(root, "val", upright=upright)
    calibration = sample_images(load_split(root, "train").image_dir, 64, upright=upright)
    for name, options in tqdm(FORMS.items(), "exporting", leave=False, disable=None, unit="form"):
        images = calibration if options.precision == "int8" else None
        export_onnx(checkpoint, args.models / f"{name}.onnx", calibration[:2], options, images)
    return {
        "processor": processor(),
        "versions": versions(),
        "accuracy": accuracy(checkpoint, args.models, split, args.threads),
        "speed": speed(args.models, split, threads=args.threads, rounds=args.rounds, limit=args.limit),
    }


def accuracy(checkpoint: Checkpoint, models: Path, split: CocoSplit, threads: int) -> dict[str, Any]:
    """AP and detections of torch and of every form in the folder `models`."""
    rows = _detect_with_torch(checkpoint, split)
    stats = CocoScorer(split.annotation_file).score(rows, split.image_ids).stats
    result: dict[str, Any] = {"torch": {"AP": stats["AP"], "detections": len(rows)}, "num_images": len(split)}
    for name in tqdm(FORMS, "scoring", leave=False, disable=None, unit="form"):
        found = evaluate_onnx(models / f"{name}.onnx", split, RunSettings(threads=threads))
        difference = found.scores.stats["AP"] - stats["AP"]
        result[name] = {"AP": found.scores.stats["AP"], "difference": difference, "detections": len(found.rows)}
    return result


def speed(models: Path, split: CocoSplit, *, threads: int, rounds: int, limit: int) -> dict[str, float]:
    """Images/s of bare onnxruntime loops over preloaded batches and of the evaluator, in turns, best of `rounds`.

    `evaluator_share` is the evaluator's speed as a share of the bare loop's, `postprocessing_share` what decoding
    and NMS add to the raw graph's time, `int8_gain` and `fp16_gain` factors on the speed in float32.
    """
    limit = min(limit, len(split))
    batches = [images for _, images in image_batches(split, range(limit), 8, usable_cores())]
    settings = RunSettings(threads=threads, limit=limit)
    loops: dict[str, Callable[[], float]] = {
        name: _bare_loop(OnnxDetector(models / f"{name}.onnx", threads=threads), batches) for name in FORMS
    }
    evaluator = lambda: evaluate_onnx(models / "fp32.onnx", split, settings).summary["images_per_second"]  # noqa: E731
    best = dict.fromkeys([*loops, "evaluator"], 0.0)
    for _ in tqdm(range(rounds), "timing", leave=False, disable=None, unit="round"):
        for name, loop in {**loops, "evaluator": evaluator}.items():
            best[name] = max(best[name], loop())
    return {
        **{f"{name}_images_per_second": value for name, value in best.items()},
        "evaluator_share": best["evaluator"] / best["fp32"],
        "postprocessing_share": best["raw"] / best["fp32"] - 1,
        "fp16_gain": best["fp16"] / best["fp32"],
        "int8_gain": best["int8"] / best["fp32"],
    }


def _bare_loop(detector: OnnxDetector, batches: list[np.ndarray]) -> Callable[[], float]:
    """A function that runs the model on all batches and returns images/s."""
    name = "image" if detector.is_raw else "images"
    feeds = [{name: network_input(b) if detector.is_raw else b} for b in batches]
    session = detector.session.run
    session.run(None, feeds[0])

    def loop() -> float:
        begin = time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        return sum(map(len, batches)) / (time.perf_counter() - begin)

    return loop


@torch.no_grad()
def _detect_with_torch(checkpoint: Checkpoint, split: CocoSplit) -> DetectionRows:
    """The checkpoint's detections as torch computes them."""
    detector, parts = TorchDetector(checkpoint), []
    for chosen, images in image_batches(split, range(len(split)), 8, usable_cores()):
        found = (output.numpy() for output in detector(torch.from_numpy(images)))
        parts.append(detection_rows(split.image_ids[chosen], split.sizes[chosen], *found))
    return join_rows(parts)


def table(result: dict[str, Any]) -> str:
    """The result as a few lines, a form each."""
    accuracy, speed = result["accuracy"], result["speed"]
    lines = [f"{accuracy['num_images']} images on {result['processor']}", f"{'':8}{'AP':>10}{'against torch':>16}"]
    lines[-1] += f"{'images/s':>12}"
    lines.append(f"{'torch':8}{accuracy['torch']['AP']:10.6f}")
    for name in FORMS:
        scores, rate = accuracy[name], speed[f"{name}_images_per_second"]
        lines.append(f"{name:8}{scores['AP']:10.6f}{scores['difference']:+16.6f}{rate:12.2f}")
    return "\n".join(
        [
            *lines,
            f"evaluator / bare loop: {speed['evaluator_share']:.3f}",
            f"decoding and NMS, share of the raw graph's time: {speed['postprocessing_share']:.3f}",
            f"int8 / fp32: {speed['int8_gain']:.2f}, fp16 / fp32: {speed['fp16_gain']:.2f}",
        ]
    )
