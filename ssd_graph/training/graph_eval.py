"""Score a checkpoint on its device with the graph that validation uses, sharded over processes."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import ssd_graph
from ssd_graph.checkpoints.convert import load_scorable
from ssd_graph.cli import InputError, launched
from ssd_graph.compilers.backend import advice_on_memory, default_amp, require_devices
from ssd_graph.config import Amp, EmptyImages
from ssd_graph.data.coco import DEFAULT_ROOT, load_split
from ssd_graph.data.shapes import data_root
from ssd_graph.files import require_writable
from ssd_graph.graph.model import skeleton
from ssd_graph.graph.state import StateLayout
from ssd_graph.scoring.evaluate import CocoScorer, CocoScores
from ssd_graph.scoring.matching import match
from ssd_graph.scoring.summary import summary_of, write_summary
from ssd_graph.training.distributed import joined_world
from ssd_graph.training.launch import launch
from ssd_graph.training.validate import Validator


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphEvalOptions:
    """An evaluation, as tools/eval_graph.py's flags give it."""

    checkpoint: Path
    data: str = DEFAULT_ROOT
    split: str = "val"
    devices: str = "cpu"
    """A key of backend.DEVICES."""
    num_devices: int = 1
    first_device: int = 0
    batch_size: int = 32
    """Images of a device and forward pass."""
    amp: Amp | None = None
    backend: str | None = None
    workers: int = 2
    upright: bool | None = None
    """Whether images are turned as their EXIF orientation says; None for what the checkpoint was trained with."""
    empty_images: EmptyImages = "drop"
    """Images without boxes."""
    out: Path | None = None
    """Folder for summary.json and detections.json; None for one beside the checkpoint."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or self.checkpoint.with_name(f"scores-{self.checkpoint.stem}")


def evaluate_graph(options: GraphEvalOptions) -> CocoScores | None:
    """COCO numbers of a checkpoint's weights, its moving average if it has one; None on processes without them.

    Writes summary.json and detections.json into `options.folder`.

    Raises:
        InputError: something the user can mend.
        SystemExit: with several processes, the exit code of one that failed.
    """
    kind = require_devices(options.devices, options.num_devices, options.first_device)
    require_writable(options.folder, "--out")
    checkpoint = load_scorable(options.checkpoint, options.data)
    upright = bool(checkpoint.run.get("upright")) if options.upright is None else options.upright
    how = {"upright": upright, "empty_images": options.empty_images}
    split = load_split(data_root(options.data), options.split, **how).numbered_as(
        checkpoint.categories, options.checkpoint, "give the --data that it was trained for"
    )
    if options.num_devices > 1 and not launched():
        launch(options.num_devices, max_restarts=0)
        return None
    with (
        joined_world(kind, options.first_device, exact=options.amp == "off") as (world, device),
        advice_on_memory(options.batch_size),
    ):
        validator = Validator(
            split,
            checkpoint.model,
            batch_size=options.batch_size,
            amp=options.amp or default_amp(kind),
            backend=options.backend or kind.backend,
            world=world,
            workers=options.workers,
            memory_format=kind.memory_format,
        )
        begin = time.perf_counter()
        rows = validator.detect(checkpoint.state(StateLayout.of(skeleton(checkpoint.model)), device))
        if not world.is_main:
            return None
        if not np.isfinite(rows.boxes_xywh).all():
            raise InputError(f"{options.checkpoint} gives boxes that are no numbers; train it with a lower --lr")
        seconds = time.perf_counter() - begin
        print("\n".join(split.remarks()), end="\n" if split.remarks() else "")
        scorer = CocoScorer(split.annotation_file)
        scores = scorer.score(rows, split.image_ids)
        summary = summary_of(match(scorer, rows, split.image_ids), scores, split, seconds) | {
            "model": {
                "file": options.checkpoint.name,
                "sha256": checkpoint.sha256,
                "preset": checkpoint.model.preset,
                "form": "checkpoint",
                "precision": validator.amp,
                "step": checkpoint.step,
            },
            "run": {
                "backend": options.backend or kind.backend,
                "devices": f"{world.size} x {kind.type}",
                "batch_size": options.batch_size,
                **how,
            },
            "versions": {"ssd_graph": ssd_graph.__version__, "torch": torch.__version__},
        }
        write_summary(options.folder, summary, rows)
        return scores


def print_scores(options: GraphEvalOptions) -> None:
    """What tools/eval_graph.py prints; see `evaluate_graph`."""
    scores = evaluate_graph(options)
    if scores is not None:
        print(scores.table)
        print(f"Final Evaluation Accuracy : {scores.stats['AP']:.6f}")
        print(f"results in {options.folder}")
