"""Does an evaluation repeat a recorded one: the same bits, the same numbers, or something else?"""

# R detections

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.onnx_model.evaluate import OnnxResult, RunSettings
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import STAT_NAMES
from ssd_graph.scoring.summary import detections_of, read_summary

SAME_NUMBERS = 1e-6
"""Largest difference of any of the twelve numbers that still counts as the same."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A summary that an evaluation wrote, and its detections if they still lie beside it."""

    summary: dict[str, Any]
    rows: DetectionRows | None

    def settings(self) -> RunSettings:
        """How the recorded evaluation ran."""
        lacking = {"upright": None, "empty_images": "drop", "outputs": None, "precision": None}  # in older summaries
        run = lacking | self.summary["run"]
        return RunSettings(**{field.name: run[field.name] for field in fields(RunSettings)})


def load_recorded(path: Path) -> Recorded:
    """Read a summary.json and the detections.json beside it.

    Raises:
        InputError: the summary is missing or of another program or version.
    """
    summary = read_summary(path)
    try:
        Recorded(summary, None).settings()
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path} is not a summary that this version of tools/eval_onnx.py wrote ({error!r})"
        ) from error
    return Recorded(summary, detections_of(path, summary))


def compare(recorded: Recorded, result: OnnxResult) -> tuple[bool, list[str]]:
    """Whether the numbers are the recorded ones, and what to tell the user, a line each."""
    old, new = recorded.summary, result.summary
    values = {what: (_get(old, at), _get(new, at)) for what, at in _INPUTS.items()}
    # Outputs of another program are compared with a run that has none, and that program's pixels were not seen.
    lines = [f"not the recorded {what}" for what, (a, b) in values.items() if a != b and None not in (a, b)]
    worst = max(abs(new["stats"][name] - old["stats"][name]) for name in STAT_NAMES)
    same_detections = old["detections_sha256"] == new["detections_sha256"]
    if same_detections and worst <= SAME_NUMBERS:
        verdict = "the same bits"
    elif worst <= SAME_NUMBERS:
        verdict = f"the same numbers (within {worst:.1e}), other bits"
    else:
        moved = new["stats"]["AP"] - old["stats"]["AP"]
        what = "the same, other numbers" if same_detections else "different"
        verdict = f"{what}: the twelve numbers move by up to {worst:.6f}, AP by {moved:+.6f}"
    lines.append(f"detections: {verdict}")
    if not same_detections:
        lines.append(first_difference(recorded.rows, result.rows))
    return worst <= SAME_NUMBERS, lines


_INPUTS = {
    "model": ("model", "sha256"),
    "annotations": ("annotations", "sha256"),
    "pixels: images, decoder or resizing differ": ("pixels_sha256",),
    "outputs": ("outputs_sha256",),
    "onnxruntime": ("versions", "onnxruntime"),
    "processor": ("run", "processor"),
    "scorer": ("run", "scorer"),
}
"""What decides the detections and the numbers, and where summaries record it."""


def _get(summary: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = summary
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def first_difference(old: DetectionRows | None, new: DetectionRows) -> str:
    """Where two lists of detections, ordered by image, first differ, and in how many places they do."""
    if old is None:
        return "no detections.json of it beside the summary, so where they differ cannot be said"
    shared = min(len(old), len(new))
    differs = np.zeros(shared, bool)
    for a, b in zip(old, new, strict=True):
        differs |= (a[:shared] != b[:shared]).reshape(shared, b[0].size if shared else 1).any(1)
    count = int(differs.sum()) + abs(len(old) - len(new))
    if not count:
        return "the two lists hold the same detections"
    at = int(differs.argmax()) if differs.any() else shared
    return (
        f"{count} of {max(len(old), len(new))} lines differ, first number {at + 1}: "
        f"{_line(old, at)}, now {_line(new, at)}"
    )


def _line(rows: DetectionRows, i: int) -> str:
    if i >= len(rows):
        return "nothing"
    box = ", ".join(f"{v:.4f}" for v in rows.boxes_xywh[i])
    return f"image {rows.image_ids[i]} category {rows.category_ids[i]} score {rows.scores[i]:.7f} box [{box}]"
