"""The score thresholds at which a detector's F1 is best, over all classes and for each, at IoU 0.5."""

# R detections, K categories by id

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.scoring.matching import NOT_COUNTED, Matches


class Threshold(NamedTuple):
    """Detections of at least this score are kept."""

    score: float
    f1: float
    """2 found / (detections kept + objects)."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The best ones; None where no detection finds an object."""

    overall: Threshold | None
    per_class: dict[str, Threshold | None]
    """By category name, in the order of ids."""

    def to_json(self) -> dict[str, Any]:
        """As summary.json has them."""
        per_class = {name: found and found._asdict() for name, found in self.per_class.items()}
        return {"overall": self.overall and self.overall._asdict(), "per_class": per_class}


def best_thresholds(matches: Matches, category_ids: np.ndarray, names: list[str]) -> Thresholds:
    """The threshold with the highest F1 for categories [K], and for all of them together."""
    counted = matches.object_of != NOT_COUNTED
    scores, found = matches.rows.scores[counted], matches.object_of[counted] >= 0
    of_class, objects = matches.rows.category_ids[counted], matches.objects.category_ids
    per_class = {
        name: _best(scores[of_class == k], found[of_class == k], int((objects == k).sum()))
        for k, name in zip(category_ids.tolist(), names, strict=True)
    }
    return Thresholds(_best(scores, found, len(objects)), per_class)


def _best(scores: np.ndarray, found: np.ndarray, num_objects: int) -> Threshold | None:
    """Of detections [R] that found an object or not; of equally good thresholds the highest."""
    order = np.argsort(-scores, kind="stable")
    scores, num_found = scores[order], np.cumsum(found[order])
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    f1 = 2 * num_found / (np.arange(1, len(scores) + 1) + num_objects) * last_of_score
    if not f1.any():
        return None
    best = int(f1.argmax())
    return Threshold(float(scores[best]), float(f1[best]))
