"""Run by test_long_run.py: trains for long in this process and prints, as JSON, what it held on to at certain steps."""

import ctypes
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch._dynamo.utils import counters

from ssd_graph.config import RECIPES
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.train import Trainer, train

LAST, EVERY = 2000, 500


def _status(name: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0])


def held() -> dict[str, int]:
    """Memory in kB, open files, threads and compiled graphs of this process.

    `resident_kb` is taken after the C library has given back the pages in which nothing lives: how many it keeps
    for later goes up and down by tens of MB from one look to the next and says nothing about what is held.
    """
    before = _status("VmRSS")
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return {
        "resident_untrimmed_kb": before,
        "resident_kb": _status("VmRSS"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": _status("Threads"),
        "graphs": counters["stats"]["unique_graphs"],
    }


class Watched(Trainer):
    """Looks at this process now and then."""

    figures: ClassVar = {}

    def _after_step(self, records) -> None:
        super()._after_step(records)
        if self.step % EVERY == 0:
            self.figures[self.step] = held()


def main() -> None:
    torch.set_num_threads(1)
    recipe = replace(RECIPES["shapes"], batch_size=2, epochs=8.0, evaluation_epochs=(1.0, 3.0, 5.0))
    sys.modules["ssd_graph.training.train"].Trainer = Watched
    train(
        TrainOptions(
            data="shapes", preset="ssd300-nano", recipe=recipe, max_steps=LAST, save_every=100, out=Path(sys.argv[1])
        )
    )
    print(json.dumps(Watched.figures))


if __name__ == "__main__":
    main()
