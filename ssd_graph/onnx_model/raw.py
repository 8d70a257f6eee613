"""What a raw model leaves to its user, in numpy: normalisation before the network, decoding and NMS behind it."""

# N images, A default boxes, C classes, K classes with a candidate, T candidates a class, D detections an image

import numpy as np

from ssd_graph.boxes import area, cxcywh_to_xyxy
from ssd_graph.config import PIXEL_MEAN, PIXEL_STD, EvalConfig
from ssd_graph.graph.default_boxes import decode, default_boxes


def network_input(images: np.ndarray) -> np.ndarray:
    """Normalised float32 [N, 3, H, W] of uint8 RGB [N, H, W, 3], as augment.normalise computes it."""
    mean, scale = (np.array(v, np.float32) for v in ([m * 255 for m in PIXEL_MEAN], [1 / (s * 255) for s in PIXEL_STD]))
    return np.ascontiguousarray(((images.astype(np.float32) - mean) * scale).transpose(0, 3, 1, 2))


def detections(
    box_regression: np.ndarray, class_logits: np.ndarray, category_ids: tuple[int, ...], config: EvalConfig
) -> tuple[np.ndarray, ...]:
    """Detections by the rules of postprocess.Postprocess, for float32 [N, 4, A] and [N, C, A].

    Returns:
        num_detections int64 [N], boxes float32 xyxy [N, D, 4], scores float32 [N, D], labels int64 [N, D].
    """
    boxes = cxcywh_to_xyxy(decode(box_regression.transpose(0, 2, 1), default_boxes()))
    exponents = np.exp(class_logits - class_logits.max(1, keepdims=True))
    probabilities = exponents[:, 1:] / exponents.sum(1, keepdims=True)
    images = [_of_image(b, p, np.array(category_ids), config) for b, p in zip(boxes, probabilities, strict=True)]
    return tuple(np.stack(field) for field in zip(*images, strict=True))


def _of_image(
    boxes: np.ndarray, probabilities: np.ndarray, category_ids: np.ndarray, config: EvalConfig
) -> tuple[np.ndarray, ...]:
    """Detections of one image with boxes xyxy [A, 4] and probabilities without the background [C - 1, A]."""
    classes, anchors = np.nonzero(probabilities > np.float32(config.score_threshold))
    order = np.lexsort((-probabilities[classes, anchors], classes))  # class by class, best first
    classes, anchors = classes[order], anchors[order]
    names, first, row = np.unique(classes, return_index=True, return_inverse=True)
    rank = np.arange(len(classes)) - first[row]
    kept = rank < config.candidates_per_class
    classes, anchors, row, rank = classes[kept], anchors[kept], row[kept], rank[kept]

    table = np.zeros((len(names), rank.max(initial=-1) + 1, 4), np.float32)
    table[row, rank] = boxes[anchors]
    kept = _unsuppressed(table, config.iou_threshold)[row, rank]
    classes, anchors = classes[kept], anchors[kept]
    scores = probabilities[classes, anchors]
    best = np.argsort(-scores, kind="stable")[: config.detections_per_image]
    padding = config.detections_per_image - len(best)
    return (
        np.array(len(best), np.int64),
        np.pad(boxes[anchors[best]], ((0, padding), (0, 0))),
        np.pad(scores[best], (0, padding)),
        np.pad(category_ids[classes[best]], (0, padding)),
    )


def _unsuppressed(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy NMS of each class at once: bool [K, T] for boxes xyxy [K, T, 4], best first.

    Rows of zeros, which fill up a class, overlap nothing.
    """
    kept = np.ones(boxes.shape[:2], bool)
    areas = area(boxes)
    for i in range(boxes.shape[1] - 1):
        best, others = boxes[:, i : i + 1], boxes[:, i + 1 :]
        sides = np.minimum(best[..., 2:], others[..., 2:]) - np.maximum(best[..., :2], others[..., :2])
        intersection = np.maximum(sides, 0).prod(-1)
        union = areas[:, i : i + 1] + areas[:, i + 1 :] - intersection
        overlapping = (intersection > 0) & (intersection / np.where(union > 0, union, 1) >= np.float32(iou_threshold))
        kept[:, i + 1 :] &= ~(overlapping & kept[:, i : i + 1])
    return kept
