"""How far a network's outputs are from others, and whether detections follow from them."""

# N images, D detections an image, A default boxes, K categories

from collections.abc import Sequence

import numpy as np

from ssd_graph.boxes import iou
from ssd_graph.config import EvalConfig

INFINITY = float("inf")


def signal_to_noise(expected: np.ndarray, found: np.ndarray) -> float:
    """How far the power of `expected` is above that of `found`'s errors, in dB; infinity where they are equal."""
    signal, noise = (float(np.square(a.astype(np.float64)).sum()) for a in (expected, found - expected))
    return 10 * float(np.log10(signal / noise)) if noise else INFINITY


def unexplained(
    detections: Sequence[np.ndarray],
    boxes: np.ndarray,
    probabilities: np.ndarray,
    category_ids: tuple[int, ...],
    config: EvalConfig,
    tolerance: float,
) -> float:
    """How far detections are from what the postprocessing's rules make of a network's outputs.

    Comparing with another implementation's detections asks too much of an untrained network, whose scores
    are full of near ties: the last bit of one then changes which boxes survive. So the rules themselves are
    checked, each with `tolerance`: a detection is a default box among its class's candidates, two of a class
    do not overlap too much, and a candidate that is missing was suppressed by a better one or cut off.

    Args:
        detections: num_detections [N], boxes [N, D, 4], scores [N, D], labels [N, D].
        boxes: decoded xyxy of every default box [N, A, 4].
        probabilities: [N, K, A], without the background.

    Returns:
        The largest difference of a detection's score or coordinate from its default box's; infinity if a
        rule is broken.
    """
    worst = 0.0
    for image, (num, found_boxes, found_scores, found_labels) in enumerate(zip(*detections, strict=True)):
        last = float(found_scores[num - 1]) if num == config.detections_per_image else config.score_threshold
        for k, category_id in enumerate(category_ids):
            mine = np.flatnonzero(found_labels[:num] == category_id)
            of_class = found_boxes[mine], found_scores[mine], boxes[image], probabilities[image, k]
            worst = float(np.maximum(worst, _unexplained_of_class(*of_class, last, config, tolerance)))  # NaN too
    return worst


def _unexplained_of_class(
    kept_boxes: np.ndarray,
    kept_scores: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    last: float,
    config: EvalConfig,
    tolerance: float,
) -> float:
    """`unexplained` for one class of one image; `last` is the score below which the image's list may end."""
    num = config.candidates_per_class
    cut = max(config.score_threshold, float(np.partition(scores, -num)[-num]))
    possible, certain = (np.flatnonzero(scores > cut + margin) for margin in (-tolerance, tolerance))
    distance = _distance(kept_boxes, kept_scores, boxes[possible], scores[possible])
    nearest = distance.min(1, initial=INFINITY)

    overlaps = iou(kept_boxes, kept_boxes) - np.eye(len(kept_boxes))
    if overlaps.max(initial=0.0) >= config.iou_threshold + tolerance:
        return INFINITY
    better = kept_scores[None, :] >= scores[certain, None] - tolerance
    suppressed = (better & (iou(boxes[certain], kept_boxes) >= config.iou_threshold - tolerance)).any(1)
    kept = np.zeros(len(scores), bool)
    kept[possible[distance.argmin(1)] if len(possible) else possible] = True
    if not (suppressed | kept[certain] | (scores[certain] <= last + tolerance)).all():
        return INFINITY
    return float(nearest.max(initial=0.0))


def _distance(boxes_a: np.ndarray, scores_a: np.ndarray, boxes_b: np.ndarray, scores_b: np.ndarray) -> np.ndarray:
    """Largest difference of score and coordinates, [A, B], between boxes [A, 4] and [B, 4] with scores."""
    of_boxes = np.abs(boxes_a[:, None] - boxes_b[None, :]).max(-1, initial=0.0)
    return np.maximum(np.abs(scores_a[:, None] - scores_b[None, :]), of_boxes)
