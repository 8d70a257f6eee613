"""One row of docs/export.md's table "Other runtimes": an exported model in a runtime that is not onnxruntime.

    python -m tests.onnx_model.other_runtimes MODEL RUNTIME [--images 20]

runs where RUNTIME is installed beside onnxruntime, and does not import torch itself. Compared are the detections on
generated pictures, those with a score of at least 0.05, with onnxruntime's in the same process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssd_graph.config import IMAGE_SIZE
from ssd_graph.data.shapes import draw_image
from ssd_graph.data.transforms import preprocess
from ssd_graph.onnx_model import raw
from ssd_graph.onnx_model.detector import OnnxDetector

Run = Callable[[np.ndarray], list[np.ndarray]]
"""The model's input for one image to its outputs in their order."""


def openvino(model: Path, outputs: list[str], precision: str = "f32") -> Run:
    import openvino as ov

    # Without the hint OpenVINO computes in bfloat16 where the processor can.
    compiled = ov.Core().compile_model(str(model), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda images: [np.array(compiled(images)[name]) for name in outputs]


def openvino_bf16(model: Path, outputs: list[str]) -> Run:
    return openvino(model, outputs, "bf16")


def onnxruntime(model: Path, outputs: list[str]) -> Run:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(outputs, {name: images})


def reference(model: Path, outputs: list[str]) -> Run:
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(model))
    return lambda images: session.run(outputs, {session.input_names[0]: images})


def opencv(model: Path, outputs: list[str]) -> Run:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(model))

    def run(images: np.ndarray) -> list[np.ndarray]:
        network.setInput(images)
        return list(network.forward(outputs))

    return run


def tinygrad(model: Path, outputs: list[str]) -> Run:
    from tinygrad import Tensor
    from tinygrad.nn.onnx import OnnxRunner

    runner = OnnxRunner(str(model))
    name = next(iter(runner.graph_inputs))

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = runner({name: Tensor(images)})
        return [found[output].numpy() for output in outputs]

    return run


def tract(model: Path, outputs: list[str]) -> Run:
    import tract

    loaded = tract.onnx().load(str(model))
    loaded.set_input_fact(0, "1,300,300,3,u8" if outputs[0] == "num_detections" else "1,3,300,300,f32")
    runnable = loaded.into_model().into_runnable()
    return lambda images: [output.to_numpy() for output in runnable.run([images])]


def wonnx(model: Path, outputs: list[str]) -> Run:
    from wonnx import Session

    session = Session.from_path(str(model))

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = session.run({"image": images.ravel().tolist()})
        return [np.array(found[name]) for name in outputs]

    return run


def mnn(model: Path, outputs: list[str]) -> Run:
    import os
    import subprocess
    import sys
    import tempfile

    import MNN

    converted = os.path.join(tempfile.mkdtemp(), "model.mnn")
    arguments = ["-f", "ONNX", "--modelFile", str(model), "--MNNModel", converted, "--bizCode", "x"]
    subprocess.run([sys.executable, "-m", "MNN.tools.mnnconvert", *arguments], check=True, stdout=subprocess.DEVNULL)
    name = "images" if outputs[0] == "num_detections" else "image"
    module = MNN.nn.load_module_from_file(converted, [name], outputs)

    def run(images: np.ndarray) -> list[np.ndarray]:
        form = MNN.expr.NCHW
        kind = MNN.expr.uint8 if images.dtype == np.uint8 else MNN.expr.float
        found = module.onForward([MNN.expr.const(images, list(images.shape), form, kind)])
        return [MNN.expr.convert(v, form).read().copy() for v in found]

    return run


def onnx2torch(model: Path, outputs: list[str]) -> Run:
    import torch
    from onnx2torch import convert

    module = convert(str(model)).eval()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(torch.from_numpy(images))
        return [output.numpy() for output in found]

    return run


