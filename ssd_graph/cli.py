"""How every command ends: results and exit code 0, or one line that says what to do and exit code 2."""

import difflib
import errno
import os
import re
import select
import signal
import sys
import threading
import warnings
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import ssd_graph

READER_LEFT = 141
"""The exit code of programs that SIGPIPE ends."""


class InputError(ValueError):
    """Something the user can mend; the message is one line that says how."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit: 0 or its result, 2 after an `InputError`; 130, 143, 141 as Ctrl-C, SIGTERM, SIGPIPE do."""
    for name in ("stdout", "stderr"):  # Python has none where it was closed
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    load_no_plug_in()
    if isinstance(sys.stdout, TextIOWrapper):  # names from files may hold what a console cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    # What Pillow finds odd about an image that it reads all the same.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with _exit_on_sigterm():
            code = main() or 0
            sys.stdout.flush()
            sys.exit(code)
    except InputError as error:
        _refuse(error)
    except BrokenPipeError:
        if not reader_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # at its end Python flushes it once more
        sys.exit(READER_LEFT)
    except OSError as error:
        if not error.filename or error.errno not in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise
        _refuse(InputError(f"cannot use {error.filename}: {error.strerror}; give another path"))
    except ModuleNotFoundError as error:
        # What a machine that only scores can do without, or lacks if it was set up for an older version.
        if error.name not in ("torch", "onnx", "onnxscript", "simplejpeg"):
            raise
        _refuse(InputError(f"{error.name} is not installed; run `pip install {error.name}`"))
    except KeyboardInterrupt:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: interrupted\n")
        sys.exit(130)


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, kept short; its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def reader_left() -> bool:
    """Whether nobody reads stdout any more, as behind `| head -1`."""
    if not sys.stdout or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    with suppress(OSError):  # what stands for stdout in another program may have no descriptor
        poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def load_no_plug_in() -> None:
    """Have a later `import torch` leave torch_npu out, which fails it where CANN is absent.

    compilers/ascend.py imports torch_npu itself, only when an NPU is asked for.
    """
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that what was begun is removed; a second one ends the process without that.

    Both wait until Python runs again. A rank of a launched run has others that wait for it, and ends at once.
    """
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free or launched():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _refuse(error: InputError) -> NoReturn:
    # Before the processes of a run meet, all on a machine find the same error; see training/failure.py for later.
    if not launched() or os.environ["LOCAL_RANK"] == "0":
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}\n")
    sys.exit(2)


def launched() -> bool:
    """Whether a launcher (ours or torchrun) started this process: clusters set some of its variables on their own."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)


def speaks() -> bool:
    """Whether this process writes to the console: of a launched run the first one does."""
    return not launched() or os.environ["RANK"] == "0"


@cache
def say_once(line: str) -> None:
    """Write a line to stderr, however often it is asked for; of several processes of a run the first one does."""
    if speaks():
        sys.stderr.write(f"{line}\n")


def command(main: Callable[[], int | None]) -> Callable[[], NoReturn]:
    """A decorator: the function then ends as `run` says, for scripts and console entry points alike."""

    @wraps(main)
    def ends() -> NoReturn:
        run(main)

    return ends


def command_parser(doc: str | None, *, given_only: bool = False) -> ArgumentParser:
    """A parser whose --help begins with `doc`, a command's docstring, and which has --version.

    With `given_only` its results hold no flag that was not given, unless the flag has a default of its own.

    The docstring's commands are those of a clone; the installed command tells its own name instead.
    """
    name = Path(sys.argv[0]).name
    if not name.endswith(".py"):
        doc = re.sub(r"python (tools|export)/\w+\.py", name, doc or "")
    parser = _Parser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.argument_default = SUPPRESS if given_only else None
    parser.add_argument("--version", action="version", version=f"ssd_graph {ssd_graph.__version__}")
    return parser


class _Parser(ArgumentParser):
    """Takes every flag with dashes and with underscores, and says in one line what it does not take."""

    # Subcommands are parsed by this one alone.
    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._as_known(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        flag = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(flag[1], self._option_string_actions, 1) if flag else []
        advice = f"did you mean {near[0]}?" if near else "--help tells what there is"
        self.exit(2, f"{self.prog}: {message}; {advice}\n")

    def _as_known(self, word: str) -> str:
        name, equals, value = word.partition("=")
        known, other = self._option_string_actions, "--" + name[2:].replace("_", "-")
        return other + equals + value if name.startswith("--") and name not in known and other in known else word


def require_one_of(known: Iterable[str], name: str, value: object) -> None:
    """Raise InputError if `value`, an argument called `name`, is none of those known."""
    if value not in (names := tuple(known)):
        raise InputError(f"{name} {value!r}: give one of {', '.join(names)}")


def between(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer from `low`, to `high` if there is one."""

    def integer(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise ArgumentTypeError(f"{value}: give {low} " + ("or more" if high is None else f"to {high}"))
        return value

    return integer


positive, not_negative = between(1), between(0)
