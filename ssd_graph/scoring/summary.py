"""summary.json, what an evaluation leaves for later ones: written, and read."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.config import EmptyImages
from ssd_graph.data.coco import DEFAULT_ROOT, CocoSplit, find_annotations
from ssd_graph.files import write_whole
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.detections_file import detections_json, load_detections, sha256_of
from ssd_graph.scoring.evaluate import STAT_NAMES, CocoScores
from ssd_graph.scoring.matching import Matches
from ssd_graph.scoring.thresholds import best_thresholds

_TEXTS = (("detections_sha256",), ("model", "sha256"), ("annotations", "file"), ("annotations", "sha256"))


def summary_of(matches: Matches, scores: CocoScores, split: CocoSplit, seconds: float) -> dict[str, Any]:
    """What every evaluation of `split` says; the caller adds `model`, `run` and `versions`.

    Args:
        seconds: from the first image to the last detection.
    """
    annotations, rows = split.annotation_file, matches.rows
    root = annotations.parent.parent
    return {
        "stats": scores.stats,
        "per_class": scores.per_class,
        "thresholds": best_thresholds(matches, np.sort(split.categories.ids), list(scores.per_class)),
        "num_images": len(split),
        "num_detections": len(rows),
        "images_per_second": round(len(split) / seconds, 3),
        "detections_sha256": sha256_of(detections_json(rows)),
        "annotations": {
            "folder": str(root.resolve()),
            "split": "train" if annotations == find_annotations(root, "train") else "val",
            "file": annotations.name,
            "sha256": hashlib.sha256(annotations.read_bytes()).hexdigest(),
        },
    }


def write_summary(out: Path, summary: dict[str, Any], rows: DetectionRows) -> None:
    """Write `detections.json` and `summary.json` into the folder `out`."""
    write_whole(out / "detections.json", detections_json(rows))
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """What `write_summary` wrote, as far as its readers use it.

    Raises:
        InputError: the file is missing, or of another program or version.
    """
    try:
        summary = json.loads(path.read_bytes())
        for keys in _TEXTS:
            value = summary
            for key in keys:
                value = value[key]
            if not isinstance(value, str):
                raise TypeError(f"{'.'.join(keys)} is {value!r}")
        if type(summary["num_images"]) is not int or summary["num_images"] < 1:
            raise ValueError(f"num_images is {summary['num_images']!r}")
        if empty_images(summary) not in ("drop", "keep"):
            raise ValueError("run.empty_images is neither drop nor keep")
        numbers = [summary["stats"][name] for name in STAT_NAMES]
        numbers += [ap for ap in summary["per_class"].values() if ap is not None]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise ValueError("a score is not a number")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path} is not a summary.json of an evaluation ({error!r}); evaluate again") from error
    return summary


def detections_of(path: Path, summary: dict[str, Any]) -> DetectionRows | None:
    """What the detections.json beside the summary at `path` holds; None if it is missing or another evaluation's.

    Raises:
        InputError: it is damaged.
    """
    file = path.with_name("detections.json")
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != summary["detections_sha256"]:
        return None
    return load_detections(file)


def empty_images(summary: dict[str, Any]) -> EmptyImages:
    """What became of images without boxes; older summaries do not say, since all were left out."""
    return summary.get("run", {}).get("empty_images", "drop")


def data_folder(summary: dict[str, Any]) -> str:
    """The folder of the data set that was scored, or the usual one where an older summary does not say."""
    folder = summary["annotations"].get("folder")
    return folder if isinstance(folder, str) else DEFAULT_ROOT


def split_name(summary: dict[str, Any]) -> str:
    """Which split was scored, "train" or "val"; older summaries say it by the name of their annotation file."""
    annotations = summary["annotations"]
    return "train" if "train" in str(annotations.get("split", annotations["file"])) else "val"
