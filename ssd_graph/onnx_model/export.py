"""Checkpoint -> one self-describing .onnx file, in one of two forms.

The detector holds the network and its postprocessing: input `images`, uint8 RGB [N, 300, 300, 3]; outputs
`num_detections` int64 [N], `boxes` float32 [N, 200, 4] (xyxy relative to the image, not clipped), `scores`
float32 [N, 200] and `labels` int64 [N, 200] (category ids), best first and zero behind `num_detections`.

The raw form is the network alone, with the names that inference code for Ascend expects: input `image`,
float32 [N, 3, 300, 300], normalised; outputs `ploc` [N, 4, A] and `plabel` [N, C, A].
"""

# N images, M sample images, A default boxes, C classes

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch

import ssd_graph
from ssd_graph.checkpoints.checkpoint import Checkpoint
from ssd_graph.cli import InputError, reason_of
from ssd_graph.config import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD, SSD300_BOXES, EvalConfig
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.image_files import find_images
from ssd_graph.data.shapes import draw_image
from ssd_graph.files import write_whole
from ssd_graph.onnx_model.graph import halve, lower_opset, network_outputs, tapped
from ssd_graph.onnx_model.providers import OPTIMIZATION_LEVELS
from ssd_graph.onnx_model.quantize import quantise
from ssd_graph.onnx_model.raw import network_input
from ssd_graph.onnx_model.translate import TorchDetector, translate
from ssd_graph.scoring.parity import signal_to_noise, unexplained

OPSET = 18
"""Of detectors: old enough for CANN's and TensorRT's converters."""

RAW_OPSET = 11
"""Of raw models: that of the published inference code for Ascend, which ATC reads."""

INT8_OPSET = 13
"""The first with a scale for each channel."""

_BOXES = "left, top, right, bottom, relative to the image's width and height; may reach beyond it"
_RAW_BOXES = (
    "cx, cy, w, h relative to default boxes: c = scale_xy * ploc * size + centre, s = exp(scale_wh * ploc) * size"
)

PARITY = 1e-4
"""Largest difference of scores and boxes from the postprocessing's rules that passes the check, beyond that of
the network's outputs.

A trained network stays below 1e-5. After thirty steps logits reach 150, and rounding alone gave 1.04e-5.
"""

LEAST_SIGNAL_TO_NOISE = {"fp32": 100.0, "fp16": 40.0, "int8": 10.0}
"""By precision, in dB: how far below torch's float32 outputs the network's errors must stay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What file is wanted."""

    raw: bool = False
    """The network alone."""
    batch: int | None = None
    """Images a call takes; None for any number."""
    opset: int | None = None
    """None for OPSET or RAW_OPSET; in 8 bits, for INT8_OPSET at least."""
    precision: str = "fp32"
    """A key of LEAST_SIGNAL_TO_NOISE."""

    def resolved_opset(self) -> int:
        """The opset to write.

        Raises:
            InputError: it cannot hold what is wanted.
        """
        least = INT8_OPSET if self.precision == "int8" else 0
        opset = self.opset or max(least, RAW_OPSET if self.raw else OPSET)
        if opset < least:
            raise InputError(f"--int8 needs opset {least} or newer; give no --opset {opset}")
        if opset > (newest := onnx.defs.onnx_opset_version()):
            raise InputError(f"--opset {opset}: the installed onnx knows those up to {newest}; give an older one")
        return opset

    def path_beside(self, checkpoint: Path) -> Path:
        """Where the file goes when no name is given: each form and precision has its own."""
        marks = ["raw"] * self.raw + [self.precision] * (self.precision != "fp32")
        return checkpoint.with_suffix(".".join(["", *marks, "onnx"]))


class Verification(NamedTuple):
    """What the finished file did on the samples."""

    signal_to_noise: float
    """dB, of the network's outputs against torch in float32, as `_ratio` has it; the worse of the two."""
    difference: float | None
    """Of detections from what the rules make of the network's outputs (torch's for "fp32"); None for raw."""

    def describe(self) -> str:
        """The figures in words."""
        network = f"network outputs: signal-to-noise ratio against torch in float32 {self.signal_to_noise:.0f} dB"
        if self.difference is None:
            return network
        return f"{network}; postprocessing of these outputs: within {self.difference:.1e} of its definition in torch"


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    samples: np.ndarray,
    options: ExportOptions = ExportOptions(),
    calibration: np.ndarray | None = None,
) -> Verification:
    """Write `path`, checked by onnx.checker and against torch on `samples`.

    Args:
        samples: uint8 RGB [M, 300, 300, 3], M >= 1.
        calibration: likewise; what "int8" measures activations on, else None.

    Raises:
        InputError: the file cannot be made as asked or does not do what torch does; nothing is written.
    """
    opset = options.resolved_opset()
    if (options.precision == "int8") != (calibration is not None):
        raise InputError("--int8 and --calibration belong together: 8-bit ranges are measured on images like yours")
    detector = TorchDetector(checkpoint)
    model = translate(detector, raw=options.raw, batch=options.batch, opset=opset)
    lower_opset(model, opset)
    outputs = network_outputs(model)
    if options.precision == "fp16":
        halve(model)
    if calibration is not None:
        # A static batch is filled up with copies, since ranges are averaged over batches.
        model = quantise(model, (batch for image in calibration for batch in _inputs(image[None], options)))
    onnx.helper.set_model_props(model, _metadata(checkpoint, options, calibration))
    onnx.checker.check_model(model, full_check=True)
    verification = _verify(model, outputs, detector, samples, options)
    write_whole(path, model.SerializeToString(deterministic=True))
    return verification


