"""Detections -> COCO numbers, by pycocotools or faster-coco-eval, without torch."""

# G objects, T IoU thresholds, K categories by id

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from ssd_graph.cli import InputError
from ssd_graph.data.coco_file import Columns, read_columns
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.scorers import quiet, scorer_classes

STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers in pycocotools' order; -1 where there is no ground truth of that size."""


@dataclass(frozen=True, slots=True)
class CocoScores:
    """What COCO says of a set of detections."""

    stats: dict[str, float]
    """Keys STAT_NAMES."""
    per_class: dict[str, float | None]
    """AP by category name; None without ground truth."""
    table: str
    """The scorer's own summary of the twelve numbers."""
    precision: np.ndarray = field(compare=False, repr=False)
    """float64 [T, 101, K]: interpolated precision at recalls 0 to 1, IoU 0.5 to 0.95; -1 without ground truth."""


class Objects(NamedTuple):
    """Ground truth in file order; boxes that are not finite are no objects."""

    image_ids: np.ndarray
    """int64 [G], the file's."""
    category_ids: np.ndarray
    """int64 [G], the file's."""
    boxes_xywh: np.ndarray
    """float64 [G, 4], pixels of the original image."""
    areas: np.ndarray
    """float64 [G], pixels."""
    crowds: np.ndarray
    """bool [G]."""

    @staticmethod
    def of(columns: Columns) -> Objects:
        """The objects of an annotation file."""
        finite = np.isfinite(columns.xywh).all(1)
        owners, categories = columns.owners[finite], columns.owner_categories[finite]
        return Objects(
            columns.image_ids[owners],
            columns.category_ids[categories],
            *(column[finite] for column in (columns.xywh, columns.areas, columns.crowds)),
        )


class CocoScorer:
    """The ground truth of a split, read once and used for any number of evaluations.

    The scorers get ids of their own, 1 to I, in the order of the file's ids as these scorers would sort them. So
    an id may be missing, repeated (of annotations), 0, negative or large, and changes nothing.
    """

    def __init__(self, annotation_file: Path, scorer: str = "pycocotools") -> None:
        """Read the ground truth; `scorer` is one of scorers.SCORERS.

        Raises:
            InputError: the file is not accepted, see coco_file.read_columns, or the scorer is not installed.
        """
        self._coco, self._evaluation = scorer_classes(scorer)
        self.objects = Objects.of(columns := read_columns(annotation_file))
        order = np.argsort(columns.category_ids)
        self.image_ids, self.category_ids = np.sort(columns.image_ids), columns.category_ids[order]
        self._names = columns.category_names[order].tolist()
        self._truth = self._coco()
        self._truth.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(self.image_ids))],
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(self._names)],
            "annotations": [
                {"id": g + 1, "image_id": i, "category_id": k, "bbox": box, "area": area, "iscrowd": int(crowd)}
                for g, (i, k, box, area, crowd) in enumerate(
                    zip(
                        self._images(self.objects.image_ids).tolist(),
                        self._categories(self.objects.category_ids).tolist(),
                        self.objects.boxes_xywh.tolist(),
                        self.objects.areas.tolist(),
                        self.objects.crowds.tolist(),
                        strict=True,
                    )
                )
            ],
        }
        with quiet():
            self._truth.createIndex()

    def score(self, rows: DetectionRows, image_ids: np.ndarray | None = None) -> CocoScores:
        """Score detections on `image_ids` (int64, all images by default); no detections give AP 0.

        Raises:
            InputError: a detection is on an image that the ground truth does not have.
        """
        with quiet() as printed:
            evaluation = self._evaluation(self._truth, self._results(rows), "bbox")
            if image_ids is not None:
                evaluation.params.imgIds = sorted(self._images(image_ids).tolist())
            evaluation.evaluate()
            evaluation.accumulate()
            printed.seek(0)
            printed.truncate()
            evaluation.summarize()
        stats = {name: float(value) for name, value in zip(STAT_NAMES, evaluation.stats, strict=True)}
        precision = evaluation.eval["precision"][:, :, :, 0, -1].copy()
        table = printed.getvalue().rstrip().splitlines()[: len(STAT_NAMES)]
        return CocoScores(stats, self._per_class(precision), "\n".join(table), precision)

    def match(self, rows: DetectionRows, image_ids: np.ndarray, iou_thresholds: Sequence[float] = ()) -> Any:
        """pycocotools' matching of objects of every size, not accumulated: a COCOeval with its `evalImgs`.

        For the scorer "pycocotools" only.

        Row r is detection id r + 1 there, and object g of `objects` is annotation id g + 1. `iou_thresholds` are
        COCO's ten by default.

        Raises:
            InputError: as `score`.
        """
        with quiet():
            evaluation: Any = COCOeval(self._truth, self._results(rows), "bbox")
            evaluation.params.imgIds = sorted(self._images(image_ids).tolist())
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            if iou_thresholds:
                evaluation.params.iouThrs = np.array(iou_thresholds)
            evaluation.evaluate()
        return evaluation

    def _images(self, image_ids: np.ndarray) -> np.ndarray:
        """The scorers' ids of images, int64; InputError for one that the ground truth does not have."""
        ids = positions(self.image_ids, image_ids)
        if (ids < 0).any():
            raise InputError(f"detections on image {image_ids[ids < 0].min()}, which the ground truth does not have")
        return ids + 1

    def _categories(self, category_ids: np.ndarray) -> np.ndarray:
        """The scorers' ids of categories, int64; 0, which is none, for one that the ground truth does not have."""
        return positions(self.category_ids, category_ids) + 1

    def _results(self, rows: DetectionRows) -> Any:
        images, categories = self._images(rows.image_ids), self._categories(rows.category_ids)
        if len(rows):
            columns = (images[:, None], rows.boxes_xywh, rows.scores[:, None], categories[:, None])
            return self._truth.loadRes(np.concatenate(columns, 1))
        results = self._coco()  # loadRes fails on an empty list
        results.dataset = {**self._truth.dataset, "annotations": []}
        results.createIndex()
        return results

    def _per_class(self, precision: np.ndarray) -> dict[str, float | None]:
        result: dict[str, float | None] = {}
        for k, name in enumerate(self._names):
            values = precision[:, :, k]
            name = name if name not in result else f"{name} ({self.category_ids[k]})"
            result[name] = float(values.mean()) if (values > -1).any() else None
        return result


def positions(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where each of `ids` stands in `known` [N], which ascends: int64, -1 for one that does not."""
    if not len(known):
        return np.full(len(ids), -1)
    found = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[found] == ids, found, -1)
