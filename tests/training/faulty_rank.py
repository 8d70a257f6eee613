"""Run by rank_failures.py: tools/train_graph.py, of which one rank has no memory or no disk from its third step on."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from ssd_graph.commands import train_graph
from ssd_graph.training import train

RANKS = {"memory": "1", "disk": "0", "hang": "01"}


def note_time():
    """Beside the results folder: the last one is when the failure began, or shortly before."""
    Path(sys.argv[sys.argv.index("--out") + 1]).with_name("failed").write_text(str(time.monotonic()))


class Faulty(train.Trainer):
    """Fails."""

    def _after_step(self, records):
        super()._after_step(records)
        if self.step == 1:  # the bad image is in the second step
            note_time()
        if self.step != 3 or os.environ["RANK"] not in RANKS.get(fault := os.environ["FAULT"], ""):
            return
        note_time()
        if fault == "hang" and os.environ["RANK"] == "0":
            time.sleep(1000)  # as in a collective on a device, which no signal ends
        if fault in ("memory", "hang"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


if __name__ == "__main__":
    train.Trainer = Faulty
    note_time()
    train_graph.main()
