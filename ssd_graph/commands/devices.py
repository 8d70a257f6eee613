"""The flags that say which devices a command uses, and how."""

from __future__ import annotations

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


def device_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags that are given say, by the names of TrainOptions and GraphEvalOptions."""
    names = {"device_id": "first_device", "amp": "amp", "backend": "backend"}
    options = {name: given[flag] for flag, name in names.items() if flag in given}
    for kind in ("npu", "gpu", "cpu"):
        if f"{kind}s" in given:
            options |= {"devices": kind, "num_devices": given[f"{kind}s"]}
    return options
