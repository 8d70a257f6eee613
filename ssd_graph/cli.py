"""How every command ends: results and exit code 0, or one line that says what to do and exit code 2."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import warnings
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import ssd_graph

# Setting the umask is the only way to read it, which is not safe beside threads, so it is read once.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


class InputError(ValueError):
    """Something the user can mend; the message is one line that says how."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit: 0 or its result, 2 after an `InputError`, 130 after Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):  # names from files may hold what a console cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    # What Pillow finds odd about an image that it reads all the same.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        sys.exit(main() or 0)
    except InputError as error:
        _refuse(error)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx", "onnxscript"):  # what a machine that only scores can do without
            raise
        _refuse(InputError(f"{error.name} is not installed; run `pip install {error.name}`"))
    except KeyboardInterrupt:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: interrupted\n")
        sys.exit(130)


def _refuse(error: InputError) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # every process of a run finds the same error
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}\n")
    sys.exit(2)


@cache
def say_once(line: str) -> None:
    """Write a line to stderr, however often it is asked for; of several processes of a run the first one does."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{line}\n")


def command(main: Callable[[], int | None]) -> Callable[[], NoReturn]:
    """A decorator: the function then ends as `run` says, for scripts and console entry points alike."""

    @wraps(main)
    def ends() -> NoReturn:
        run(main)

    return ends


def command_parser(doc: str | None) -> ArgumentParser:
    """A parser whose --help begins with `doc`, a command's docstring, and which has --version.

    The docstring's commands are those of a clone; the installed command tells its own name instead.
    """
    name = Path(sys.argv[0]).name
    if not name.endswith(".py"):
        doc = re.sub(r"python (tools|export)/\w+\.py", name, doc or "")
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"ssd_graph {ssd_graph.__version__}")
    return parser


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} is not a positive number")
    return value


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed, on failure removed.

    A reader sees the old file or the whole new one, never a part, even after a power cut.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def print_result(result: dict[str, Any], text: str, file: str | None) -> None:
    """What `--json` asks for: without it the text, with `-` the object instead, with a file both.

    Raises:
        InputError: the file cannot be written.
    """
    if file == "-":
        print(json.dumps(result))
        return
    print(text)
    if file:
        with atomic_write(Path(file)) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")
