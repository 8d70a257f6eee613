"""From which score a detection is shown: what an evaluation found best, kept in the model's metadata."""

# D detections

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.data.coco import Categories
from ssd_graph.files import write_whole

DEFAULT = 0.4
"""For a model that no evaluation wrote thresholds into."""

_KEY = "thresholds"


@dataclass(frozen=True, slots=True)
class ShownFrom:
    """The least score of a detection that is shown; InputError unless it is 0 to 1."""

    overall: float = DEFAULT
    per_class: dict[int, float] = field(default_factory=dict)
    """By category id; others have `overall`."""

    def __post_init__(self) -> None:
        for score in (self.overall, *self.per_class.values()):
            if not (isinstance(score, Real) and 0 <= score <= 1):
                raise InputError(f"score {score!r}: give 0 to 1")

    @staticmethod
    def of(metadata: Mapping[str, str]) -> "ShownFrom | None":
        """What a model's metadata say, if an evaluation wrote it.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: they are damaged, or no scores.
        """
        if _KEY not in metadata:
            return None
        values = json.loads(metadata[_KEY])
        return ShownFrom(float(values["overall"]), {int(k): float(v) for k, v in values["per_class"].items()})

    def shows(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether detections [D] of categories [D] are shown, bool [D]."""
        least = [self.per_class.get(label, self.overall) for label in labels.tolist()]
        return scores >= np.array(least, np.float64)

    def to_json(self, category_ids: Iterable[int]) -> dict[str, Any]:
        """As predictions.json has it."""
        if not self.per_class:
            return {"least_score": self.overall}
        return {"least_score": None, "thresholds": {i: self.per_class.get(i, self.overall) for i in category_ids}}

    def describe(self) -> str:
        """In words."""
        values = sorted({self.overall, *self.per_class.values()})
        return f"{values[0]:.2f}" + (f" to {values[-1]:.2f}, by class" if len(values) > 1 else "")


def overall_threshold(thresholds: Mapping[str, Any]) -> float:
    """That of a summary's `thresholds` for all classes; DEFAULT where no object was found."""
    return thresholds["overall"]["score"] if thresholds["overall"] else DEFAULT


def write_thresholds(path: Path, thresholds: Mapping[str, Any], categories: Categories) -> str:
    """Put a summary's `thresholds` into the metadata of the model `path`; returns the file's new SHA-256.

    A class whose objects were never found is shown from the overall threshold.

    Raises:
        InputError: the file cannot be written.
    """
    import onnx

    # By id, as the summary has them: names may be shared.
    classes = zip(sorted(categories.ids), thresholds["per_class"].values(), strict=True)
    per_class = {str(number): best["score"] for number, best in classes if best}
    values = {"overall": overall_threshold(thresholds), "per_class": per_class}
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | {_KEY: json.dumps(values)})
    content = model.SerializeToString(deterministic=True)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()
