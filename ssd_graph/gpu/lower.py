"""What inductor makes of the training step for a GPU that need not be there."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._prims_common import get_computation_dtype
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from ssd_graph.compilers.backend import DEVICES, keep_addresses
from ssd_graph.compilers.inductor import mended_inductor
from ssd_graph.compilers.tracing import traceable_step
from ssd_graph.config import Amp
from ssd_graph.gpu.kernels import Lowering
from ssd_graph.gpu.stand_in import require_compiler, stand_in

Runner = Callable[[str, Sequence[Tensor]], Sequence[Tensor]]
"""Computes a graph's outputs from inductor's code and the graph's inputs, in place of a GPU."""

NUM_BOXES = 64
"""G of tools/bench.py, so that its figures and these are of the same step."""


def lower_step(
    preset: str,
    batch_size: int,
    amp: Amp,
    world_size: int = 1,
    memory_format: torch.memory_format = DEVICES["gpu"].memory_format,
    *,
    mended: bool = True,
) -> Lowering:
    """The kernels of the step of recipe mlperf-256 on one of `world_size` H100; `batch_size` is of one.

    `mended` is with the changes of compilers/inductor.py.

    Raises:
        InputError: Triton is missing, or there is a GPU.
    """
    require_compiler()
    with traceable_step(preset, batch_size, amp, world_size, NUM_BOXES, memory_format) as (step, arguments):
        keep_addresses(arguments[0])
        return lower(step, arguments, batch_size, mended=mended)


def lower(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    batch_size: int,
    runner: Runner | None = None,
    *,
    mended: bool = True,
) -> Lowering:
    """The kernels of `function(*arguments)`, tensors of the CPU, as if they were on an H100.

    The function is traced for a CPU. Then the graph is moved, decomposed as inductor does it for CUDA, and compiled
    up to the point where its kernels are written. Fake tensors as arguments cost no memory; with real ones and a
    `runner` the call has its effects, as computed by that.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    lowerings: list[Lowering] = []

    def inner_compile(module: fx.GraphModule, inputs: Sequence[Tensor], **kwargs: Any) -> Any:
        lowering = _write_kernels(module, inputs, batch_size, **kwargs)
        lowerings.append(lowering)
        outputs = [node.meta["val"] for node in cast(Sequence[fx.Node], module.graph.output_node().args[0])]
        return lambda *inputs: runner(lowering.code, inputs) if runner else outputs

    backend = partial(compile_fx, inner_compile=inner_compile)
    torch.compiler.reset()
    log = logging.getLogger("torch._inductor.utils")
    try:
        with (
            mended_inductor() if mended else nullcontext(),
            _statistics_of_a_gpu(),
            config.patch(force_disable_caches=True),
            warnings.catch_warnings(action="ignore"),  # of caches that are off, as asked
            patch.object(log, "disabled", True),
        ):
            torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*arguments)
    finally:
        torch.compiler.reset()
    (lowering,) = lowerings
    return lowering


@contextmanager
def _statistics_of_a_gpu() -> Iterator[None]:
    """Have batch normalisation save its statistics in float32, as on a GPU; for a CPU they get the input's type."""
    from torch._decomp import decompositions

    helper = decompositions.native_batch_norm_helper

    def of_a_gpu(input: Tensor, *args: Any) -> tuple[Tensor | None, ...]:
        output, *statistics = helper(input.to(get_computation_dtype(input.dtype)), *args)
        return output.to(input.dtype), *statistics

    with patch.object(decompositions, "native_batch_norm_helper", of_a_gpu):
        yield


def _write_kernels(module: fx.GraphModule, inputs: Sequence[Tensor], batch_size: int, **kwargs: Any) -> Lowering:
    """What inductor makes of a graph when it is on cuda:0."""
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.graph import GraphLowering

    constants = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]

    def stop(graph: GraphLowering) -> None:
        code, _ = graph.codegen()
        raise _Lowered(Lowering.of(graph, code.value, batch_size, kwargs["static_input_idxs"], constants))

    with stand_in(), patch.object(GraphLowering, "compile_to_module", stop):
        try:
            compile_fx_inner(*_move(module, inputs), **kwargs)
        except _Lowered as lowered:
            return lowered.args[0]
    raise AssertionError("inductor did not write its kernels")


class _Lowered(BaseException):
    """Carries the result out of inductor, which would take an Exception for its own failure."""


def _move(module: fx.GraphModule, inputs: Sequence[Tensor]) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph and its inputs on cuda:0, with inductor's decompositions for it; nodes keep their source lines."""
    from torch._inductor.decomposition import select_decomp_table

    device, aten = torch.device("cuda:0"), torch.ops.aten
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
        if node.target == aten.lift_fresh_copy.default:  # a literal is made on the host and copied
            with module.graph.inserting_after(node):
                copied = module.graph.call_function(aten._to_copy.default, (node,), {"device": device})
            node.replace_all_uses_with(copied, delete_user_cb=lambda user, copied=copied: user is not copied)
    mode = detect_fake_mode(inputs)
    assert mode is not None
    with mode, preserve_node_meta():
        fakes = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device) for x in inputs]
        run = fx.Interpreter(module).run
        return make_fx(run, decomposition_table=select_decomp_table())(*fakes), fakes
