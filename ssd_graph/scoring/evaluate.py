"""Detections -> COCO numbers, by pycocotools or faster-coco-eval, without torch."""

# T IoU thresholds, K categories by id

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from ssd_graph.cli import InputError
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


class CocoScorer:
    """The ground truth of a split, read once and used for any number of evaluations."""

    def __init__(self, annotation_file: Path, scorer: str = "pycocotools") -> None:
        """Read the ground truth; `scorer` is one of scorers.SCORERS. Warns of an annotation with id 0.

        Raises:
            InputError: the file cannot be read as COCO ground truth, or the scorer is not installed.
        """
        self._coco, self._evaluation = scorer_classes(scorer)
        self._truth = self._coco()
        try:
            self._truth.dataset = json.loads(annotation_file.read_bytes())
            annotations = self._truth.dataset["annotations"]
            for number, annotation in enumerate(annotations, start=1):
                # The MLPerf scripts' bbox_only files leave these out.
                annotation.setdefault("id", number)
                annotation.setdefault("iscrowd", 0)
                annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
            _require_numbers(self._truth.dataset)
            with quiet():
                self._truth.createIndex()
            self._names = {category["id"]: str(category["name"]) for category in self._truth.dataset["categories"]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise InputError(f"cannot read ground truth from {annotation_file}: {error!r}") from error
        if any(annotation["id"] == 0 for annotation in annotations):
            # Both scorers mark a detection's match by the annotation's id and read 0 as "none".
            warnings.warn(
                f"{annotation_file}: the object with annotation id 0 counts as missed even where it is detected; "
                "number the annotations from 1",
                stacklevel=2,
            )

    def score(self, rows: DetectionRows, image_ids: np.ndarray | None = None) -> CocoScores:
        """Score detections on `image_ids` (int64, all images by default); no detections give AP 0.

        Raises:
            InputError: a detection is on an image that the ground truth does not have.
        """
        self._check_images(rows)
        with quiet() as printed:
            evaluation = self._evaluation(self._truth, self._results(rows), "bbox")
            if image_ids is not None:
                evaluation.params.imgIds = sorted(int(i) for i in image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            printed.seek(0)
            printed.truncate()
            evaluation.summarize()
        stats = {name: float(value) for name, value in zip(STAT_NAMES, evaluation.stats, strict=True)}
        precision = evaluation.eval["precision"][:, :, :, 0, -1].copy()
        table = printed.getvalue().rstrip().splitlines()[: len(STAT_NAMES)]
        return CocoScores(stats, self._per_class(evaluation), "\n".join(table), precision)

    def match(self, rows: DetectionRows, image_ids: np.ndarray, iou_thresholds: Sequence[float] = ()) -> Any:
        """pycocotools' matching of objects of every size, not accumulated: a COCOeval with its `evalImgs`.

        For the scorer "pycocotools" only.

        Row r is detection id r + 1 there. `iou_thresholds` are COCO's ten by default.

        Raises:
            InputError: as `score`.
        """
        self._check_images(rows)
        with quiet():
            evaluation: Any = COCOeval(self._truth, self._results(rows), "bbox")
            evaluation.params.imgIds = sorted(int(i) for i in image_ids)
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            if iou_thresholds:
                evaluation.params.iouThrs = np.array(iou_thresholds)
            evaluation.evaluate()
        return evaluation

    def annotations(self, image_ids: np.ndarray) -> Sequence[Any]:
        """The ground truth on `image_ids` as COCO annotations, crowds included."""
        return self._truth.loadAnns(self._truth.getAnnIds(imgIds=image_ids.tolist()))

    def _check_images(self, rows: DetectionRows) -> None:
        unknown = set(rows.image_ids.tolist()) - set(self._truth.getImgIds())
        if unknown:
            raise InputError(f"detections on image {min(unknown)}, which the ground truth does not have")

    def _results(self, rows: DetectionRows) -> Any:
        if len(rows):
            columns = (
                rows.image_ids[:, None],
                rows.boxes_xywh,
                rows.scores[:, None],
                rows.category_ids[:, None],
            )
            return self._truth.loadRes(np.concatenate(columns, 1))
        results = self._coco()  # loadRes fails on an empty list
        results.dataset = {**self._truth.dataset, "annotations": []}
        results.createIndex()
        return results

    def _per_class(self, evaluation: Any) -> dict[str, float | None]:
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoUs, recalls, categories]
        result: dict[str, float | None] = {}
        for k, category_id in enumerate(evaluation.params.catIds):
            values = precision[:, :, k]
            name = self._names[category_id]
            name = name if name not in result else f"{name} ({category_id})"
            result[name] = float(values.mean()) if (values > -1).any() else None
        return result


def _require_numbers(dataset: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for ids, boxes and flags that the scorers would fail on."""
    for kind, keys in _IDS.items():
        for entry in dataset[kind]:
            for key in keys:
                if entry[key] != int(entry[key]) or abs(entry[key]) >= 2**63:
                    raise ValueError(f"{key} {entry[key]!r} in {kind} is not a whole number")
    for annotation in dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        for value in (x, y, w, h, annotation["area"]):
            if not isinstance(value, (int, float)) or abs(value) >= 2**1023:
                raise ValueError(f"annotation {annotation['id']} has {value!r} for a number")
        if annotation["iscrowd"] not in (0, 1):
            raise ValueError(f"annotation {annotation['id']} has iscrowd {annotation['iscrowd']!r}")


_IDS = {"images": ("id",), "categories": ("id",), "annotations": ("id", "image_id", "category_id")}
