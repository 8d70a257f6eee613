"""Runs a case in a process of its own, with limits on time and memory, and judges how it ended."""

import faulthandler
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import NamedTuple

from ssd_graph.cli import run
from tests.fuzz.kinds import Kind

SECONDS = 30
"""Of processor time."""
MEMORY = 2 << 30
"""Bytes of address space beyond what the process has when the case begins."""

EXPECTED_WARNINGS = ("annotation id 0 counts as missed",)
"""What the library itself warns of, in a line that `warnings` prints with the source line below it."""

_LIBTIFF = re.compile(r"(\w*(TIFF|LZW|Fax)\w*|tempfile\.tif): ")
"""What libtiff prints itself before Pillow raises."""

_CRASHED = 70


class Outcome(NamedTuple):
    """How a case ended."""

    verdict: str
    """`accepted`, `refused`, or what is wrong."""
    output: str
    """Its stdout and stderr."""

    @property
    def is_sound(self) -> bool:
        """Whether it is one of the two good ends."""
        return self.verdict in ("accepted", "refused")


def run_case(name: str, kind: Kind, seed: int, sound: Path) -> Outcome:
    """Run case `seed` of `kind`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        case = Path(scratch, "case")
        for folder in (case, Path(scratch, "tmp"), Path(scratch, "cache")):
            folder.mkdir()
        child = os.fork()
        if child == 0:
            _become_case(name, kind, seed, sound, Path(scratch))
        status = os.waitpid(child, 0)[1]
        out, error = (Path(scratch, stream).read_text(errors="replace") for stream in ("stdout", "stderr"))
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Outcome(_verdict(code, out, error, _leftovers(Path(scratch), code)), out + error)


def _become_case(name: str, kind: Kind, seed: int, sound: Path, scratch: Path) -> None:
    """In the child process; never returns."""
    code = _CRASHED
    try:
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(scratch / stream, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch / "tmp")
        for variable in ("SSD_GRAPH_CACHE", "TORCHINDUCTOR_CACHE_DIR"):
            os.environ[variable] = str(scratch / "cache")
        os.chdir(scratch / "case")
        rng = Random(f"{name} {seed}")
        kind.write(rng, sound)
        (scratch / "before").write_text("\n".join(_listing(scratch)))
        _limit_time()
        _limit_memory()
        run(lambda: _call(kind, sound))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else _CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _call(kind: Kind, sound: Path) -> None:
    kind.use(sound)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time() -> None:
    """By the processor's clock, which does not count what other programs take, and, for a deadlock, by the wall's."""
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGXCPU, sys.stderr, chain=True)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, used + SECONDS + 5))
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True, file=sys.stderr)


def _listing(scratch: Path) -> list[str]:
    return sorted(str(f.relative_to(scratch)) for folder in ("case", "tmp") for f in (scratch / folder).rglob("*"))


def _leftovers(scratch: Path, code: int) -> list[str]:
    """New files: none may be there after a refusal, and no half-written one in any case."""
    before = scratch / "before"
    known = before.read_text().splitlines() if before.is_file() else []
    new = [name for name in _listing(scratch) if name not in known]
    return new if code == 2 else [n for n in new if n.startswith("tmp/") or Path(n).name.startswith(".")]


def _verdict(code: int, out: str, error: str, leftovers: list[str]) -> str:
    if code == -signal.SIGXCPU or "Timeout (" in error:
        return f"more than {SECONDS} s"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code not in (0, 1, 2) or "Traceback" in error:
        return "traceback"
    if leftovers:
        return f"left {', '.join(leftovers[:3])}"
    lines = [line for line in error.splitlines() if line.strip() and not _LIBTIFF.match(line)]
    for at in [i for i, line in enumerate(lines) if any(words in line for words in EXPECTED_WARNINGS)][::-1]:
        del lines[at : at + 2]
    if len(lines) != (code == 2) or any("Warning" in line for line in lines):
        return f"{len(lines)} lines on stderr"
    return "refused" if code == 2 else "accepted"
