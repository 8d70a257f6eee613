"""Which objects a detector finds, misses, confuses or makes up, at IoU 0.5, without torch."""

# R detections, G objects of the scored images, I scored images, K categories by id, S score thresholds

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssd_graph.scoring.matching import IOU, NO_OBJECT, NOT_COUNTED, Matches, iou


class Sweep(NamedTuple):
    """Quality of all detections at or above a score threshold, for every hundredth of a score."""

    thresholds: np.ndarray
    """float64 [S]."""
    precision: np.ndarray
    """float64 [S]: share of detections that found an object; NaN without detections."""
    recall: np.ndarray
    """float64 [S]: share of objects found; 0 without objects."""
    f1: np.ndarray
    """float64 [S]."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of every detection and object at one score threshold.

    A false detection, by descending score, is a confusion with the free object of another category that it
    overlaps most, at IoU 0.5 or more.
    """

    threshold: float
    found: np.ndarray
    """bool [R]: detections that found an object of their category."""
    false: np.ndarray
    """bool [R]: the other counted detections, confusions included."""
    confused_with: np.ndarray
    """int64 [R]: the object that a false detection is confused with, or NO_OBJECT."""
    missed: np.ndarray
    """bool [G]: objects not found, confused ones included."""


def sweep(matches: Matches) -> Sweep:
    """Precision, recall and F1 over all categories against the score threshold."""
    thresholds = np.arange(100) / 100
    counted, found = matches.object_of != NOT_COUNTED, matches.object_of >= 0
    num_counted = _num_at_or_above(thresholds, matches.rows.scores[counted])
    num_found = _num_at_or_above(thresholds, matches.rows.scores[found])
    num_objects = len(matches.objects.image_ids)
    return Sweep(
        thresholds,
        np.divide(num_found, num_counted, out=np.full(100, np.nan), where=num_counted > 0),
        num_found / max(num_objects, 1),
        2 * num_found / np.maximum(num_counted + num_objects, 1),
    )


def outcome(matches: Matches, threshold: float) -> Outcome:
    """Keep the detections with a score of at least `threshold`, and look for confusions among the false ones."""
    kept = matches.rows.scores >= threshold
    found, false = kept & (matches.object_of >= 0), kept & (matches.object_of == NO_OBJECT)
    missed = np.ones(len(matches.objects.image_ids), bool)
    missed[matches.object_of[found]] = False
    return Outcome(threshold, found, false, _confusions(matches, false, missed), missed)


def confusion_matrix(matches: Matches, at: Outcome, category_ids: np.ndarray) -> np.ndarray:
    """Counts [K + 1, K + 1], int64: truth in rows, detections in columns; the last of each is "nothing".

    So the last column holds missed objects and the last row detections on nothing. `category_ids`, int64 [K],
    ascend.
    """
    nothing = len(category_ids)
    truth = np.searchsorted(category_ids, matches.objects.category_ids)
    detected = np.searchsorted(category_ids, matches.rows.category_ids)
    confused = at.confused_with >= 0
    overlooked = at.missed.copy()
    overlooked[at.confused_with[confused]] = False
    matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
    np.add.at(matrix, (truth[matches.object_of[at.found]], detected[at.found]), 1)
    np.add.at(matrix, (truth[at.confused_with[confused]], detected[confused]), 1)
    matrix[:-1, -1] = np.bincount(truth[overlooked], minlength=nothing)
    matrix[-1, :-1] = np.bincount(detected[at.false & ~confused], minlength=nothing)
    return matrix


def image_counts(matches: Matches, at: Outcome) -> np.ndarray:
    """Found objects, false detections and missed objects of each scored image, int64 [I, 3]."""
    order = np.argsort(matches.image_ids)

    def count(image_ids: np.ndarray) -> np.ndarray:
        positions = order[np.searchsorted(matches.image_ids, image_ids, sorter=order)]
        return np.bincount(positions, minlength=len(order))

    rows, objects = matches.rows.image_ids, matches.objects.image_ids
    return np.stack([count(rows[at.found]), count(rows[at.false]), count(objects[at.missed])], 1)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of counts [..., 3] as `image_counts` gives them; NaN where there is neither object nor detection."""
    found, false, missed = np.moveaxis(counts.astype(np.float64), -1, 0)
    total = 2 * found + false + missed
    return np.divide(2 * found, total, out=np.full(total.shape, np.nan), where=total > 0)


def _num_at_or_above(thresholds: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _confusions(matches: Matches, false: np.ndarray, missed: np.ndarray) -> np.ndarray:
    free_on: dict[int, list[int]] = {}
    for g in np.flatnonzero(missed):
        free_on.setdefault(int(matches.objects.image_ids[g]), []).append(int(g))
    confused_with = np.full(len(false), NO_OBJECT)
    candidates = np.flatnonzero(false)
    for row in candidates[np.argsort(-matches.rows.scores[candidates], kind="stable")]:
        free = free_on.get(int(matches.rows.image_ids[row]))
        if free:
            boxes = matches.objects.boxes_xywh[free]
            overlaps = iou(matches.rows.boxes_xywh[None, row], boxes, np.zeros(len(free), bool))
            if overlaps.max() >= IOU:
                confused_with[row] = free.pop(int(overlaps.argmax()))
    return confused_with
