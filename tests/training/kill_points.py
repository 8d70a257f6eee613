"""Run by test_run_folder.py: kills a process at many points while it writes a checkpoint, looks at what is left.

Prints a JSON list of [where, step of last.pth, step that load_last finds].
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ssd_graph.config import model_config
from ssd_graph.data.coco import Categories
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import StateLayout
from ssd_graph.training.run_folder import RunFolder

CONFIG = model_config("ssd300-nano", 4)


def save(folder, state, layout, step):
    categories = Categories((1, 2, 3), ("a", "b", "c"))
    save_checkpoint(folder.file_of(step), state, layout, model=CONFIG, categories=categories, step=step, run={})
    folder.mark_last(step)
    folder.mark_best(step)


def after_bytes(num_bytes):
    """Let the kernel kill this process at the write that would make any file longer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def at_event(number):
    """Kill this process just before its n-th opening, renaming, linking or removing of a file."""
    count = 0

    def hook(event, _):
        nonlocal count
        if event in ("open", "os.rename", "os.symlink", "os.remove", "os.chmod"):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed(arm, point, action):
    """Whether a child process that is armed with `arm(point)` dies in `action`."""
    child = os.fork()
    if child == 0:
        arm(point)
        action()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def start():
    """A state and its layout."""
    torch.manual_seed(0)
    model = SSD300(CONFIG)
    layout = StateLayout.of(model)
    return layout.load(model.state_dict()), layout


def main():
    torch.set_num_threads(1)  # OpenMP's threads are not there in a forked child, which would wait for them
    state, layout = start()
    folder = RunFolder(Path(sys.argv[1]), keep=1)
    save(folder, state, layout, 1)
    size = folder.file_of(1).stat().st_size
    points = [(after_bytes, size * n // 40) for n in range(40)] + [(at_event, n) for n in range(1, 100)]
    found = []
    for arm, point in points:
        if not killed(arm, point, lambda: save(folder, state, layout, 2)):
            break
        last, _ = folder.load_last()
        found.append((f"{arm.__name__} {point}", load_checkpoint(folder.last).step, last.step))
        if not folder.file_of(1).is_file():  # it was already pruned
            save(folder, state, layout, 1)
        folder.rewind(1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
