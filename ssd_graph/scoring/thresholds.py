"""The score thresholds at which a detector's F1 is best, over all classes and for each, at IoU 0.5."""

# R detections, K categories by id

from typing import Any

import numpy as np

from ssd_graph.scoring.matching import NOT_COUNTED, Matches


def best_thresholds(matches: Matches, category_ids: np.ndarray, names: list[str]) -> dict[str, Any]:
    """The threshold with the highest F1 for categories [K], and for all of them together, as summary.json has them.

    Returns:
        `overall`, and `per_class` by category name in the order of ids. Each has the `score` from which on detections
        are kept, and `f1`, 2 found / (detections kept + objects); None where no detection finds an object.
    """
    counted = matches.object_of != NOT_COUNTED
    scores, found = matches.rows.scores[counted], matches.object_of[counted] >= 0
    of_class, objects = matches.rows.category_ids[counted], matches.objects.category_ids
    per_class = {
        name: _best(scores[of_class == k], found[of_class == k], int((objects == k).sum()))
        for k, name in zip(category_ids.tolist(), names, strict=True)
    }
    return {"overall": _best(scores, found, len(objects)), "per_class": per_class}


def _best(scores: np.ndarray, found: np.ndarray, num_objects: int) -> dict[str, float] | None:
    """Of detections [R] that found an object or not; of equally good thresholds the highest."""
    order = np.argsort(-scores, kind="stable")
    scores, num_found = scores[order], np.cumsum(found[order])
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    f1 = 2 * num_found / (np.arange(1, len(scores) + 1) + num_objects) * last_of_score
    if not f1.any():
        return None
    best = int(f1.argmax())
    return {"score": float(scores[best]), "f1": float(f1[best])}
