"""From devices to compilers: what a device needs, which backend compiles for it, and what is refused and why."""

import ctypes
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import fx

from ssd_graph.cli import InputError, reason_of, require_one_of
from ssd_graph.compilers.ascend import import_torch_npu, torchair_backend
from ssd_graph.compilers.inductor import mended_inductor
from ssd_graph.config import Amp

BACKENDS = (
    "eager",
    "aot_eager",
    "inductor",
    "inductor:plain",
    "inductor:reduce-overhead",
    "inductor:max-autotune",
    "inductor:max-autotune-no-cudagraphs",
    "torchair",
)
"""`eager` runs the step uncompiled; the others capture it as one static graph first. Behind inductor's colon is
torch.compile's mode, or `plain` for inductor without the changes of compilers/inductor.py."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""

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
    memory_format: torch.memory_format = torch.contiguous_format
    """Of the images that enter the network."""


DEVICES = {
    # oneDNN's convolutions in bfloat16 are 1.6 times as fast in channels_last; in float32 both are alike.
    "cpu": DeviceKind("cpu", "aot_eager", "off", "gloo", torch.channels_last),
    # cuDNN's convolutions are channels_last. Inductor would turn the forward pass's maps to that by itself, and keep
    # a copy of each in the other format, from which cuDNN would turn them again in the backward pass.
    "gpu": DeviceKind("cuda", "inductor", "bf16", "nccl", torch.channels_last),
    "npu": DeviceKind("npu", "torchair", "fp16", "hccl"),
}


def require_devices(kind: str, count: int, first: int = 0) -> DeviceKind:
    """Check that this machine has `count` devices of a kind of DEVICES from number `first` on.

    Raises:
        InputError: it has not, or there is no such kind; the message says what to install or to give instead.
    """
    require_one_of(DEVICES, "devices", kind)
    if count < 1:
        raise InputError(f"--{kind}s {count}: give at least 1")
    if first < 0:
        raise InputError(f"--device-id {first}: give 0 or more")
    available = {"cpu": lambda: first + count, "gpu": _count_gpus, "npu": _count_npus}[kind]()
    if available < first + count:
        asked, fits = _device_flags(kind, count, first), min(count, available)
        raise InputError(
            f"{asked}: this machine shows {available}; give {_device_flags(kind, fits, min(first, available - fits))}"
            if available
            else f"{asked}: no {kind.upper()} is visible on this machine{_build(kind)}; use --cpus 1 to try it without"
        )
    return DEVICES[kind]


def _build(kind: str) -> str:
    for_cpus = kind == "gpu" and torch.version.cuda is None and torch.version.hip is None
    return f" to torch {torch.__version__}, a build for CPUs (docs/gpu.md says what to install)" if for_cpus else ""


def _device_flags(kind: str, count: int, first: int) -> str:
    return f"--{kind}s {count}" + (f" --device-id {first}" if first else "")


def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors free, for those that follow.

    The C library else returns most of it to the kernel and asks for it again, page by page, at every operation on
    large maps: a tenth to a fifth of a training step on a CPU. Nothing happens where the library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_MMAP_MAX, 0)


def default_amp(kind: DeviceKind) -> Amp:
    """The precision for the current device: bfloat16 is slow where the hardware has none (before NVIDIA's sm_80)."""
    if kind.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        return "fp16"
    return kind.amp


def deterministic_kernels() -> None:
    """Have GPUs choose kernels that give the same bits each time, whatever their speed; CPUs do without being asked."""
    from torch._inductor import config

    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    config.deterministic = True


def exact_float32(device: torch.device) -> None:
    """Have this process compute float32 in float32; convolutions are in TF32 on GPUs and in HF32 on NPUs else."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    elif device.type == "npu":
        torch.npu.conv.allow_hf32 = False  # pyright: ignore[reportAttributeAccessIssue]


def lacks_memory(error: Exception) -> bool:
    """Whether memory was too small, on whatever device."""
    return isinstance(error, MemoryError) or bool(
        re.search("out of memory|can't allocate memory", reason_of(error), re.I)
    )


@contextmanager
def advice_on_memory(batch_size: int, more: str = "") -> Iterator[None]:
    """Turn a lack of memory into an InputError that names the flag; `more` goes on behind that."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = reason_of(error).partition(". ")[0]
        raise InputError(f"not enough memory ({reason}); give less than --batch-size {batch_size}{more}") from error


def _count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _count_npus() -> int:
    torch_npu = import_torch_npu()
    return torch_npu.npu.device_count() if torch_npu.npu.is_available() else 0


def _require_c_compiler() -> None:
    """Raise InputError if what inductor compiles with is not there: Triton with C, its code for CPUs with C++.

    Without the program openssl it does without precompiled headers.
    """
    of_gpus = "C", "CC", ("cc", "gcc", "clang")
    of_cpus = "C++", "CXX", ("clang++" if sys.platform == "darwin" else "g++",)
    language, of_user, names = of_gpus if torch.cuda.is_available() else of_cpus
    if not (os.environ.get(of_user) or any(map(shutil.which, names))):
        raise InputError(
            f"no {language} compiler, which inductor needs: install gcc and g++, or use --backend aot_eager"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise InputError("no Python.h, which inductor needs: install python3-dev, or use --backend aot_eager")
    if not shutil.which("openssl"):  # by which it names precompiled headers
        from torch._inductor import config

        config.cpp_cache_precompile_headers = False


def keep_addresses(tensors: Iterable[torch.Tensor | None]) -> None:
    """Tell compilers that these tensors, which a graph overwrites, will stay where they are.

    Inductor's modes with CUDA graphs would otherwise run the step without: a replay writes to fixed addresses.
    """
    for tensor in tensors:
        if tensor is not None:
            torch._dynamo.mark_static_address(tensor)


def _without_copies(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """What runs a captured graph operation by operation, as torch's own `aot_eager` does, but overwrites once only.

    Where a tensor is overwritten the graph says "a copy of the old values, with the new ones copied over them", and
    copies that over the tensor. The new values alone will do.
    """
    from torch._dynamo.backends.debugging import boxed_nop

    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.copy.default):
        old, new = node.args[:2]
        if all(getattr(old.meta["val"], of) == getattr(new.meta["val"], of) for of in ("shape", "dtype")):
            node.replace_all_uses_with(new)
            graph.graph.erase_node(node)
    graph.recompile()
    return boxed_nop(graph, inputs)


def _captured(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    from torch._dynamo.backends.debugging import aot_eager

    return aot_eager(graph, inputs, fw_compiler=_without_copies)


def compile_graph(function: F, backend: str) -> F:
    """`function` captured as one static graph at its first call, with everything else refused.

    A graph break raises at the first call; arguments that would need a second graph raise at any later one.

    Raises:
        InputError: an unknown or missing backend.
    """
    if backend == "eager":
        return function
    if backend not in BACKENDS:
        raise InputError(f"--backend {backend}: choose one of {', '.join(BACKENDS)}")
    name, _, mode = backend.partition(":")
    if name == "inductor":
        _require_c_compiler()
    compiler = torchair_backend() if name == "torchair" else _captured if name == "aot_eager" else name
    mode = None if mode in ("", "plain") else mode
    compiled = torch.compile(function, backend=compiler, mode=mode, fullgraph=True, dynamic=False)
    mended = mended_inductor if name == "inductor" and backend != "inductor:plain" else nullcontext
    captured = False

    def graph(*args: Any) -> Any:
        nonlocal captured
        if captured:
            with torch.compiler.set_stance("fail_on_recompile"):
                return compiled(*args)
        # A program may train many times; to torch these are graphs of one function, of which it takes 8.
        with mended(), torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000):
            result = compiled(*args)
        captured = True
        return result

    return cast(F, graph)
