"""torch_npu, which brings torchair: what is refused before it is imported, and its compiler for whole graphs."""

import importlib.util
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from ssd_graph.cli import InputError, reason_of
from ssd_graph.compilers.converters import register_converters

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds, for x86-64 and aarch64."""

LOADS_BESIDE_CUDA = ("2.11",)
"""Releases of torch_npu that were seen to load beside a CUDA build of torch; 2.13 and 2.14 end the process there."""


def require_torch_npu() -> None:
    """Check what can be checked without importing torch_npu.

    Raises:
        InputError: it is not installed, does not pair with this torch, or would end the process.
    """
    wanted = _release(torch.__version__)
    if importlib.util.find_spec("torch_npu") is None:
        raise InputError(
            f"torch_npu is not installed; run `pip install torch_npu=={wanted} -e '.[npu]'`, best in an environment "
            "of its own, or use --gpus 1 or --cpus 1"
        )
    found = version("torch_npu")
    if _release(found) != wanted:  # torch_npu is built against one release of torch
        raise InputError(
            f"torch_npu {found} does not pair with torch {wanted}; run `pip install torch_npu=={wanted}`, or `pip "
            f"install torch=={_release(found)} --index-url {CPU_WHEELS}`"
        )
    if torch.version.cuda and wanted.rpartition(".")[0] not in LOADS_BESIDE_CUDA:
        raise InputError(
            f"torch {torch.__version__} is a build for CUDA, beside which torch_npu {found} ends the process; run "
            f"`pip install --force-reinstall torch=={wanted} --index-url {CPU_WHEELS}`"
        )


def import_torch_npu() -> Any:
    """The torch_npu module.

    Raises:
        InputError: as `require_torch_npu`, or it does not load for want of CANN.
    """
    require_torch_npu()
    try:
        import torch_npu  # pyright: ignore[reportMissingImports]
    except Exception as error:  # a CANN that is half set up makes it raise anything
        raise InputError(
            f"torch_npu {version('torch_npu')} is installed but does not load ({reason_of(error)}); install "
            "CANN and source its set_env.sh first, or use --gpus 1 or --cpus 1 here"
        ) from error
    return torch_npu


def torchair_backend() -> Any:
    """torchair's compiler for whole graphs, backward pass included; reduce-overhead mode has none."""
    import_torch_npu()
    with same_signal_handlers():
        import torchair  # pyright: ignore[reportMissingImports]

        register_converters()
        return torchair.get_npu_backend(compiler_config=torchair.CompilerConfig())


@contextmanager
def same_signal_handlers() -> Iterator[None]:
    """torchair's own handlers swallow the first Ctrl-C; outside the main thread it sets none."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _release(text: str) -> str:
    """`2.13.0` of 2.13.0, 2.13.0+cpu or 2.13.0.post1: what has to agree between torch and torch_npu."""
    match = re.match(r"\d+\.\d+\.\d+", text)
    return match.group() if match else text
