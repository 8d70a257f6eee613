"""detections.json: COCO's result format with every digit, and the hash that a score is compared by."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.scoring.detections import DetectionRows


def detections_json(rows: DetectionRows) -> str:
    """COCO's result format with every digit, one detection a line."""
    lines = (
        f'{{"image_id":{image},"category_id":{category},"bbox":[{x!r},{y!r},{w!r},{h!r}],"score":{score!r}}}'
        for image, category, (x, y, w, h), score in zip(*(column.tolist() for column in rows), strict=True)
    )
    return "[\n" + ",\n".join(lines) + "\n]\n"


def sha256_of(text: str) -> str:
    """Hex digest of UTF-8 text; of `detections_json` it is what `sha256sum detections.json` prints."""
    return hashlib.sha256(text.encode()).hexdigest()


class _Detection(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def load_detections(path: Path) -> DetectionRows:
    """Read COCO's result format.

    Raises:
        InputError: the file is missing or is something else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[_Detection], strict=False)
        rows = DetectionRows(
            np.array([d.image_id for d in found], np.int64),
            np.array([d.category_id for d in found], np.int64),
            np.array([d.bbox for d in found], np.float64).reshape(-1, 4),
            np.array([d.score for d in found], np.float64),
        )
        if not (np.isfinite(rows.boxes_xywh).all() and np.isfinite(rows.scores).all()):
            raise ValueError("a box or score is not a number")
        return rows
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"cannot read detections from {path}: {error}") from error
