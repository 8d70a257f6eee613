"""COCO's AP on resampled images: the matching is done once, each resample only counts again, exactly.

An image that is drawn n times counts n times. Interpolated precision looks at recall and precision where an
object is found only, so a resample's AP needs, at each true positive, the number of true positives and of
detections drawn so far: two cumulative sums of how often their images were drawn.
"""

# B resamples, I images, D detections of a category by descending score, T IoU thresholds, K categories by id

from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
"""Share of the resampled values inside an interval."""

_CHUNK = 64
"""Resamples counted together; more do not fit the processor's cache."""


@dataclass(frozen=True, slots=True)
class _Category:
    """The matched detections of a category."""

    num_objects: np.ndarray
    """float64 [I]."""
    image_of: np.ndarray
    """int64 [D]."""
    found: list[np.ndarray]
    """Detections that found an object, int64, for each IoU threshold."""
    ignored: list[np.ndarray]
    """Detections on crowds, int64, for each IoU threshold."""


class ResampledAp:
    """AP of one set of detections for any choice of images, copies included.

    Equal to what pycocotools accumulates from the matches of the drawn images; where detections of one image
    have the same score, the copies of each stand together.
    """

    def __init__(self, evaluation: Any) -> None:
        """`evaluation` is what `CocoScorer.match` returns."""
        self.recalls: np.ndarray = evaluation.params.recThrs
        self.num_images, num_categories = len(evaluation.params.imgIds), len(evaluation.params.catIds)
        pairs = evaluation.evalImgs
        self._categories = [
            _category(pairs[k * self.num_images : (k + 1) * self.num_images], len(evaluation.params.iouThrs))
            for k in range(num_categories)
        ]

    @property
    def num_objects(self) -> np.ndarray:
        """Objects of each category on each image, crowds not counted: int64 [K, I]."""
        return np.array([category.num_objects for category in self._categories], np.int64)

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """AP, float64 [B, T, K], NaN where a category has no object among the images drawn.

        Args:
            draws: how often each image was drawn, [I, B]; images ascend by id.
        """
        return np.concatenate(
            [
                np.stack([self._ap(category, part.astype(np.float64)) for category in self._categories], -1)
                for part in np.split(draws, range(_CHUNK, draws.shape[1], _CHUNK), axis=1)
            ]
        )

    def _ap(self, category: _Category, draws: np.ndarray) -> np.ndarray:
        """AP [B, T]."""
        num_objects = category.num_objects @ draws
        num_drawn = np.cumsum(draws[category.image_of], 0)  # [D, B]
        result = np.zeros((draws.shape[1], len(category.found)))
        for t, (found, ignored) in enumerate(zip(category.found, category.ignored, strict=True)):
            if len(found):
                num_counted = num_drawn[found] - _before(found, ignored, draws[category.image_of[ignored]])
                num_found = np.cumsum(draws[category.image_of[found]], 0)
                # The same operations as in pycocotools, for the same last bits.
                precision = num_found / (num_counted + np.spacing(1))
                precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
                recall = num_found / np.maximum(num_objects, 1)
                num_points = np.searchsorted(self.recalls, recall, side="right")
                result[:, t] = (precision * np.diff(num_points, axis=0, prepend=0)).sum(0) / len(self.recalls)
        result[num_objects == 0] = np.nan
        return result


def draw_images(num_images: int, num_resamples: int, seed: int) -> np.ndarray:
    """How often each image is drawn when as many as there are are drawn with replacement: int64 [I, B]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), num_resamples).T


def mean_ap(ap: np.ndarray) -> np.ndarray:
    """Mean over IoU thresholds and the categories that have objects: [B] of [B, T, K], NaN where none has."""
    known = ~np.isnan(ap)
    total = np.where(known, ap, 0).sum((1, 2))
    return np.divide(total, known.sum((1, 2)), out=np.full(len(ap), np.nan), where=known.any((1, 2)))


def interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Ends of the middle LEVEL of values [B]; draws without an object, NaN, say nothing."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)


def _before(found: np.ndarray, ignored: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Draws of the ignored detections ahead of each found one; `draws` [len(ignored), B]."""
    return np.pad(np.cumsum(draws, 0), ((1, 0), (0, 0)))[np.searchsorted(ignored, found)]


def _category(pairs: list[dict[str, Any] | None], num_thresholds: int) -> _Category:
    """`pairs` are a category's entries of evalImgs, one an image, None where it has nothing of the category."""
    num_objects = np.array([0 if pair is None else np.count_nonzero(pair["gtIgnore"] == 0) for pair in pairs])
    kept = [(i, pair) for i, pair in enumerate(pairs) if pair is not None]
    scores = np.concatenate([np.empty(0), *(pair["dtScores"] for _, pair in kept)])
    order = np.argsort(-scores, kind="stable")

    def sorted_flags(name: str) -> np.ndarray:
        columns = [np.asarray(pair[name], bool) for _, pair in kept]
        return np.concatenate([np.empty((num_thresholds, 0), bool), *columns], 1)[:, order]

    matched, ignored = sorted_flags("dtMatches"), sorted_flags("dtIgnore")
    return _Category(
        num_objects.astype(np.float64),
        np.repeat([i for i, _ in kept], [len(pair["dtScores"]) for _, pair in kept]).astype(np.int64)[order],
        [np.flatnonzero(row) for row in matched & ~ignored],
        [np.flatnonzero(row) for row in ignored],
    )
