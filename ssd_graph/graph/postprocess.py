"""Network outputs -> detections; one definition for validation and for the exported model.

Follows REF utils.Encoder.decode_batch as its evaluation calls it: class by class, the 200 best boxes with a
probability above 0.05, greedy NMS at IoU 0.5, then the 200 best of the image. Boxes are not clipped.
"""

# N images, A default boxes, C classes, K = C - 1 categories, T candidates a class, D detections an image

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_graph.boxes import cxcywh_to_xyxy
from ssd_graph.config import EvalConfig
from ssd_graph.graph.default_boxes import decode, default_boxes


class Detections(NamedTuple):
    """Best first; rows behind `num_detections` are 0."""

    num_detections: Tensor
    """int64 [N]."""
    boxes: Tensor
    """float32 xyxy [N, D] relative to the image, not clipped to it."""
    scores: Tensor
    """float32 [N, D]."""
    labels: Tensor
    """int64 [N, D], category ids of the data set."""


class Postprocess(nn.Module):
    """Decode, softmax, and the selection of detections."""

    defaults: Tensor
    candidate_labels: Tensor

    def __init__(self, category_ids: tuple[int, ...], config: EvalConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("defaults", torch.from_numpy(default_boxes()), persistent=False)
        # The category of each of an image's K * T candidates.
        candidate_labels = torch.tensor(category_ids).repeat_interleave(config.candidates_per_class)
        self.register_buffer("candidate_labels", candidate_labels, persistent=False)

    def decode(self, box_regression: Tensor, class_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes xyxy [N, A, 4] and probabilities without the background [N, K, A]."""
        boxes = cxcywh_to_xyxy(decode(box_regression.transpose(1, 2), self.defaults, torch), torch)
        return boxes, class_logits.softmax(1)[:, 1:]

    def forward(self, box_regression: Tensor, class_logits: Tensor) -> Detections:
        """Detections of float32 box regression [N, 4, A] and class logits [N, C, A]."""
        boxes, probabilities = self.decode(box_regression, class_logits)
        num_images = probabilities.shape[0]
        num_candidates = self.config.candidates_per_class

        # Of what NMS would drop by its score the order does not matter, and zeros are sorted out four times as fast.
        scores, anchors = F.threshold(probabilities, self.config.score_threshold, 0.0).topk(num_candidates, dim=2)
        candidates = _gather_rows(boxes, anchors.reshape(num_images, -1))  # [N, K * T, 4]
        # Each category of each image is an image of its own to NMS, which so takes the T best boxes of each.
        selected = nms(
            candidates.reshape(-1, num_candidates, 4),
            scores.reshape(-1, 1, num_candidates),
            num_candidates,
            below(self.config.iou_threshold),
            self.config.score_threshold,
        )
        places = selected[:, 0] * num_candidates + selected[:, 2]
        kept = torch.zeros_like(scores).reshape(-1).scatter(0, places, torch.ones_like(places, dtype=scores.dtype))
        kept_scores = scores.reshape(num_images, -1) * kept.reshape(num_images, -1)

        scores, rows = kept_scores.topk(self.config.detections_per_image, dim=1)  # [N, D]
        found = scores > 0
        labels = self.candidate_labels[rows] * found
        return Detections(found.sum(1), _gather_rows(candidates, rows) * found[:, :, None], scores, labels)


def below(threshold: float) -> float:
    """The float32 before `threshold`.

    REF drops a box whose IoU is at least the threshold, ONNX's NonMaxSuppression one whose IoU is above it.
    No float32 lies between the two numbers, so "above the one" is "at least the other".
    """
    return float(np.nextafter(np.float32(threshold), np.float32(0)))


def _gather_rows(boxes: Tensor, rows: Tensor) -> Tensor:
    """boxes[n, rows[n, r]] as [N, R, 4], for boxes [N, B, 4] and rows int64 [N, R]."""
    return boxes.gather(1, rows[:, :, None].expand(-1, -1, 4))


@torch.library.custom_op("ssd_graph::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float, score_threshold: float) -> Tensor:
    """ONNX's NonMaxSuppression, run by onnxruntime's own kernel so that it cannot differ from the exported model.

    Args:
        boxes: float32 xyxy [N, B, 4].
        scores: float32 [N, C, B].
        max_output: most boxes kept of a class.
        iou_threshold: a box with a greater IoU with a better one is dropped.
        score_threshold: a kept box's score is above this.

    Returns:
        int64 [M, 3]: image, class and box of each kept box; of equal scores the lower box comes first.
    """
    inputs = {
        "boxes": boxes.numpy(force=True),
        "scores": scores.numpy(force=True),
        "max_output": np.array([max_output], np.int64),
        "iou_threshold": np.array([iou_threshold], np.float32),
        "score_threshold": np.array([score_threshold], np.float32),
    }
    (selected,) = _nms_session().run(None, inputs)
    return torch.from_numpy(selected).to(boxes.device)


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float, score_threshold: float) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


@lru_cache(maxsize=1)
def _nms_session() -> Any:
    """An onnxruntime session of the one operator."""
    import onnxruntime
    from onnx import TensorProto, helper

    real, whole = TensorProto.FLOAT, TensorProto.INT64
    types = {"boxes": real, "scores": real, "max_output": whole, "iou_threshold": real, "score_threshold": real}
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", list(types), ["selected"])],
        "nms",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
        [helper.make_tensor_value_info("selected", whole, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