def sample_images(folder: Path | None, count: int = 4, *, upright: bool = False) -> np.ndarray:
    """The first `count` images in and below a folder, preprocessed; without a folder, generated ones.

    `upright` turns them as their EXIF orientation says.

    Raises:
        InputError: the folder holds no readable image.
    """
    if folder is None:
        return np.stack([preprocess(draw_image(np.random.default_rng(i))[0]) for i in range(count)])
    return np.stack([preprocess(decode(file, upright=upright)) for file in find_images([folder])[:count]])


def _inputs(images: np.ndarray, options: ExportOptions) -> Iterator[np.ndarray]:
    """The model's inputs for uint8 images [M, 300, 300, 3]; a static batch is filled up from the front."""
    size = options.batch or 1
    for start in range(0, len(images), size):
        batch = images[np.arange(start, start + size) % len(images)]
        yield network_input(batch) if options.raw else batch


def _metadata(checkpoint: Checkpoint, options: ExportOptions, calibration: np.ndarray | None) -> dict[str, str]:
    """What a user of the file needs to know, as JSON values by name."""
    values = {
        "format": "ssd_graph raw 1" if options.raw else "ssd_graph detections 1",
        "preset": checkpoint.model.preset,
        "precision": options.precision,
        "category_ids": checkpoint.categories.ids,
        "category_names": checkpoint.categories.names,
        "input_size": [IMAGE_SIZE, IMAGE_SIZE],
        "resize": "whole image to input_size, Pillow BILINEAR (antialiased), aspect ratio not kept",
        "normalisation": "by the user: (RGB / 255 - pixel_mean) / pixel_std" if options.raw else "inside the model",
        "box_format": _RAW_BOXES if options.raw else _BOXES,
        "upright": bool(checkpoint.run.get("upright")),
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        **asdict(EvalConfig()),
        "default_boxes": asdict(SSD300_BOXES),
        "checkpoint_sha256": checkpoint.sha256,
        "checkpoint_step": checkpoint.step,
        "versions": {
            "ssd_graph": ssd_graph.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }
    if calibration is not None:
        values["quantisation"] = {"num_images": len(calibration)}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _verify(
    model: onnx.ModelProto,
    outputs: tuple[str, str],
    detector: TorchDetector,
    samples: np.ndarray,
    options: ExportOptions,
) -> Verification:
    """Compare the file with torch; `outputs` names the network's outputs inside it."""
    with torch.no_grad():
        expected = [o.numpy() for o in detector.predict(torch.from_numpy(samples))]
    found = _run(tapped(model, outputs), samples, options)
    ratio = float(np.min([_ratio(e, f, options.precision) for e, f in zip(expected, found, strict=True)]))  # NaN too
    if not ratio >= (least := LEAST_SIGNAL_TO_NOISE[options.precision]):
        raise InputError(
            f"the network's outputs in {options.precision} are only {ratio:.0f} dB above their errors on sample images "
            f"(limit {least:.0f} dB); nothing written"
        )
    if options.raw:
        return Verification(ratio, None)
    basis = expected if options.precision == "fp32" else found
    decoded = detector.postprocess.decode(*(torch.from_numpy(o) for o in basis))
    boxes, probabilities = (o.numpy() for o in decoded)
    config = detector.postprocess.config
    # Logits of hundreds, as after a few steps of training, are rounded more coarsely than detections may differ.
    limit = PARITY + max(float(np.abs(b - f).max()) for b, f in zip(basis, found, strict=True))
    difference = unexplained(_run(model, samples, options), boxes, probabilities, detector.categories, config, limit)
    if not difference <= limit:
        raise InputError(
            f"onnxruntime differs from torch by {difference:.2g} on sample images (limit {limit:.1g}); nothing written"
        )
    return Verification(ratio, difference)


def _ratio(expected: np.ndarray, found: np.ndarray, precision: str) -> float:
    """Signal to noise of one of the network's outputs, in dB, over all images [M, ...]; in 8 bits their mean.

    What activations grow to in a few images is beyond their range in 8 bits. Over all, these would count for the rest.
    """
    if precision == "int8":
        return float(np.mean([signal_to_noise(*pair) for pair in zip(expected, found, strict=True)]))
    return signal_to_noise(expected, found)


def _run(model: onnx.ModelProto, samples: np.ndarray, options: ExportOptions) -> list[np.ndarray]:
    """Outputs of a model for all samples."""
    settings = onnxruntime.SessionOptions()
    # The layouts that `all` adds on aarch64 lack the pooling of opset 11 in 16 bits.
    settings.graph_optimization_level = OPTIMIZATION_LEVELS["extended"]
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which are in no public module
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} refuses the model ({reason_of(error)}); nothing written"
        ) from error
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: batch}) for batch in _inputs(samples, options)]
    return [np.concatenate([np.asarray(o) for o in column])[: len(samples)] for column in zip(*parts, strict=True)]
