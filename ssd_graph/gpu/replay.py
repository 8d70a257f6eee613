"""Executes on the CPU what inductor wrote for a GPU: its kernels in Triton's interpreter, libraries' calls by torch.

Lowering shows that inductor makes kernels of the step; replay shows that the kernels compute the step. What a GPU
adds is not seen: the compiler's code for it, its rounding, order of summation, races between threads, and speed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from ssd_graph.gpu.code import loaded

BLOCK = 2**16
"""Elements that a program of a kernel works on, far more than a GPU's would: NumPy's price is by the operation."""

REDUCTION_BLOCK = 2**11
"""Of these, elements that a loop over a reduced dimension takes at a time."""

HEURISTICS = ("pointwise", "reduction", "persistent_reduction")
"""Of torch._inductor.runtime.triton_heuristics: decorators that choose a kernel's blocks and launch it."""


class UnknownKernel(Exception):
    """Inductor wrote a kernel whose parameters have no meaning here."""


class OutOfBounds(Exception):
    """A kernel reads or writes where none of its arguments is."""


def replay(code: str, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The outputs of a graph; its inputs, tensors of the CPU, are overwritten as the graph would.

    A Runner for `lower.lower`.

    Raises:
        UnknownKernel: a kernel has parameters whose meaning is not known here.
        InterpreterError: Triton's, of an OutOfBounds for example.
    """
    with _interpreter(), loaded(code) as names:
        return names["call"](list(inputs))


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """A Triton kernel of inductor's, as the code around it calls it."""

    function: Any
    size_hints: Mapping[str, int]
    """Powers of two that are no smaller than the kernel's dimensions, named x, y and, if reduced, r0_."""
    triton_meta: Mapping[str, Any]
    inductor_meta: Mapping[str, Any]

    @staticmethod
    def decorator(
        size_hints: Mapping[str, int], triton_meta: Mapping[str, Any], inductor_meta: Mapping[str, Any], **_: Any
    ) -> Callable[[Any], "_Kernel"]:
        """In place of HEURISTICS, which would ask a GPU."""
        return lambda function: _Kernel(
            function=function, size_hints=size_hints, triton_meta=triton_meta, inductor_meta=inductor_meta
        )

    def run(self, *args: Any, stream: int) -> None:
        """Execute it, one program after the other."""
        import triton  # pyright: ignore[reportMissingImports]
        from torch._inductor.runtime.triton_heuristics import GridExpr

        given = dict(zip(self.triton_meta["signature"], args, strict=False))
        blocks = self._blocks(given)
        grid = GridExpr.from_meta(dict(self.inductor_meta), triton.Config(blocks)).eval_slow({**given, **blocks})
        with _bounds(argument for argument in args if isinstance(argument, Tensor)):
            self.function[grid](*args, **blocks)

    def _blocks(self, given: Mapping[str, Any]) -> dict[str, int]:
        """Of each dimension, elements that a program works on."""
        from torch._inductor.runtime.hints import TRITON_MAX_BLOCK

        signature, constants = self.triton_meta["signature"], self.triton_meta["constants"]
        wanted = {name for name, kind in signature.items() if kind == "constexpr"} - set(constants)
        blocks, left = {}, BLOCK
        for dimension, hint in sorted(self.size_hints.items()):  # the reduced one first
            name, size = f"{dimension.upper()}BLOCK", given[f"{dimension}numel"]
            block = hint  # of a persistent reduction, which has all of it in a program
            if name in wanted:
                block = min(hint, REDUCTION_BLOCK if dimension.startswith("r") else left)
                if size % TRITON_MAX_BLOCK[dimension.upper()] == 0:  # no mask: inductor counts on blocks that divide
                    block = min(block, size & -size)
                blocks[name] = block
            left = max(1, left // block)
        if wanted - set(blocks):
            raise UnknownKernel(f"{self.inductor_meta['kernel_name']} wants {', '.join(sorted(wanted - set(blocks)))}")
        return blocks


@contextmanager
def _interpreter() -> Iterator[None]:
    """Inside, Triton functions are interpreted, torch's and Triton's own helpers too."""
    import triton.experimental.gluon  # pyright: ignore[reportMissingImports]  # looks at the functions below
    from torch._inductor.runtime import triton_helpers, triton_heuristics
    from triton import language  # pyright: ignore[reportMissingImports]
    from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]
    from triton.runtime.jit import JITFunction  # pyright: ignore[reportMissingImports]

    libdevice = SimpleNamespace(
        exp=lambda x: language.exp(x),
        floor=lambda x: language.floor(x),
        mul_rn=lambda x, y: x * y,
        rsqrt=lambda x: language.rsqrt(x),
        signbit=lambda x: x.to(language.int32, bitcast=True) < 0,
    )

    def call(function: Any, *args: Any) -> Any:
        """One function by another; Triton's own leaves its language as the interpreter wants it, for good."""
        scope = interpreter._patch_lang(function.fn)
        try:
            return function.rewrite()(*args)
        finally:
            scope.restore()

    with np.errstate(all="ignore"), ExitStack() as stack:  # NumPy would warn of infinities that a select discards
        for module in (language, language.standard, triton_helpers):
            for name, function in list(vars(module).items()):
                if isinstance(function, JITFunction):
                    interpreted = interpreter.InterpretedFunction(function.fn)
                    stack.enter_context(patch.object(module, name, interpreted))
        for place, name, answer in (
            (triton, "jit", interpreter.InterpretedFunction),
            (triton_helpers, "libdevice", libdevice),
            (triton_helpers, "set_driver_to_gpu", lambda: None),
            (interpreter.InterpretedFunction, "__call__", call),
            # Inductor, too, has no index checked for overflow; where one leads is checked below.
            (interpreter.interpreter_builder, "options", interpreter.InterpreterOptions(sanitize_overflow=False)),
            (interpreter, "_convert_float", _convert),
            (interpreter.ReduceOps, "generic_reduce", _reduce),
            *((triton_heuristics, name, _Kernel.decorator) for name in HEURISTICS),
        ):
            stack.enter_context(patch.object(place, name, answer))
        yield


@contextmanager
def _bounds(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Inside, a kernel may read and write the memory of these tensors; the interpreter asks no questions."""
    from triton.runtime.interpreter import InterpreterBuilder  # pyright: ignore[reportMissingImports]

    storages = [tensor.untyped_storage() for tensor in tensors]
    extents = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]

    def checked(method: str, pointers: int, mask: int) -> None:
        access = getattr(InterpreterBuilder, method)

        def check(builder: Any, *args: Any) -> Any:
            size = args[pointers].get_element_ty().primitive_bitwidth // 8
            addresses, allowed = args[pointers].data, args[mask].data
            if not allowed.all():
                addresses = addresses[allowed]
            if addresses.size:
                first, last = addresses.min(), addresses.max()
                if not any(start <= first and last + size <= end for start, end in extents):
                    raise OutOfBounds(method)
            return access(builder, *args)

        stack.enter_context(patch.object(InterpreterBuilder, method, check))

    with ExitStack() as stack:
        checked("create_masked_load", pointers=0, mask=1)
        checked("create_masked_store", pointers=0, mask=2)
        checked("create_atomic_rmw", pointers=1, mask=3)
        yield


def _convert(data: Any, source: Any, target: Any, rounding: object) -> Any:
    """The bits of floats in another type, rounded to the nearest as a GPU does; Triton's own cuts them off."""
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    converted = torch.from_numpy(np.ascontiguousarray(data)).view(dtypes[source.name]).to(dtypes[target.name])
    return converted.view({2: torch.uint16, 4: torch.float32}[converted.itemsize]).numpy()


def _reduce(self: Any, inputs: Sequence[Any]) -> list[Any]:
    """A reduction by a function of two: halves against halves, where Triton's own goes element by element."""
    axis, parts = self.axis, [tensor.handle.data for tensor in inputs]
    if axis is None:
        axis, parts = 0, [part.reshape(-1) for part in parts]
    types = [tensor.dtype for tensor in inputs]
    while (size := parts[0].shape[axis]) > 1:
        halves = ([part.take(range(i, i + size // 2), axis) for part in parts] for i in (0, size // 2))
        left, right = ([self.to_tensor(*half) for half in zip(each, types, strict=True)] for each in halves)
        combined = self.combine_fn.fn(*left, *right)
        parts = [tensor.handle.data for tensor in (combined if isinstance(combined, tuple) else (combined,))]
    if not self.keep_dims:
        parts = [part.squeeze(axis) for part in parts]
    return [self.to_tensor(part, type_) for part, type_ in zip(parts, types, strict=True)]
