"""Score an exported model on a COCO folder with onnxruntime; torch is not needed and not imported."""

# N images

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssd_graph.cli import InputError, require_one_of
from ssd_graph.config import EmptyImages
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.evaluation import image_batches
from ssd_graph.data.image_files import require_images
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.machine import processor, versions
from ssd_graph.onnx_model.outputs import Outputs, output_files, read_batches
from ssd_graph.onnx_model.providers import OPTIMIZATION_LEVELS, PRECISIONS, PROVIDERS
from ssd_graph.scoring.detections import DetectionRows, detection_rows, join_rows
from ssd_graph.scoring.evaluate import CocoScorer, CocoScores
from ssd_graph.scoring.matching import Matches, match
from ssd_graph.scoring.scorers import DEFAULT_SCORER, SCORERS
from ssd_graph.scoring.summary import summary_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How an evaluation runs; what a summary records and `--verify` repeats."""

    provider: str = "cpu"
    """A key of providers.PROVIDERS, or "auto"."""
    threads: int | None = None
    """onnxruntime's; None for all cores."""
    batch_size: int | None = None
    """None for the model's if that is fixed, else 8."""
    optimization: str = "all"
    """A key of providers.OPTIMIZATION_LEVELS."""
    precision: str | None = None
    """A key of providers.PRECISIONS; None leaves it to the model and the provider."""
    scorer: str = DEFAULT_SCORER
    """One of scorers.SCORERS."""
    empty_images: EmptyImages = "drop"
    """Images without boxes; `load_split` is told."""
    limit: int | None = None
    """Score only the first images."""
    upright: bool | None = None
    """Whether images are turned as their EXIF orientation says; None for what the model was trained with."""
    outputs: str | None = None
    """A folder with what another program computed with the raw model, see outputs.py; the provider is "none" then."""

    def __post_init__(self) -> None:
        for name, most in (("threads", 1024), ("batch_size", 2**16), ("limit", 2**31)):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value <= most):
                raise InputError(f"{name} {value!r}: give 1 to {most}")
        if not isinstance(self.outputs, str | None):
            raise InputError(f"outputs {self.outputs!r}: give the path of a folder")
        for name, known in (
            ("provider", (*PROVIDERS, "auto", *["none"] * bool(self.outputs))),
            ("scorer", SCORERS),
            ("optimization", tuple(OPTIMIZATION_LEVELS)),
            ("empty_images", ("drop", "keep")),
        ):
            require_one_of(known, name, getattr(self, name))
        if self.precision is not None:
            require_one_of(PRECISIONS, "precision", self.precision)

    def reproducible(self) -> "RunSettings":
        """The same on the CPU with one thread and every optimisation; docs/evaluation.md says what others changed.

        Raises:
            InputError: the provider is not the CPU.
        """
        if self.provider != "cpu":
            raise InputError(f"--reproducible is for --provider cpu; {self.provider} promises no fixed order of sums")
        return replace(self, threads=1, optimization="all")


@dataclass(frozen=True, slots=True)
class OnnxResult:
    """An evaluation's outcome."""

    matches: Matches
    scores: CocoScores
    summary: dict[str, Any]
    """What `summary.json` holds."""
    seconds: tuple[float, ...] = ()
    """Of each call of the model but the first, which warms up."""

    @property
    def rows(self) -> DetectionRows:
        """What was detected."""
        return self.matches.rows

    def describe(self) -> str:
        """The scorer's table, AP by class, and how the evaluation ran."""
        width = max(len(name) for name in self.scores.per_class)
        classes = (
            f"  {name:{width}}  " + ("no ground truth" if ap is None else f"{ap:.4f}")
            for name, ap in self.scores.per_class.items()
        )
        summary, run = self.summary, self.summary["run"]
        nodes = ", ".join(f"{count} nodes on {name}" for name, count in run["num_nodes"].items())
        how = (
            f"provider {run['provider']} ({nodes or 'nodes unknown'}), {run['threads']} threads, "
            f"batch {run['batch_size']}, graph optimization {run['optimization']}"
            + (f", computed in {run['precision']}" if run["precision"] else "")
        )
        return "\n".join(
            (
                self.scores.table,
                *classes,
                f"the network's outputs were read from {run['outputs']}" if run["outputs"] else how,
                f"{summary['num_images']} images at {summary['images_per_second']:.1f} images/s, "
                f"{summary['num_detections']} detections {summary['detections_sha256'][:16]}",
            )
        )


