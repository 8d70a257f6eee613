"""Run by rank_failures.py: tools/train_graph.py, of which one rank has no memory or no disk from its third step on."""

import os
import resource
import signal
import time
from pathlib import Path

import torch

from ssd_graph.commands import train_graph
from ssd_graph.training import train

RANKS = {"memory": "1", "disk": "0", "hang": "01"}


class Faulty(train.Trainer):
    """Fails."""

    def _after_step(self, records):
        super()._after_step(records)
        if self.step != 3 or os.environ["RANK"] not in RANKS.get(fault := os.environ["FAULT"], ""):
            return
        Path(self.plan.options.out).with_name("failed").write_text(str(time.monotonic()))
        if fault == "hang" and os.environ["RANK"] == "0":
            time.sleep(1000)  # as in a collective on a device, which no signal ends
        if fault in ("memory", "hang"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


if __name__ == "__main__":
    train.Trainer = Faulty
    train_graph.main()
