"""Run by test_recording_device.py: a command of ours on NPUs that only write down what is asked of them.

The tensors are on the CPU and the processes talk by gloo. Each rank appends a line for each call to its file; what a
real device would refuse or hang at is an error here.

python -m tests.training.recording_device LOGS train_graph --npus 2 ...
"""

import os
import signal
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

from ssd_graph.compilers import backend
from ssd_graph.training import distributed

LOGS = Path(os.environ["RECORD"])
CALLS = []


def note(call):
    CALLS.append(call)
    with (LOGS / f"rank{os.environ.get('RANK', 'launcher')}.txt").open("a") as file:
        file.write(f"{call}\n")


def recorded(owner, name, call=None, needs=(), refuses=()):
    """Note the calls of a function; some must have been made before, and some must not."""
    function = getattr(owner, name)

    def wrapper(*args, **kwargs):
        done = [line.split()[0] for line in CALLS]
        assert set(needs) <= set(done), f"{name} before {set(needs) - set(done)}"
        assert not set(refuses) & set(done), f"{name} after {set(refuses) & set(done)}"
        note(call or name)
        return function(*args, **kwargs)

    setattr(owner, name, wrapper)


def device_of(kind, world, first=0):
    """Stands for the choice of a device."""
    assert kind == "npu"
    note(f"set_device {first + world.local_rank}")
    return torch.device("cpu")


def exit_code(code):
    note(f"exit {code}")
    leave(code)


def terminated(*_):
    """The launcher ends the other ranks when one has failed; until the loop runs, that ends a rank at once."""
    note("SIGTERM")
    leave(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    backend.DEVICES["npu"] = backend.DeviceKind("npu", "aot_eager", "off", "gloo")
    backend._count_npus = lambda: 8
    distributed.device_of = device_of
    torch.accelerator.synchronize = lambda: None
    torch.compile = lambda function, **_: function  # when it is asked for is what matters
    leave, os._exit = os._exit, exit_code
    recorded(dist, "init_process_group", "init", needs=["set_device"], refuses=["compile"])
    recorded(torch, "compile", needs=["set_device"])
    recorded(torch.accelerator, "synchronize")
    recorded(torch.compiler, "reset", needs=["synchronize"])
    recorded(dist, "destroy_process_group", "destroy", needs=["synchronize", "reset"])
    note(f"HCCL_CONNECT_TIMEOUT={os.environ.get('HCCL_CONNECT_TIMEOUT')}")
    import_module(f"ssd_graph.commands.{os.environ['COMMAND']}").main()
