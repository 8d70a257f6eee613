"""What a run says: one console line now and then, and one JSON object a line in metrics.jsonl."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.files import LineFile


class RunLog:
    """Console and `metrics.jsonl` of a run; only rank 0 has one that speaks."""

    def __init__(self, path: Path | None, total_steps: int, first_step: int = 0, *, tensorboard: bool = False) -> None:
        """`path` is the JSON file, or None for a silent log; records of steps behind `first_step` are dropped.

        `tensorboard` writes every number to the folder `tensorboard` beside `path` as well.
        """
        self._file: LineFile | None = None
        self._board: Any = None
        if path is not None:
            if tensorboard:
                self._board = _summary_writer(path.parent / "tensorboard", first_step)
            kept = [line for line, record in _whole_lines(path) if record["step"] <= first_step] if first_step else []
            self._file = LineFile(path, kept)
        hidden = None if path is not None else True  # else tqdm asks whether there is a terminal
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", leave=False, disable=hidden)

    def advance(self) -> None:
        """Move the progress bar, which only a terminal shows, by one step."""
        self._bar.update()

    def say(self, line: str) -> None:
        """Print a line without tearing the progress bar."""
        if self._file is not None:
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
        for part in (self._bar, self._file, self._board):
            if part is not None:
                part.close()


def _strict(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(path: Path, event: str) -> list[dict[str, Any]]:
    """The records of one kind of event, in order; InputError if there is no file."""
    return [record for _, record in _whole_lines(path) if record["event"] == event]


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
    return SummaryWriter(str(folder), purge_step=first_step + 1)


def _flatten(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers in nested dictionaries, by path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}/{name}", value)
        elif isinstance(value, (int, float)):
            yield f"{prefix}/{name}", float(value)


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines and their records, up to one that a crash cut off or that is no record; InputError if there is no file."""
    if not path.is_file():
        raise InputError(f"no {path} to continue; resume in the folder that the run wrote to")
    for line in path.read_bytes().splitlines():
        try:
            text = line.decode()
            record = json.loads(text)
            if not (isinstance(record["event"], str) and type(record["step"]) is int):
                return
        except (ValueError, LookupError, TypeError, RecursionError):
            return
        yield text, record
