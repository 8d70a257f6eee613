"""One row of docs/export.md's table "Other runtimes": an exported model in a runtime that is not onnxruntime.

    python -m tests.onnx_model.other_runtimes MODEL RUNTIME

runs where RUNTIME is installed, and does not import torch itself. Compared are the detections on generated pictures
with those of the installed onnxruntime, or of another one whose `--save` wrote them to the file of `--expected`.
"""

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssd_graph.config import IMAGE_SIZE
from ssd_graph.data.decode import preprocess
from ssd_graph.data.shapes import draw_image
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
    whole = [tract.DatumType.I64, tract.DatumType.F32, tract.DatumType.F32, tract.DatumType.I64]
    kinds = whole if outputs[0] == "num_detections" else [tract.DatumType.F32] * 2
    # Some outputs have a type of tract's own.
    return lambda images: [
        output.convert_to(kind).to_numpy() for output, kind in zip(runnable.run([images]), kinds, strict=True)
    ]


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
    # Not by `mnnconvert`, which installs a package with pip to report that it was used.
    code = "import MNN, sys, _tools; _tools.mnnconvert(sys.argv)"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    name = "images" if outputs[0] == "num_detections" else "image"
    module = MNN.nn.load_module_from_file(converted, [name], outputs)

    def run(images: np.ndarray) -> list[np.ndarray]:
        form = MNN.expr.NCHW
        kind = MNN.expr.uint8 if images.dtype == np.uint8 else MNN.expr.float
        found = module.onForward([MNN.expr.const(images, list(images.shape), form, kind)])
        return [MNN.expr.convert(v, form).read().copy() for v in found]

    return run


def ncnn(model: Path, outputs: list[str]) -> Run:
    import os
    import shutil
    import subprocess
    import tempfile

    import ncnn
    import pnnx

    copy = shutil.copy(model, os.path.join(tempfile.mkdtemp(), "model.onnx"))
    tool = Path(pnnx.__file__).parent / "pnnx"
    shape = "[1,300,300,3]u8" if outputs[0] == "num_detections" else "[1,3,300,300]"
    subprocess.run([tool, copy, f"inputshape={shape}"], check=True, stdout=subprocess.DEVNULL, cwd=Path(copy).parent)
    network = ncnn.Net()
    network.load_param(copy.replace(".onnx", ".ncnn.param"))
    network.load_model(copy.replace(".onnx", ".ncnn.bin"))

    def run(images: np.ndarray) -> list[np.ndarray]:
        extractor = network.create_extractor()
        extractor.input("in0", ncnn.Mat(images[0]).clone())
        return [np.array(extractor.extract(f"out{i}")[1])[None] for i in range(len(outputs))]

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
    for f in (openvino, openvino_bf16, onnxruntime, reference, opencv, tinygrad, tract, wonnx, mnn, ncnn, tvm)
}
PACKAGES = {
    "openvino_bf16": "openvino",
    "reference": "onnx",
    "opencv": "opencv-python-headless",
    "mnn": "MNN",
    "tvm": "apache-tvm",
}


_LEAST = 0.05
"""Score of what is compared."""

_NEAR = 5.0
"""Pixels; detections of a class whose corners are no further apart are partners."""


class Row(NamedTuple):
    """What is seen on one picture, or the worst or the sum of all."""

    num_expected: int
    num_found: int
    num_alone: int
    """Without a partner on the other side."""
    score_gap: float
    box_gap: float
    """Largest differences of partners, of boxes in pixels of the network's input."""


def compare(expected: np.ndarray, found: np.ndarray) -> Row:
    """Detections float64 [D, 6] of one picture (box, score, label), there and here."""
    alone, score_gap, box_gap = 0, 0.0, 0.0
    for ours, theirs in ((expected, found), (found, expected)):
        for *box, score, label in ours:
            gaps = np.where(theirs[:, 5] == label, np.abs(theirs[:, :4] - box).max(1, initial=0.0) * IMAGE_SIZE, np.inf)
            nearest = int(gaps.argmin()) if len(gaps) else 0
            if not len(gaps) or gaps[nearest] > _NEAR:
                alone += 1
                continue
            score_gap = max(score_gap, abs(float(theirs[nearest, 4]) - score))
            box_gap = max(box_gap, float(gaps[nearest]))
    return Row(len(expected), len(found), alone, score_gap, box_gap)


def detect(detector: OnnxDetector, run: Run, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Detections [D, 6] of one image, uint8 [1, 300, 300, 3], and milliseconds."""
    fed = raw.network_input(images) if detector.is_raw else images
    start = time.perf_counter()
    outputs = tuple(run(fed))
    took = (time.perf_counter() - start) * 1e3
    if detector.is_raw:
        outputs = raw.detections(outputs[0], outputs[1], detector.categories.ids, detector.config)
    num, boxes, scores, labels = (np.asarray(output)[0] for output in outputs)
    table = np.concatenate([boxes, scores[:, None], labels[:, None]], 1, dtype=np.float64)[: int(num)]
    return table[table[:, 4] >= _LEAST], took


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--save", type=Path, help="write what onnxruntime finds to this .npz")
    parser.add_argument("--expected", type=Path, help="a file that --save wrote")
    args = parser.parse_args()
    detector = OnnxDetector(args.model)
    pictures = [preprocess(draw_image(np.random.default_rng([9, i]))[0])[None] for i in range(args.images)]
    own = onnxruntime(args.model, detector._outputs)
    here = [detect(detector, own, images) for images in pictures]
    expected, times = zip(*here, strict=True)
    if args.save:
        np.savez(args.save, *expected)
    if args.expected:
        expected = list(np.load(args.expected).values())
    title = f"{args.runtime} {importlib.metadata.version(PACKAGES.get(args.runtime, args.runtime))}, {args.model.name}"
    try:
        run = RUNTIMES[args.runtime](args.model, detector._outputs)
        found, other_times = zip(*(detect(detector, run, images) for images in pictures), strict=True)
    except Exception as error:
        raise SystemExit(f"| {title} | no: {type(error).__name__}: {' '.join(str(error).split())[:300]} |") from error
    rows = list(map(compare, expected, found))
    counts, gaps = np.sum(rows, 0)[:3].astype(int), np.max(rows, 0)[3:]
    print(
        f"| {title} | {counts[0]}, {counts[1]} | {counts[2]} | {gaps[0]:.1e} | {gaps[1]:.1e} | "
        f"{min(other_times):.1f} ms, onnxruntime {min(times):.1f} ms |"
    )


if __name__ == "__main__":
    main()
