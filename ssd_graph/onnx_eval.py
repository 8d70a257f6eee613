"""Score an exported detector on a COCO folder with onnxruntime; torch is not needed and not imported."""

# N images

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ssd_graph.cli import InputError, atomic_write
from ssd_graph.coco import Categories, CocoSplit
from ssd_graph.evaluate import (
    CocoScorer,
    CocoScores,
    DetectionRows,
    detection_rows,
    detections_json,
    join_rows,
    sha256_of,
)
from ssd_graph.transforms import decode, preprocess

_OUTPUTS = ("num_detections", "boxes", "scores", "labels")
_PACKAGES = ("ssd_graph", "onnxruntime", "pycocotools", "numpy", "pillow")


class OnnxDetector:
    """An exported model in an onnxruntime session."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Load `path` on `threads` CPU threads, by default all.

        Raises:
            InputError: the file is missing, is not an ONNX model, or was not exported by ssd_graph.
        """
        if not path.is_file():
            raise InputError(f"no file {path}; make it with `python export/to_onnx.py ckpt.pth`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 3
        self.threads = options.intra_op_num_threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{path} is not an ONNX model that onnxruntime can load ({reason})") from error
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        outputs = tuple(output.name for output in self._session.get_outputs())
        if not self.metadata.get("format", "").startswith("ssd_graph") or outputs != _OUTPUTS:
            raise InputError(
                f"{path} was not made by export/to_onnx.py (outputs {', '.join(outputs)}); export it again"
            )
        self.categories = Categories(
            tuple(json.loads(self.metadata["category_ids"])),
            tuple(json.loads(self.metadata["category_names"])),
        )

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """`num_detections`, `boxes`, `scores` and `labels` (see postprocess.Detections) of uint8 [N, 300, 300, 3]."""
        return tuple(np.asarray(output) for output in self._session.run(_OUTPUTS, {"images": images}))


@dataclass(frozen=True, slots=True)
class OnnxResult:
    """An evaluation's outcome."""

    rows: DetectionRows
    scores: CocoScores
    summary: dict[str, Any]
    """What `summary.json` holds."""


def evaluate_onnx(
    model: Path,
    split: CocoSplit,
    *,
    batch_size: int = 8,
    threads: int | None = None,
    limit: int | None = None,
) -> OnnxResult:
    """Run `model` on the first `limit` images of `split` and score them by pycocotools.

    Raises:
        InputError: the model cannot be used, or its categories are not the data set's.
    """
    detector = OnnxDetector(model, threads=threads)
    unknown = set(detector.categories.ids) - set(split.categories.ids)
    if unknown:
        raise InputError(
            f"{model} detects category {min(unknown)}, which {split.annotation_file} does not have; "
            "give the --data the model was trained for"
        )
    if limit is not None:
        split = replace(split, image_ids=split.image_ids[:limit], sizes=split.sizes[:limit])
    begin = time.perf_counter()
    rows = join_rows(list(_detect(detector, split, batch_size)))
    seconds = time.perf_counter() - begin
    scores = CocoScorer(split.annotation_file).score(rows, split.image_ids)
    summary = {
        "stats": scores.stats,
        "per_class": scores.per_class,
        "num_images": len(split),
        "num_detections": len(rows),
        "images_per_second": round(len(split) / seconds, 3),
        "detections_sha256": sha256_of(detections_json(rows)),
        "model": {
            "file": model.name,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "preset": detector.metadata["preset"],
            "checkpoint_sha256": detector.metadata["checkpoint_sha256"],
        },
        "annotations": {
            "file": split.annotation_file.name,
            "sha256": hashlib.sha256(split.annotation_file.read_bytes()).hexdigest(),
        },
        "run": {"provider": "cpu", "threads": detector.threads, "batch_size": batch_size},
        "versions": {package: version(package) for package in _PACKAGES},
    }
    return OnnxResult(rows, scores, summary)


def write_result(result: OnnxResult, out: Path) -> None:
    """Write `detections.json` and `summary.json` into the folder `out`."""
    for name, text in (
        ("detections.json", detections_json(result.rows)),
        ("summary.json", json.dumps(result.summary, indent=2) + "\n"),
    ):
        with atomic_write(out / name) as temporary:
            temporary.write_text(text)


def _detect(detector: OnnxDetector, split: CocoSplit, batch_size: int) -> Iterator[DetectionRows]:
    """Detections batch by batch; the next batch is decoded while onnxruntime works on this one."""

    def load(start: int) -> np.ndarray:
        return np.stack([preprocess(decode(split.path(i))) for i in range(start, min(start + batch_size, len(split)))])

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(load, 0)
        for start in range(0, len(split), batch_size):
            images = following.result()
            if start + batch_size < len(split):
                following = pool.submit(load, start + batch_size)
            rows = slice(start, start + len(images))
            yield detection_rows(split.image_ids[rows], split.sizes[rows], *detector(images))
