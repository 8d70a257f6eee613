"""From devices to compilers: what a device needs, which backend compiles for it, and what is refused and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from ssd_graph.cli import InputError
from ssd_graph.step import Amp

BACKENDS = ("eager", "aot_eager", "inductor", "torchair")
"""`eager` runs the step uncompiled; the others capture it as one static graph first."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """What goes with a kind of device unless the user says otherwise."""

    type: str
    """torch's device type."""
    backend: str
    amp: Amp
    collectives: str
    """torch.distributed's backend."""


DEVICES = {
    "cpu": DeviceKind("cpu", "aot_eager", "off", "gloo"),
    "gpu": DeviceKind("cuda", "inductor", "bf16", "nccl"),
    "npu": DeviceKind("npu", "torchair", "fp16", "hccl"),
}


def require_devices(kind: str, count: int) -> DeviceKind:
    """Check that this machine has `count` devices of a kind of DEVICES.

    Raises:
        InputError: it has not; the message says what to install or which flag to give instead.
    """
    if count < 1:
        raise InputError(f"--{kind}s {count}: give at least 1")
    available = {"cpu": lambda: count, "gpu": _count_gpus, "npu": _count_npus}[kind]()
    if available < count:
        raise InputError(
            f"--{kind}s {count}: this machine shows {available}; give --{kind}s {available}"
            if available
            else f"--{kind}s {count}: no {kind.upper()} is visible on this machine; use --cpus 1 to try it without"
        )
    return DEVICES[kind]


def _count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _count_npus() -> int:
    if importlib.util.find_spec("torch_npu") is None:
        version = torch.__version__.split("+")[0]
        raise InputError(
            f"--npus: torch_npu is not installed; run `pip install torch_npu=={version}` on a machine with CANN "
            "and Ascend NPUs, or use --gpus 1 or --cpus 1 here"
        )
    try:
        import torch_npu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"--npus: torch_npu is installed but does not load ({str(error).splitlines()[0]}); install CANN and run "
            "its set_env.sh first, or use --gpus 1 or --cpus 1 here"
        ) from error
    return torch.npu.device_count() if torch.npu.is_available() else 0  # type: ignore[attr-defined]


def compile_graph(function: F, backend: str) -> F:
    """`function` captured as one static graph at its first call, with everything else refused.

    A graph break raises at the first call; arguments that would need a second graph raise at any later one.

    Raises:
        InputError: an unknown or missing backend.
    """
    if backend == "eager":
        return function
    if backend == "torchair":
        raise InputError("--backend torchair needs an Ascend NPU; use --backend aot_eager")
    if backend not in BACKENDS:
        raise InputError(f"--backend {backend}: choose one of {', '.join(BACKENDS)}")
    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)
    stance = "default"

    def graph(*args: Any) -> Any:
        nonlocal stance
        with torch.compiler.set_stance(stance):
            result = compiled(*args)
        stance = "fail_on_recompile"
        return result

    return cast(F, graph)