def tvm(model: Path, outputs: list[str]) -> Run:
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    name, shape = ("images", [1, 300, 300, 3]) if outputs[0] == "num_detections" else ("image", [1, 3, 300, 300])
    built = tvm.compile(from_onnx(onnx.load(model), {name: shape}, keep_params_in_input=False), "llvm")
    machine = relax.VirtualMachine(built, tvm.cpu())
    return lambda images: [output.numpy() for output in machine["main"](tvm.runtime.tensor(images))]


RUNTIMES = {
    f.__name__: f
    for f in (openvino, openvino_bf16, onnxruntime, reference, opencv, tinygrad, tract, wonnx, mnn, onnx2torch, tvm)
}
PACKAGES = {
    "openvino_bf16": "openvino",
    "reference": "onnx",
    "opencv": "opencv-python-headless",
    "mnn": "MNN",
    "tvm": "apache-tvm",
}


def difference(expected: tuple[np.ndarray, ...], found: tuple[np.ndarray, ...], least: float) -> tuple[float, float]:
    """Largest difference of a score and, in pixels of the input, of a box, each detection with its nearest alike.

    Args:
        expected: num_detections, boxes, scores and labels of one image; so `found`.
        least: score of what is compared.
    """
    score_gap = box_gap = 0.0
    (_, boxes, scores, labels), (_, other_boxes, other_scores, other_labels) = expected, found
    for box, score, label in zip(boxes, scores, labels, strict=True):
        same = other_labels == label
        if score < least or not same.any():
            continue
        gaps = np.abs(other_boxes[same] - box).max(1) * IMAGE_SIZE
        nearest = int(gaps.argmin())
        score_gap = max(score_gap, abs(float(other_scores[same][nearest] - score)))
        box_gap = max(box_gap, float(gaps[nearest]))
    return score_gap, box_gap


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("--images", type=int, default=20)
    args = parser.parse_args()
    detector = OnnxDetector(args.model)
    version = importlib.metadata.version(PACKAGES.get(args.runtime, args.runtime))
    title = f"{args.runtime} {version}, {args.model.name}"
    try:
        run = RUNTIMES[args.runtime](args.model, detector._outputs)
        pictures = [preprocess(draw_image(np.random.default_rng([9, i]))[0])[None] for i in range(args.images)]
        rows = [_compare(detector, run, images) for images in pictures]
    except Exception as error:
        raise SystemExit(f"| {title} | no: {type(error).__name__}: {' '.join(str(error).split())[:300]} |") from error
    count, other, scores, boxes, ms, other_ms = zip(*rows, strict=True)
    print(
        f"| {title} | {sum(count)}, {sum(other)} | scores {max(scores):.1e} | boxes {max(boxes):.1e} pixels | "
        f"{np.median(other_ms):.1f} ms, onnxruntime {np.median(ms):.1f} ms |"
    )


def _compare(detector: OnnxDetector, run: Run, images: np.ndarray) -> tuple[float, ...]:
    """Detections here and there, largest differences of score and box, milliseconds here and there."""
    fed = raw.network_input(images) if detector.is_raw else images
    times, found = [], []
    for f in (onnxruntime_of(detector), run):
        start = time.perf_counter()
        outputs = f(fed)
        times.append((time.perf_counter() - start) * 1e3)
        if detector.is_raw:
            outputs = raw.detections(outputs[0], outputs[1], detector.categories.ids, detector._config)
        num, *rest = (np.asarray(o)[0] for o in outputs)
        found.append((num, *(r[: int(num)] for r in rest)))
    gaps = [difference(a, b, 0.05) for a, b in (found, found[::-1])]
    counts = [int((f[2] >= 0.05).sum()) for f in found]
    return (*counts, *np.max(gaps, 0).tolist(), *times)


def onnxruntime_of(detector: OnnxDetector) -> Run:
    """What to compare with."""
    name = detector.session.run.get_inputs()[0].name
    return lambda images: detector.session.run.run(detector._outputs, {name: images})


if __name__ == "__main__":
    main()
