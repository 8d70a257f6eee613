"""What a run says: one console line now and then, and one JSON object a line in metrics.jsonl."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.files import LineFile, atomic_write


class RunLog:
    """Console and `metrics.jsonl` of a run; only rank 0 has one that speaks."""

    def __init__(self, path: Path | None, total_steps: int, first_step: int = 0, *, tensorboard: bool = False) -> None:
        """`path` is the JSON file, or None for a silent log; records of steps behind `first_step` are dropped.

        `tensorboard` writes every number to the folder `tensorboard` beside `path` as well.
        """
        self._file = None
        self._bar: tqdm[Any] | None = None
        self._board: Any = None
        self._path = path
        if path is not None:
            if tensorboard:
                self._board = _summary_writer(path.parent / "tensorboard", first_step)
            kept = _records_before(path, first_step) if first_step else []
            with atomic_write(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            self._file = LineFile(path)
            if sys.stderr.isatty():
                self._bar = tqdm(total=total_steps, initial=first_step, unit="step", leave=False)

    def advance(self) -> None:
        """Move the progress bar, which only a terminal shows, by one step."""
        if self._bar is not None:
            self._bar.update()

    def say(self, line: str) -> None:
        """Print a line without tearing the progress bar."""
        if self._path is not None:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def record(self, event: str, step: int, **values: Any) -> None:
        """Append a record to `metrics.jsonl`; `step` counts the steps done."""
        if self._file is not None:
            record = {"event": event, "step": step, **{k: _strict(v) for k, v in values.items()}}
            self._file.write(json.dumps(record, allow_nan=False))
        if self._board is not None:
            for name, value in _flatten(event, values):
                self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Make sure that a power cut loses no record so far."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Close the file and the bar."""
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _strict(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(path: Path, event: str) -> list[dict[str, Any]]:
    """The records of one kind of event, in order."""
    return [record for _, record in _whole_lines(path) if record["event"] == event]


def require_log(path: Path) -> None:
    """Raise InputError if there is no metrics.jsonl at `path` to continue."""
    if not path.is_file():
        raise InputError(f"no {path} to continue; resume in the folder that the run wrote to")


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _summary_writer(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard: run `pip install tensorboard` first") from error
    return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)


def _flatten(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers in nested dictionaries, by path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}/{name}", value)
        elif isinstance(value, (int, float)):
            yield f"{prefix}/{name}", float(value)


def _records_before(path: Path, step: int) -> list[str]:
    """The lines of an earlier run up to `step`."""
    require_log(path)
    return [line for line, record in _whole_lines(path) if record["step"] <= step]


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines and their records, up to one that a crash cut off or that is no record."""
    for line in path.read_bytes().splitlines():
        try:
            text = line.decode()
            record = json.loads(text)
            if not (isinstance(record["event"], str) and type(record["step"]) is int):
                return
        except (ValueError, LookupError, TypeError, RecursionError):
            return
        yield text, record
