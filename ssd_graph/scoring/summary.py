"""Reads summary.json, what an evaluation leaves for later ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ssd_graph.cli import InputError
from ssd_graph.config import EmptyImages
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.scoring.evaluate import STAT_NAMES

_TEXTS = (
    ("detections_sha256",),
    ("pixels_sha256",),
    ("model", "sha256"),
    ("annotations", "file"),
    ("annotations", "sha256"),
)


def read_summary(path: Path) -> dict[str, Any]:
    """What onnx_model.evaluate.write_result wrote, as far as its readers use it.

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
        raise InputError(f"{path} is not a summary.json of tools/eval_onnx.py ({error!r}); evaluate again") from error
    return summary


def empty_images(summary: dict[str, Any]) -> EmptyImages:
    """What became of images without boxes; older summaries do not say, since all were left out."""
    return summary.get("run", {}).get("empty_images", "drop")


def data_folder(summary: dict[str, Any]) -> str:
    """The folder of the data set that was scored, or the usual one where an older summary does not say."""
    folder = summary["annotations"].get("folder")
    return folder if isinstance(folder, str) else DEFAULT_ROOT
