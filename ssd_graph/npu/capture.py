"""Catches the graphs that torchair's compiler makes of a function, when it would hand them to a device.

torchair is the real one of the installed torch_npu; what it would ask the device is answered here: the name
of the SoC, which chooses some converters, and whether CANN knows an operator, which is taken for granted.
So a capture assumes a CANN at least as new as the torch_npu.
"""

# An FX graph is what torch.compile traced; a GE graph is what torchair makes of it for Ascend's graph engine.

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._dynamo.exc import Unsupported
from torch.utils import _pytree as pytree

from ssd_graph.cli import reason_of
from ssd_graph.compilers.ascend import torchair_backend
from ssd_graph.compilers.tracing import source_line
from ssd_graph.npu.stand_in import load_stand_in

Torchair = Any
"""An object of torchair, which has no annotations that would hold without a device."""

Nest = Any
"""Tensors, or tuples and lists of them."""

Soc = Literal["a2", "950"]

SOC_NAMES: dict[Soc, str] = {"a2": "Ascend910B1", "950": "Ascend950PR_9579"}
"""One member of each family whose converters differ: Atlas A2 (A3 takes the same ones) and Ascend 950."""


class UnsupportedOp(NamedTuple):
    """An operation that torchair cannot lower."""

    op: str
    """E.g. `aten.smooth_l1_loss.default`."""
    source: str
    """`folder/file.py:line` of the Python code that asked for it."""
    reason: str
    """torchair's words."""


class Collective(NamedTuple):
    """A communication between ranks."""

    kind: str
    """GE's name, e.g. HcomAllReduce."""
    num_bytes: int
    """Of its result on one rank."""


@dataclass(slots=True)
class GeGraph:
    """A GE graph for one SoC, and what was noticed while torchair made it."""

    concrete: Torchair = None
    """torchair's GeConcreteGraph; its `graph` is the protobuf GraphDef."""
    unsupported: list[UnsupportedOp] = field(default_factory=list)
    """In their place the graph holds a node whose type is the operation's own name."""
    collectives: list[Collective] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    """`folder/file.py:line` by the name of a GE node; inputs and outputs have none."""


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """One graph that torch.compile handed to torchair."""

    module: fx.GraphModule
    """The FX graph in aten operations; runs on the CPU."""
    ge: dict[Soc, GeGraph]


Runner = Callable[[CapturedGraph, Sequence[Tensor]], Nest]
"""Computes a graph's outputs from its flat inputs, in place of an NPU."""


def capture(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    socs: Sequence[Soc] = ("a2",),
    runner: Runner | None = None,
) -> tuple[list[CapturedGraph], list[str]]:
    """Compile and call `function(*args)`; its graphs, and the reasons of its graph breaks.

    It is traced once and lowered for each of `socs`. Fake tensors as arguments cost no memory; with real
    ones the call has its effects, as computed by `runner`, by default the FX graph.

    Raises:
        InputError: torchair does not load, see stand_in.load_stand_in.
    """
    load_stand_in()

    def compile_and_call(fullgraph: bool) -> list[CapturedGraph]:
        torch.compiler.reset()
        backend = torchair_backend()
        warnings.simplefilter("ignore")  # get_npu_backend has just turned warnings on
        with _torchair_without_device(socs, runner) as graphs:
            torch.compile(function, backend=backend, fullgraph=fullgraph, dynamic=False)(*args)
        torch.compiler.reset()
        return graphs

    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        try:
            return compile_and_call(fullgraph=True), []
        except Unsupported as error:  # not one graph: count how many there would be
            return compile_and_call(fullgraph=False), [reason_of(error)]


@contextmanager
def _torchair_without_device(socs: Sequence[Soc], runner: Runner | None) -> Iterator[list[CapturedGraph]]:
    """Make torchair append its graphs to the yielded list instead of compiling them for a device."""
    from torchair import npu_fx_compiler  # pyright: ignore[reportMissingImports]
    from torchair._ge_concrete_graph import compat_ir, fx2ge_converter  # pyright: ignore[reportMissingImports]

    make_concrete = npu_fx_compiler._NpuFxCompiler._gen_compiled_gm
    convert = fx2ge_converter.GeConcreteGraph.parse_node
    graphs: list[CapturedGraph] = []
    current = GeGraph()

    def keep(compiler: Torchair, module: fx.GraphModule, inputs: Nest, observer: Torchair) -> Callable[..., Nest]:
        nonlocal current
        graph = CapturedGraph(module, {})
        for soc in socs:
            graph.ge[soc] = current = GeGraph()
            with patch("torch_npu.npu.get_device_name", return_value=SOC_NAMES[soc]):
                current.concrete = make_concrete(compiler, module, inputs, observer)
        graphs.append(graph)
        return lambda *inputs: runner(graph, inputs) if runner else module(*inputs)

    def note(concrete: Torchair, target: object, args: Nest, kwargs: Nest, meta: Nest) -> Torchair:
        return _convert(lambda: convert(concrete, target, args, kwargs, meta), concrete, meta, current)

    with ExitStack() as patches:
        for owner, name, replacement in (
            (fx2ge_converter, "initialize_graph_engine", lambda *_: None),
            (compat_ir, "is_cann_compat", lambda *_, **__: ""),
            (npu_fx_compiler._NpuFxCompiler, "_gen_compiled_gm", keep),
            (fx2ge_converter.GeConcreteGraph, "parse_node", note),
        ):
            patches.enter_context(patch.object(owner, name, replacement))
        yield graphs


def _convert(convert: Callable[[], Torchair], concrete: Torchair, meta_outputs: Nest, notes: GeGraph) -> Torchair:
    """Call torchair's converter of one FX node and write down what it did; failure becomes a placeholder."""
    node, operations = concrete._converter_ctx.node, concrete.graph.op
    num_before, source = len(operations), source_line(node)
    try:
        result = convert()
    except Exception as error:  # whatever a converter raises means that it cannot lower this node
        notes.unsupported.append(UnsupportedOp(str(node.target), source, reason_of(error)))
        result = _placeholder(str(node.target), meta_outputs)
    for operation in operations[num_before:]:
        notes.sources[operation.name] = source
        if operation.type.startswith("Hcom"):
            notes.collectives.append(Collective(operation.type, num_bytes(meta_outputs)))
    return result


def _placeholder(name: str, meta_outputs: Nest) -> Torchair:
    """A node without inputs in place of an operation torchair cannot lower, so that the others are tried."""
    from torchair._ge_concrete_graph.compat_ir import ge_op  # pyright: ignore[reportMissingImports]
    from torchair._ge_concrete_graph.fx2ge_converter import set_ge_outputs  # pyright: ignore[reportMissingImports]

    if isinstance(meta_outputs, Tensor):
        result = ge_op(name, inputs=None, outputs=["y"])
    elif isinstance(meta_outputs, (tuple, list)):
        names = [f"y{i}" for i in range(len(meta_outputs))]
        result = ge_op(name, inputs=None, outputs=names)
        result = list(result) if len(names) > 1 else [result]
    else:
        return None
    set_ge_outputs(result, meta_outputs)
    return result


def num_bytes(tensors: Nest) -> int:
    """Bytes of all tensors in a nest of tuples and lists."""
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(tensors) if isinstance(t, Tensor))
