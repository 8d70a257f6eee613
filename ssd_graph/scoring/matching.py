"""Which detection found which object at IoU 0.5, by pycocotools' rule, without torch."""

# R detections, G objects of the scored images, I scored images, P pairs of a detection and an object

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import CocoScorer, Objects, positions

IOU = 0.5
"""Overlap from which a detection counts as being on an object."""

NO_OBJECT = -1
NOT_COUNTED = -2
"""A detection on a crowd or on an image that is not scored, or beyond the hundred of its class and image."""

_MOST = 100
"""Detections of a class and image that count."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections against the objects of their own category.

    By descending score, each detection takes the free object it overlaps most. So the detections above any
    score threshold keep their objects when the others are left out.
    """

    rows: DetectionRows
    objects: Objects
    """Of the scored images, without crowds."""
    image_ids: np.ndarray
    """int64 [I], the scored images."""
    object_of: np.ndarray
    """int64 [R]: the object a detection found, NO_OBJECT or NOT_COUNTED."""


def match(scorer: CocoScorer, rows: DetectionRows, image_ids: np.ndarray) -> Matches:
    """Match detections on `image_ids` (int64 [I])."""
    scored = np.isin(scorer.objects.image_ids, image_ids)
    objects = Objects(*(column[scored] for column in scorer.objects))
    ids = (np.unique(image_ids), scorer.category_ids)
    kept = _best_hundred(rows, *ids)
    object_of = np.full(len(rows), NOT_COUNTED)
    object_of[kept] = NO_OBJECT
    # Crowds come last, and are no objects: what lies on one is ignored.
    order = np.argsort(objects.crowds, kind="stable")
    number = np.where(objects.crowds, NOT_COUNTED, np.cumsum(~objects.crowds) - 1)
    free = np.ones(len(scored), bool)
    for row, found, overlaps in _candidates(rows, kept, objects, order, ids):
        best, at_least = -1, IOU
        for one, overlap in zip(found, overlaps, strict=True):
            if best >= 0 and number[best] >= 0 and number[one] < 0:
                break
            if (free[one] or number[one] < 0) and overlap >= at_least:
                best, at_least = one, overlap
        if best >= 0:
            free[best], object_of[row] = False, number[best]
    return Matches(rows, Objects(*(column[~objects.crowds] for column in objects)), image_ids, object_of)


def _best_hundred(rows: DetectionRows, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """The rows that count, int64: by image and category, and by descending score within."""
    group = _groups(rows.image_ids, rows.category_ids, image_ids, category_ids)
    order = np.lexsort((-rows.scores, group))
    order = order[group[order] >= 0]
    first = np.searchsorted(group[order], group[order])
    return order[np.arange(len(order)) - first < _MOST]


def _groups(images: np.ndarray, categories: np.ndarray, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """A number for each image and category, int64; -1 for those that are not known."""
    i, k = positions(image_ids, images), positions(category_ids, categories)
    return np.where((i < 0) | (k < 0), -1, i * len(category_ids) + k)


def _candidates(
    rows: DetectionRows, kept: np.ndarray, objects: Objects, order: np.ndarray, ids: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[int, list[int], list[float]]]:
    """Rows with the objects of their image and category that they overlap enough, and how much, in their orders."""
    groups = _groups(objects.image_ids, objects.category_ids, *ids)
    order = order[np.argsort(groups[order], kind="stable")]
    of_rows = _groups(rows.image_ids[kept], rows.category_ids[kept], *ids)
    first, last = (np.searchsorted(groups[order], of_rows, side) for side in ("left", "right"))
    counts = last - first
    pair_rows = np.repeat(np.arange(len(kept)), counts)  # [P]
    within = np.arange(len(pair_rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    pair_objects = order[first[pair_rows] + within]
    overlaps = iou(rows.boxes_xywh[kept[pair_rows]], objects.boxes_xywh[pair_objects], objects.crowds[pair_objects])
    enough = overlaps >= IOU
    pair_rows, pair_objects, overlaps = pair_rows[enough], pair_objects[enough], overlaps[enough]
    starts = np.flatnonzero(np.diff(pair_rows, prepend=-1))
    for start, end in pairwise([*starts, len(pair_rows)]):
        yield int(kept[pair_rows[start]]), pair_objects[start:end].tolist(), overlaps[start:end].tolist()


def iou(boxes_xywh: np.ndarray, others_xywh: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """IoU [P] of pairs of boxes [P, 4], or of one [1, 4]; of a crowd, the share of the first box that lies on it."""
    corner = np.maximum(boxes_xywh[:, :2], others_xywh[:, :2])
    sides = np.minimum(boxes_xywh[:, 2:] + boxes_xywh[:, :2], others_xywh[:, 2:] + others_xywh[:, :2]) - corner
    shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    area, other = boxes_xywh[:, 2] * boxes_xywh[:, 3], others_xywh[:, 2] * others_xywh[:, 3]
    whole = np.where(crowds, area, area + other - shared)
    return np.divide(shared, whole, out=np.zeros(len(shared)), where=shared > 0)
