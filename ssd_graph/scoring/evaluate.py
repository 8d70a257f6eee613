"""Detections -> COCO numbers, without torch."""

# G objects, T IoU thresholds, K categories by id

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.data.coco_file import Columns, read_columns
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.scorers import DEFAULT_SCORER, scorer_classes

STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers in pycocotools' order; -1 where there is no ground truth of that size."""


@dataclass(frozen=True, slots=True)
class CocoScores:
    """What COCO says of a set of detections."""

    stats: dict[str, float]
    """Keys STAT_NAMES."""
    per_class: dict[str, float | None]
    """AP by category name, in the order of ids; None without ground truth. A name that is taken has its id behind."""
    table: str
    """The twelve numbers as pycocotools prints them."""
    precision: np.ndarray = field(compare=False, repr=False)
    """float64 [T, 101, K]: interpolated precision at recalls 0 to 1, IoU 0.5 to 0.95; -1 without ground truth."""


class Objects(NamedTuple):
    """Ground truth in file order; boxes that are not finite in float32, as training has them, are no objects."""

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
    def of(columns: Columns) -> "Objects":
        """The objects of an annotation file."""
        finite = (np.abs(columns.xywh) <= np.finfo(np.float32).max).all(1)
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

    def __init__(self, annotation_file: Path, scorer: str = DEFAULT_SCORER) -> None:
        """Read the ground truth; `scorer` is one of scorers.SCORERS.

        Raises:
            InputError: the file is not accepted, see coco_file.read_columns, or the scorer is not installed.
        """
        scorer_classes(scorer)
        self._scorer, self._truths = scorer, dict[str, Any]()
        self.objects = Objects.of(columns := read_columns(annotation_file))
        order = np.argsort(columns.category_ids)
        self.image_ids, self.category_ids = np.sort(columns.image_ids), columns.category_ids[order]
        self._names = columns.category_names[order].tolist()
        self._dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(self.image_ids))],
            # hotcoco asks for names, and for such that are text of UTF-8.
            "categories": [{"id": k + 1, "name": str(k + 1)} for k in range(len(self._names))],
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

    def score(self, rows: DetectionRows, image_ids: np.ndarray | None = None) -> CocoScores:
        """Score detections on `image_ids` (int64, all images by default); no detections give AP 0.

        Raises:
            InputError: a detection is on an image that the ground truth does not have.
        """
        known = self._categories(rows.category_ids) > 0  # others find nothing, and hotcoco warns of them
        with contextlib.redirect_stdout(io.StringIO()):  # scorers print what they do
            evaluation = self._evaluation(self._scorer, DetectionRows(*(column[known] for column in rows)), image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        stats = {name: float(value) for name, value in zip(STAT_NAMES, evaluation.stats, strict=True)}
        precision = np.array(evaluation.eval["precision"][:, :, :, 0, -1])
        return CocoScores(stats, self._per_class(precision), _table(stats), precision)

    def match(self, rows: DetectionRows, image_ids: np.ndarray) -> Any:
        """pycocotools' matching of objects of every size, not accumulated: a COCOeval with its `evalImgs`.

        Row r is detection id r + 1 there, and object g of `objects` is annotation id g + 1.

        Raises:
            InputError: as `score`.
        """
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluation("pycocotools", rows, image_ids)
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
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

    def _evaluation(self, scorer: str, rows: DetectionRows, image_ids: np.ndarray | None) -> Any:
        """A COCOeval of `scorer` that has all but begun."""
        coco, evaluation = scorer_classes(scorer)
        truth = self._truths.get(scorer) or self._truths.setdefault(scorer, _indexed(coco, self._dataset))
        images, categories = self._images(rows.image_ids), self._categories(rows.category_ids)
        columns = (images[:, None], rows.boxes_xywh, rows.scores[:, None], categories[:, None])
        # loadRes fails on an empty list.
        empty = {**self._dataset, "annotations": []}
        found = truth.loadRes(np.concatenate(columns, 1)) if len(rows) else _indexed(coco, empty)
        result = evaluation(truth, found, "bbox")
        if image_ids is not None:
            result.params.imgIds = sorted(self._images(image_ids).tolist())
        return result

    def _per_class(self, precision: np.ndarray) -> dict[str, float | None]:
        result: dict[str, float | None] = {}
        for k, name in enumerate(self._names):
            values = precision[:, :, k]
            while name in result:
                name += f" ({self.category_ids[k]})"
            result[name] = float(values.mean()) if (values > -1).any() else None
        return result


def _indexed(coco: Callable[[], Any], dataset: dict[str, Any]) -> Any:
    result = coco()
    result.dataset = dataset
    result.createIndex()
    return result


def _table(stats: dict[str, float]) -> str:
    """pycocotools' lines of the twelve numbers."""
    areas = {"s": "small", "m": "medium", "l": "large"}
    lines = []
    for name, value in stats.items():
        title = "Average Precision  (AP)" if name.startswith("AP") else "Average Recall     (AR)"
        iou = {"AP50": "0.50", "AP75": "0.75"}.get(name, "0.50:0.95")
        most = {"AR1": 1, "AR10": 10}.get(name, 100)
        lines.append(
            f" {title} @[ IoU={iou:<9} | area={areas.get(name[-1], 'all'):>6} | maxDets={most:>3} ] = {value:.3f}"
        )
    return "\n".join(lines)


def positions(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where each of `ids` stands in `known` [N], which ascends: int64, -1 for one that does not."""
    if not len(known):
        return np.full(len(ids), -1)
    found = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[found] == ids, found, -1)
