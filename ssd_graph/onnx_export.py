"""Checkpoint -> one self-describing .onnx file that holds the network and its postprocessing.

Input `images`, uint8 RGB [N, 300, 300, 3]; outputs `num_detections` int64 [N], `boxes` float32 [N, 200, 4]
(xyxy relative to the image, not clipped), `scores` float32 [N, 200] and `labels` int64 [N, 200] (category
ids), best first and zero behind `num_detections`.
"""

# N images, A default boxes, C classes

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

import ssd_graph
from ssd_graph.augment import normalise
from ssd_graph.checkpoint import Checkpoint
from ssd_graph.cli import InputError, atomic_write
from ssd_graph.config import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD, SSD300_BOXES, EvalConfig
from ssd_graph.model import SSD300
from ssd_graph.parity import unexplained
from ssd_graph.postprocess import Detections, Postprocess
from ssd_graph.shapes import draw_image
from ssd_graph.transforms import decode, preprocess

OPSET = 18
"""Old enough for CANN's and TensorRT's converters."""

PARITY = 1e-4
"""Largest difference of scores and boxes between torch and onnxruntime that passes the check.

A trained network stays below 1e-5. After thirty steps logits reach 150, and rounding alone gave 1.04e-5.
"""


class Detector(nn.Module):
    """uint8 images in, detections out."""

    def __init__(self, checkpoint: Checkpoint, config: EvalConfig) -> None:
        super().__init__()
        self.network = SSD300(checkpoint.model)
        self.network.load_state_dict(checkpoint.weights)
        self.categories = checkpoint.categories.ids
        self.postprocess = Postprocess(self.categories, config)
        self.eval()

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A] and class logits [N, C, A] of uint8 RGB images [N, 300, 300, 3]."""
        return self.network(normalise(images.permute(0, 3, 1, 2).float()))

    def forward(self, images: Tensor) -> Detections:
        """Detections of uint8 RGB images [N, 300, 300, 3]."""
        return self.postprocess(*self.predict(images))


def export_onnx(checkpoint: Checkpoint, path: Path, samples: np.ndarray, config: EvalConfig) -> float:
    """Write `path`, checked by onnx.checker and against torch on `samples` (uint8 [N, 300, 300, 3], N >= 1).

    Returns:
        The largest absolute difference of a box coordinate or score between torch and onnxruntime.

    Raises:
        InputError: onnxruntime's detections do not follow from torch's outputs; nothing is written.
    """
    detector = Detector(checkpoint, config)
    model = _translate(detector)
    _strip_traces(model)
    for key, value in _metadata(checkpoint, config).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    difference = _difference(detector, model, samples, config)
    if not difference <= PARITY:
        raise InputError(
            f"onnxruntime differs from torch by {difference:.2g} on sample images (limit {PARITY:.0e}); nothing written"
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return difference


def sample_images(folder: Path | None, count: int = 4) -> np.ndarray:
    """The first `count` images of a folder, preprocessed; without a folder, generated ones.

    Raises:
        InputError: the folder holds no readable image.
    """
    if folder is None:
        return np.stack([preprocess(draw_image(np.random.default_rng(i))[0]) for i in range(count)])
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise InputError(f"no .jpg or .png in {folder}; give --images a folder of images")
    return np.stack([preprocess(decode(file)) for file in files[:count]])


def _translate(detector: Detector) -> onnx.ModelProto:
    def nms(boxes: Any, scores: Any, max_output: int, iou_threshold: float, score_threshold: float) -> Any:
        limit: Any = op.Constant(value_ints=[max_output])
        overlap: Any = op.Constant(value_floats=[iou_threshold])
        score: Any = op.Constant(value_floats=[score_threshold])
        return op.NonMaxSuppression(boxes, scores, limit, overlap, score)

    # An example of one image would fix the batch at 1.
    example = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells every user without torchvision what only torchvision users need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                detector,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(Detections._fields),
                dynamic_shapes=({0: torch.export.Dim("N")},),
                custom_translation_table={torch.ops.ssd_graph.nms.default: nms},
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on nodes and values, which quote local paths and source lines."""
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        graph.doc_string = ""
        values = (*graph.node, *graph.value_info, *getattr(graph, "input", ()), *getattr(graph, "output", ()))
        for value in (*values, *getattr(graph, "initializer", ())):
            if not isinstance(value, str):
                del value.metadata_props[:]
                value.doc_string = ""


def _metadata(checkpoint: Checkpoint, config: EvalConfig) -> dict[str, str]:
    """What a user of the file needs to know, as JSON values by name."""
    values = {
        "format": "ssd_graph detections 1",
        "preset": checkpoint.model.preset,
        "category_ids": checkpoint.categories.ids,
        "category_names": checkpoint.categories.names,
        "input_size": [IMAGE_SIZE, IMAGE_SIZE],
        "resize": "whole image to input_size, Pillow BILINEAR (antialiased), aspect ratio not kept",
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "score_threshold": config.score_threshold,
        "iou_threshold": config.iou_threshold,
        "candidates_per_class": config.candidates_per_class,
        "detections_per_image": config.detections_per_image,
        "default_boxes": {name: getattr(SSD300_BOXES, name) for name in SSD300_BOXES.__slots__},
        "checkpoint_sha256": checkpoint.sha256,
        "checkpoint_step": checkpoint.step,
        "versions": {
            "ssd_graph": ssd_graph.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
        },
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _difference(detector: Detector, model: onnx.ModelProto, samples: np.ndarray, config: EvalConfig) -> float:
    """How far onnxruntime's detections are from following from torch's network outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        boxes, probabilities = detector.postprocess.decode(*detector.predict(torch.from_numpy(samples)))
    detections = [np.asarray(output) for output in session.run(None, {"images": samples})]
    return unexplained(detections, boxes.numpy(), probabilities.numpy(), detector.categories, config, PARITY)
