"""Two ranks, and a failure on one of them, in nine ways: how long until all is over, what is said, and the exit code.

python -m tests.training.rank_failures             # each way ten times
python -m tests.training.rank_failures --times 1
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from ssd_graph.data.coco import load_split
from ssd_graph.data.samples import _order
from ssd_graph.data.shapes import write_shapes
from ssd_graph.files import locked_folder
from ssd_graph.training.metrics import read_records
from tests import PATIENCE, REPOSITORY

LONGEST = 15
"""Seconds from the failure to the end of all processes."""

NUM_IMAGES = 11


class Way(NamedTuple):
    """A failure: what brings it about, and how the run must end."""

    code: int
    words: str
    """Of the one message."""
    trigger: str
    """`image`, `lock`, the name of a fault of faulty_rank.py, or a signal and whom it is sent to."""


WAYS = {
    "a bad image on rank 1": Way(2, "rank 1: cannot decode", "image"),
    "no memory on rank 1": Way(
        2, "rank 1: not enough memory (CUDA out of memory); give less than --batch-size 2, and --accumulate", "memory"
    ),
    "the same while rank 0 hangs": Way(2, "rank 1: not enough memory", "hang"),
    "a full disk on rank 0": Way(2, "rank 0: cannot write", "disk"),
    "a locked folder": Way(2, "rank 0: another run is writing to", "lock"),
    "a killed worker of rank 1": Way(2, "rank 1: a loader process", "KILL worker"),
    "Ctrl-C": Way(130, "SIGINT: saved at step", "INT launcher"),
    "SIGTERM of the launcher": Way(143, "SIGTERM: saved at step", "TERM launcher"),
    "SIGTERM of rank 1": Way(143, "SIGTERM: saved at step", "TERM rank"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_shapes(data, {"train": 12, "val": 6})
        for name in WAYS:
            seconds = [fail(name, data, Path(folder, "case")) for _ in range(args.times)]
            print(f"{name}: {len(seconds)} times, {min(seconds):.1f} to {max(seconds):.1f} s", flush=True)


def fail(name, data, folder):
    """Let a run of two ranks fail in one way; the seconds that it took to end."""
    way, kind = WAYS[name], WAYS[name].trigger.split()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if way.trigger == "image":
        data = with_bad_image(data, folder / "data")
    out, fault = folder / "run", way.trigger if way.trigger in ("memory", "disk", "hang") else "none"
    with locked_folder(out, "", "--out") if way.trigger == "lock" else nullcontext():
        process = start(data, out, fault)
        if len(kind) == 2:
            wait_for_step(out, 4)
            begin = time.monotonic()
            os.kill(target(process.pid, kind[1]), signal.Signals[f"SIG{kind[0]}"])
        stdout, stderr = process.communicate(timeout=120 * PATIENCE)
        end = time.monotonic()
    if len(kind) == 1:
        begin = float((folder / "failed").read_text())
    told = stdout + stderr
    assert process.returncode == way.code, (name, process.returncode, told)
    assert told.count(way.words) == 1, (name, told)
    assert "Traceback" not in told, (name, told)
    assert stderr.count("\n") <= 1, (name, told)
    assert "restart 1" not in told, (name, told)
    assert not processes_of(out), (name, processes_of(out))
    assert end - begin <= LONGEST * PATIENCE, (name, end - begin)
    return end - begin


def start(data, out, fault, **variables):
    """The launcher, or with a launcher's `variables` one rank."""
    command = [
        *(sys.executable, "-m", "tests.training.faulty_rank", "--data", data, "--out", out, "--cpus", 2),
        *("--preset", "ssd300-nano", "--recipe", "shapes", "--batch-size", 2, "--epochs", 500, "--backend", "eager"),
        *("--evaluation", 100, "--print-every", 1, "--save-every", 5, "--workers", 1),
    ]
    environment = {**os.environ, "FAULT": fault, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, command)], cwd=REPOSITORY, env=environment, **pipes)


def wait_for_step(out, step):
    for _ in range(6000):
        if (out / "metrics.jsonl").is_file() and any(
            r["step"] >= step for r in read_records(out / "metrics.jsonl", "train")
        ):
            return
        time.sleep(0.02)
    raise AssertionError("the run does not get on")


def target(launcher, who):
    """The launcher, its rank 1, or a loader process of that."""
    if who == "launcher":
        return launcher
    (rank,) = [p for p in children(launcher) if b"\0RANK=1\0" in read(Path(f"/proc/{p}/environ"))]
    if who == "rank":
        return rank
    (server,) = [p for p in children(rank) if b"forkserver" in read(Path(f"/proc/{p}/cmdline"))]
    return children(server)[0]


def children(pid):
    return [int(p) for p in read(Path(f"/proc/{pid}/task/{pid}/children")).split()]


def processes_of(out):
    """Those that have the results folder in their command."""
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if str(out).encode() in read(p)]


def read(file):
    """A file of /proc, whose process may have ended."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def with_bad_image(data, root):
    """A copy in which the image that rank 1 reads first in its second step is damaged."""
    shutil.copytree(data, root)
    split = load_split(root, "train")
    split.path(int(_order(1, 0, len(split))[6])).write_bytes(b"no image")
    return root


if __name__ == "__main__":
    main()