def evaluate_onnx(model: Path, split: CocoSplit, settings: RunSettings = RunSettings()) -> OnnxResult:
    """Run `model` on `split` and score its detections.

    Raises:
        InputError: the model cannot be used as told, or its categories are not the data set's.
    """
    scorer = CocoScorer(split.annotation_file, settings.scorer)
    # A file of which only the metadata are wanted runs anywhere.
    provider, precision = ("cpu", None) if settings.outputs else (settings.provider, settings.precision)
    detector = OnnxDetector(
        model, provider=provider, threads=settings.threads, optimization=settings.optimization, precision=precision
    )
    if settings.outputs and not detector.is_raw:
        raise InputError(f"{model} is not raw; --outputs are those of a model that `export/to_onnx.py --raw` wrote")
    split = split.numbered_as(detector.categories, model, "give the --data that it was trained for")
    batch_size = settings.batch_size or detector.batch_size or 8
    if not settings.outputs and detector.batch_size not in (None, batch_size):
        raise InputError(
            f"{model} takes batches of {detector.batch_size}, not {batch_size}; give --batch-size {detector.batch_size}"
        )
    upright = detector.upright if settings.upright is None else settings.upright
    whole, split = split, replace(split.part(slice(settings.limit)), upright=upright)
    for remark in require_images(split):
        sys.stderr.write(f"{remark}\n")
    fingerprint, calls = hashlib.sha256(), list[float]()
    begin = time.perf_counter()
    if settings.outputs:
        files = output_files(Path(settings.outputs), whole, settings.limit)
        found = _read(detector, split, files, batch_size, fingerprint)
    else:
        found = _detect(detector, split, batch_size, fingerprint, calls)
    rows = join_rows(list(found))
    seconds = time.perf_counter() - begin
    scores, matches = scorer.score(rows, split.image_ids), match(scorer, rows, split.image_ids)
    summary = summary_of(matches, scores, split, seconds) | {
        "outputs_sha256" if settings.outputs else "pixels_sha256": fingerprint.hexdigest(),
        "model": {"file": model.name, **detector.describe()},
        "run": {
            **asdict(settings),
            "provider": "none" if settings.outputs else detector.session.provider,
            "precision": precision,
            "num_nodes": {} if settings.outputs else detector.session.num_nodes,
            "threads": detector.threads,
            "batch_size": batch_size,
            "upright": upright,
            "empty_images": split.empty_images,
            "processor": processor(),
        },
        "versions": versions(),
    }
    return OnnxResult(matches, scores, summary, tuple(calls[1:]))


def _detect(
    detector: OnnxDetector, split: CocoSplit, batch_size: int, pixels: Any, calls: list[float]
) -> Iterator[DetectionRows]:
    """Detections batch by batch; adds inputs to the hash `pixels` in image order, the model's seconds to `calls`."""
    for chosen, images in image_batches(split, range(len(split)), batch_size, usable_cores()):
        pixels.update(images)
        begin = time.perf_counter()
        found = detector(images)
        calls.append(time.perf_counter() - begin)
        yield detection_rows(split.image_ids[chosen], split.sizes[chosen], *found)


def _read(
    detector: OnnxDetector, split: CocoSplit, files: list[Outputs], batch_size: int, fingerprint: Any
) -> Iterator[DetectionRows]:
    """As `_detect`, of the network's outputs in `files`, which are added to the hash."""
    for chosen, *outputs in read_batches(files, detector.categories.num_classes, batch_size, fingerprint):
        found = detector.detections_of(tuple(outputs), len(chosen))
        yield detection_rows(split.image_ids[chosen], split.sizes[chosen], *found)
