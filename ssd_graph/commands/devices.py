"""The flags that say which devices a command uses, and how."""

import argparse
from collections.abc import Mapping
from typing import Any

from ssd_graph.cli import not_negative, positive


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """`--npus`, `--gpus`, `--cpus`, `--device_id`, `--amp` and `--backend`, as a group of `parser`."""
    device = parser.add_argument_group("device")
    kind = device.add_mutually_exclusive_group()
    kind.add_argument("--npus", type=positive, metavar="N", help="Ascend NPUs of this machine")
    kind.add_argument("--gpus", type=positive, metavar="N", help="CUDA GPUs of this machine")
    kind.add_argument("--cpus", type=positive, metavar="N", help="CPU processes (default: 1)")
    device.add_argument("--device-id", type=not_negative, help="number of the first one (default: 0)")
    device.add_argument("--amp", choices=("off", "bf16", "fp16"), help="default: fp16 on NPU, bf16 on GPU, off on CPU")
    device.add_argument("--backend", help="eager, aot_eager, inductor, inductor:MODE or torchair (default: by device)")


def given_options(given: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """What the flags that are given say, by the names of the fields of `kind`: TrainOptions or GraphEvalOptions."""
    options = {name: value for name, value in given.items() if name in kind.__slots__}
    if "device_id" in given:
        options["first_device"] = given["device_id"]
    for device in ("npu", "gpu", "cpu"):
        if f"{device}s" in given:
            options |= {"devices": device, "num_devices": given[f"{device}s"]}
    return options
