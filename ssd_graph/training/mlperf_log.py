"""The MLPerf log of a run: `:::MLLOG` lines that the public compliance checker accepts (SSD, training rules 1.1).

Each line is one `json.dumps`, so training does without the package `mlperf-logging`; only the tests need it.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssd_graph.cli import InputError
from ssd_graph.files import LineFile
from ssd_graph.training.schedule import Schedule

TARGET_AP = 0.23
"""A run that reaches this AP has succeeded and may stop."""

_PREFIX = ":::MLLOG "
_FILE = "ssd_graph/training/mlperf_log.py"
_EVENT_TYPES = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}


_SUBMISSION = {
    "submission_benchmark": "ssd",
    "submission_org": "ssd_graph",
    "submission_platform": "unnamed",
    "submission_division": "closed",
    "submission_status": "research",
    "cache_clear": False,
}
"""Whoever hands a log in edits these lines: nobody else knows them."""


class MLPerfLog:
    """The log of one run in the trainer's terms; only rank 0 has one that writes.

    Epochs follow from the steps done.
    """

    def __init__(
        self,
        path: Path | None,
        schedule: Schedule,
        *,
        num_val_images: int,
        parameters: Iterable[str],
        seed: int,
        clock_start: float | None = None,
        first_step: int = 0,
    ) -> None:
        """Begin the log or, after `first_step` steps, continue that of the interrupted run.

        Args:
            path: the file, or None for a silent log.
            parameters: names of the model's parameters, in the model's order.
            clock_start: `time.time()` before anything read the data set, where the rules start the clock, so
                that set-up and compilation count; None is now.

        Raises:
            InputError: the file cannot be written, or is not the log of the run to continue.
        """
        self._schedule, self._file = schedule, None
        self._epoch: int | None = None  # begun and not ended, counted from 1
        self._succeeded = False
        if path is None:
            return
        facts = _facts(schedule, num_val_images, seed)
        kept = _records_before(path, first_step, facts) if first_step else []
        self._file = LineFile(path, map(_line, kept))
        for record in kept:
            self._note(**record)
        if not first_step:
            for key in ("init_start", "init_stop", "run_start"):
                self._write(key, 0, at=clock_start)
            for key, value in facts.items():
                self._write(key, 0, value)
            for tensor in mlperf_tensors(parameters):
                self._write("weights_initialization", 0, tensor=tensor)

    def before_step(self, step: int) -> None:
        """Call before every training step with the number of steps done."""
        self._stop_epoch(step)
        if self._epoch is None:
            self._write("epoch_start", step, epoch_num=self._schedule.epochs_done(step) + 1)

    def eval_start(self, step: int) -> None:
        """Call when the evaluation of the state after `step` steps begins."""
        self._stop_epoch(step)
        self._write("eval_start", step, epoch_num=self._schedule.epochs_done(step))

    def eval_stop(self, step: int, ap: float) -> None:
        """Call when the AP of the state after `step` steps is known."""
        self._write("eval_accuracy", step, float(ap), epoch_num=self._schedule.epochs_done(step))
        self._write("eval_stop", step, epoch_num=self._schedule.epochs_done(step))

    def run_stop(self, step: int) -> None:
        """Call when training is over and all evaluations are scored; a success if an AP reached the target."""
        self._stop_epoch(step)
        self._write("run_stop", step, status="success" if self._succeeded else "aborted")

    def close(self) -> None:
        """Close the file; without `run_stop` the log is that of a run to be continued."""
        if self._file is not None:
            self._file.close()

    def _stop_epoch(self, step: int) -> None:
        if self._epoch is not None and self._schedule.epochs_done(step) >= self._epoch:
            self._write("epoch_stop", step, epoch_num=self._epoch)

    def _write(self, key: str, step: int, value: Any = None, *, at: float | None = None, **metadata: Any) -> None:
        if self._file is None:
            return
        record = {
            "namespace": "",
            "time_ms": int((time.time() if at is None else at) * 1000),
            "event_type": _EVENT_TYPES.get(key.rpartition("_")[2], "POINT_IN_TIME"),
            "key": key,
            "value": value,
            "metadata": {"file": _FILE, "lineno": sys._getframe(1).f_lineno, "step": step, **metadata},
        }
        self._note(**record)
        self._file.write(_line(record))

    def _note(self, key: str, value: Any, metadata: dict[str, Any], **_: Any) -> None:
        """Keep what later lines depend on."""
        if key in ("epoch_start", "epoch_stop"):
            self._epoch = metadata["epoch_num"] if key == "epoch_start" else None
        self._succeeded |= key == "eval_accuracy" and value >= TARGET_AP


def mlperf_tensors(parameters: Iterable[str]) -> list[str]:
    """The rules' names, each once, of an SSD300's parameters in the model's order.

    The rules know the tensors by the names of an MXNet network: it counts convolutions and norms through a
    stage, and its two heads of a feature map are one.
    """
    modules: dict[str, dict[str, int]] = defaultdict(dict)
    tensors = {}
    for parameter in parameters:
        module, _, leaf = parameter.rpartition(".")
        part, *path = module.split(".")
        if part == "trunk":
            is_norm = path[-1] in ("bn1", "bn2", "1")
            stage = path[0].replace("layer", "stage") + "_" if len(path) > 1 else ""
            kind = f"resnetmlperf0_{stage}{'batchnorm' if is_norm else 'conv'}"
            name = f"{kind}{modules[kind].setdefault(module, len(modules[kind]))}"
            leaf = {"weight": "gamma", "bias": "beta"}[leaf] if is_norm else leaf
        elif part == "extra":
            name = f"expand_{('trans_conv', 'conv')[int(path[1])]}{path[0]}"
        else:
            name = f"convpredictor{path[0]}_conv0"
        tensors[f"ssd0_{name}_{leaf}"] = None
    return list(tensors)


def _facts(schedule: Schedule, num_val_images: int, seed: int) -> dict[str, Any]:
    """What is logged once, by key."""
    recipe = schedule.recipe
    return {
        **_SUBMISSION,
        "seed": seed,
        "train_samples": schedule.num_images,
        "eval_samples": num_val_images,
        "global_batch_size": schedule.global_batch,
        "gradient_accumulation_steps": recipe.accumulate,
        "model_bn_span": recipe.batch_size,
        "max_samples": recipe.augment.crop_attempts,
        "opt_base_learning_rate": schedule.base_rate,
        "opt_weight_decay": recipe.weight_decay,
        "opt_learning_rate_warmup_factor": 0,
        "opt_learning_rate_warmup_steps": round(recipe.warmup_epochs * schedule.num_images / schedule.global_batch),
        "opt_learning_rate_decay_boundary_epochs": list(recipe.decay_epochs),
    }


def _records_before(path: Path, step: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of the run's steps up to `step`, without its end and without evaluations that were never scored."""
    if not path.is_file():
        raise InputError(f"no {path} to continue; give the --mlperf-log that the run wrote, or `none`")
    records = _read(path)
    written = {record["key"]: record["value"] for record in records}
    for key, value in facts.items():
        if written.get(key) != value:
            raise InputError(
                f"{path} is of another run: {key} is {written.get(key)} there and {value} here; "
                "resume as the run began, or with --mlperf-log none"
            )
    scored = {r["metadata"]["step"] for r in records if r["key"] == "eval_stop"}
    kept = [r for r in records if r["metadata"]["step"] <= step and r["key"] != "run_stop"]
    return [r for r in kept if r["key"] != "eval_start" or r["metadata"]["step"] in scored]


def _read(path: Path) -> list[dict[str, Any]]:
    """Records of a log, up to a line that a crash cut off or that is no record."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line[len(_PREFIX) :])
            whole = "value" in record and isinstance(record["key"], str) and type(record["metadata"]["step"]) is int
        except (ValueError, LookupError, TypeError, RecursionError):
            break
        if not whole:
            break
        records.append(record)
    return records


def _line(record: dict[str, Any]) -> str:
    return f"{_PREFIX}{json.dumps(record)}"
