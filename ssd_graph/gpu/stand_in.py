"""What inductor asks a GPU while it compiles, answered for an H100 that is not there.

Inductor chooses layouts, fuses operations and writes Triton kernels in Python. Of the device it wants to know
little: that it is there, its properties, whether cuDNN takes a convolution. So a machine without a GPU, and a build
of torch without CUDA, can see what becomes of the step. Nothing is compiled to machine code, and nothing runs.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ssd_graph.cli import InputError

GPU = "H100"

_SHARED_MEMORY = 232448
"""Bytes that a block may use."""

_PROPERTIES = SimpleNamespace(
    name=f"NVIDIA {GPU}",
    major=9,
    minor=0,
    total_memory=80 * 2**30,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block_optin=_SHARED_MEMORY,
    L2_cache_size=50 * 2**20,
    gcnArchName="",
)
"""Of an H100 SXM, as CUDA gives them."""


def require_compiler() -> None:
    """Check that inductor can be asked for GPU code here.

    Raises:
        InputError: Triton is missing, or there is a GPU.
    """
    if find_spec("triton") is None:
        raise InputError("inductor writes GPU kernels with Triton; run `pip install 'ssd_graph[gpu]'` (Linux only)")
    if torch.cuda.is_available():
        raise InputError(
            "this machine has a GPU: measure with `tools/bench.py step --gpus`, or hide it with CUDA_VISIBLE_DEVICES="
        )


@contextmanager
def stand_in() -> Iterator[None]:
    """Inside, torch and Triton answer as if cuda:0 were an H100; tensors there must be fake."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._subclasses import fake_tensor
    from torch.utils import _triton

    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:

        def answer(place: Any, **answers: Callable[..., Any]) -> None:
            for name, function in answers.items():
                stack.enter_context(patch.object(place, name, function))

        answer(
            torch.cuda,
            is_available=_always(True),
            device_count=_always(1),
            current_device=_always(0),
            get_device_properties=_always(_PROPERTIES),
            get_device_capability=_always((_PROPERTIES.major, _PROPERTIES.minor)),
            get_rng_state=torch.get_rng_state,
            set_rng_state=_always(None),
            synchronize=_always(None),
            _lazy_init=_always(None),
            _exchange_device=_always(0),
            _maybe_exchange_device=_always(0),
        )
        for interface in (CudaInterface, CudaInterface.Worker):
            answer(interface, get_device_properties=staticmethod(_always(_PROPERTIES)))
        answer(
            CudaInterface,
            is_available=staticmethod(_always(True)),
            current_device=staticmethod(_always(0)),
            get_compute_capability=staticmethod(_always(10 * _PROPERTIES.major + _PROPERTIES.minor)),
        )
        answer(fake_tensor, init_gpu_context=_always(None))
        answer(
            torch._C,
            _select_conv_backend=_always(torch._C._ConvBackend.Cudnn),  # pyright: ignore[reportAttributeAccessIssue]
            _conv_determine_backend_memory_format=_cudnn_memory_format,
        )
        stack.enter_context(_triton_for_gpu())
        for cached in (_triton.has_triton, _triton.triton_backend, _triton.triton_hash_with_backend):
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        yield


def _always(result: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: result


def _cudnn_memory_format(images: Tensor, weight: Tensor, backend: object) -> torch.memory_format:
    """cuDNN's result is channels_last if one of its arguments is."""
    for tensor in (images, weight):
        if tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


@contextmanager
def _triton_for_gpu() -> Iterator[None]:
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.backends.nvidia.driver import CudaDriver  # pyright: ignore[reportMissingImports]

    class Driver(CudaDriver):
        def __init__(self) -> None:  # Triton's own would load the GPU's library
            self.utils = SimpleNamespace(get_device_properties=_always({"max_shared_mem": _SHARED_MEMORY}))

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 10 * _PROPERTIES.major + _PROPERTIES.minor, _PROPERTIES.warp_size)

        def get_current_device(self) -> int:
            return 0

    with patch.object(triton.runtime.driver, "_active", Driver()):
        yield
