"""The modules that are exported, and their translation to ONNX by torch's exporter."""

# N images, A default boxes, C classes

import logging
import warnings
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from ssd_graph.checkpoints.checkpoint import Checkpoint
from ssd_graph.config import IMAGE_SIZE, EvalConfig
from ssd_graph.graph.augment import normalise
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.postprocess import Detections, Postprocess
from ssd_graph.onnx_model.graph import strip_traces

OLDEST_OPSET = 18
"""That torch's exporter writes."""


class TorchDetector(nn.Module):
    """uint8 images in, detections out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.network = SSD300(checkpoint.model)
        self.network.load_state_dict(checkpoint.weights)
        self.categories = checkpoint.categories.ids
        self.postprocess = Postprocess(self.categories, EvalConfig())
        self.eval()

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A] and class logits [N, C, A] of uint8 RGB images [N, 300, 300, 3]."""
        return self.network(normalise(images.permute(0, 3, 1, 2).float()))

    def forward(self, images: Tensor) -> Detections:
        """Detections of uint8 RGB images [N, 300, 300, 3]."""
        return self.postprocess(*self.predict(images))


def translate(detector: TorchDetector, *, raw: bool, batch: int | None, opset: int) -> onnx.ModelProto:
    """The detector, or its network alone, as an ONNX graph of `batch` images, None for any number."""
    if raw:
        module, shape, kind = detector.network, (3, IMAGE_SIZE, IMAGE_SIZE), torch.float32
        inputs, outputs = ["image"], ["ploc", "plabel"]
    else:
        module, shape, kind = detector, (IMAGE_SIZE, IMAGE_SIZE, 3), torch.uint8
        inputs, outputs = ["images"], list(Detections._fields)
    # An example of one image would fix a dynamic batch at 1.
    example = torch.zeros(batch or 2, *shape, dtype=kind)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells every user without torchvision what only torchvision users need
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=max(opset, OLDEST_OPSET),
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=None if batch else ({0: torch.export.Dim("N")},),
                custom_translation_table={
                    torch.ops.ssd_graph.nms.default: _nms,
                    torch.ops.aten.threshold.default: _threshold,
                },
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    strip_traces(model)
    return model


def _threshold(x: Any, threshold: float, value: float) -> Any:
    """One operator where torch's exporter would write two, six times as slow; what is not above it becomes zero."""
    assert value == 0
    return op.ThresholdedRelu(x, alpha=threshold)


def _nms(boxes: Any, scores: Any, max_output: int, iou_threshold: float, score_threshold: float) -> Any:
    limit: Any = op.Constant(value_ints=[max_output])
    overlap: Any = op.Constant(value_floats=[iou_threshold])
    score: Any = op.Constant(value_floats=[score_threshold])
    return op.NonMaxSuppression(boxes, scores, limit, overlap, score)
