"""Holds a GE graph against facts: what the engine would refuse, cast, rewrite, or run on the AI CPU."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ssd_graph.npu.engine.declaration import by_declaration, faults, undeclared
from ssd_graph.npu.engine.facts import Kernel, Operator
from ssd_graph.npu.engine.graph import TypedGraph, data_inputs, itemsize
from ssd_graph.npu.node import Node

Verdict = Literal["refused", "lossy", "ai_cpu", "experimental", "undeclared", "casts", "rewritten"]

VERDICTS: Mapping[Verdict, str] = {
    "refused": "the graph would not compile, or the tables do not know the operator",
    "lossy": "the engine inserts conversions of type that lose values",
    "ai_cpu": "runs on the NPU's host processor, slowly",
    "experimental": "declared experimental or deprecated",
    "undeclared": "an attribute or type that the declaration does not have, or not in CANN 8.1",
    "casts": "the engine inserts conversions of type that keep values",
    "rewritten": "the engine puts another operator in its place, or none",
}
"""What each means."""

_RAISED = ("float16", "bfloat16")
"""Types that the engine raises to float32 where a kernel has no column for them."""

_WIDER = ("bool", "int", "float")
"""What a type's name holds: each keeps the values of those before it; complex numbers have another name."""


class Finding(NamedTuple):
    """What would become of a node."""

    verdict: Verdict
    kind: str
    what: str
    source: str
    """`folder/file.py:line`."""


def check(graph: TypedGraph) -> Counter[Finding]:
    """How often each thing would happen."""
    found = Counter[Finding]()
    if not any(node.type == "NetOutput" for node in graph.nodes):
        found[Finding("refused", "NetOutput", "the graph has none", "inputs and outputs")] = 1
    numbers = [Node(node, graph.soc).integer("index", 0) for node in graph.nodes if node.type == "Data"]
    if sorted(numbers) != list(range(len(numbers))):
        found[Finding("refused", "Data", f"their numbers are {sorted(numbers)}", "inputs and outputs")] = 1
    for node in graph.nodes:
        if node.name in graph.live:
            source = graph.source(node)
            found.update(Finding(verdict, node.type, what, source) for verdict, what in _verdicts(node, graph))
    return found


def _verdicts(node: Any, graph: TypedGraph) -> Iterator[tuple[Verdict, str]]:
    """Of one node, by the declaration and then by the kernels."""
    operator = graph.facts.get(node.type)
    if operator is None:
        yield "refused", "not in the table"
        return
    for fault in faults(node, graph, operator):
        yield "refused", fault
    for what in undeclared(node, graph, operator):
        yield "undeclared", what
    if operator.experimental or operator.deprecated:
        yield "experimental", "experimental" if operator.experimental else "deprecated"
    kernel = operator.kernel(graph.soc)
    given = [(types or [None])[0] for types in by_declaration(graph.input_types(node), operator.inputs)]
    unknown = _unknown_indices(node, graph, operator) if kernel.engine.startswith("removed by ConstToAttr") else []
    if unknown:
        yield _without_kernel(f"{', '.join(unknown)} not constant", given, kernel)
    elif kernel.engine.startswith("removed"):
        yield "rewritten", f"{kernel.engine.removeprefix('removed by ')} replaces it by {kernel.kernel or 'another'}"
    if kernel.engine == "none":
        yield _without_kernel("no kernel on this SoC", given, kernel)
    elif graph.is_no_cast(node):
        yield "rewritten", "a Cast of a type to itself is removed"
    elif kernel.dtypes and node.name not in graph.constant:
        yield from _kernel_verdicts(node, graph, operator, given)


def _unknown_indices(node: Any, graph: TypedGraph, operator: Operator) -> list[str]:
    """Indices, axes and the like that the engine cannot compute while it compiles."""
    inputs = zip(operator.inputs, by_declaration(data_inputs(node), operator.inputs), strict=True)
    return [
        parameter.name
        for parameter, own in inputs
        if parameter.types == "index" and any(s and s.rpartition(":")[0] not in graph.constant for s in own)
    ]


def _kernel_verdicts(
    node: Any, graph: TypedGraph, operator: Operator, given: Sequence[str | None]
) -> Iterator[tuple[Verdict, str]]:
    """A kernel takes a node if each input and output has a type of its list, or one that can be raised to float32."""
    kernel, inputs, outputs = operator.kernel(graph.soc), [p.name for p in operator.inputs], operator.outputs
    order = [inputs.index(name) for name in kernel.order or inputs]
    sources = [(own or [""])[0] for own in by_declaration(data_inputs(node), operator.inputs)]
    names = [*(inputs[i] for i in order), *(p.name for p in outputs)]
    results = [(types or [None])[0] for types in by_declaration(graph.types[node.name], outputs)]
    types = [*(given[i] for i in order), *results]
    columns = kernel.dtypes
    unfit = [
        f"{n} {t}" for i, (n, t) in enumerate(zip(names, types, strict=True)) if not _fits(t, {c[i] for c in columns})
    ]
    reason = f"no column takes {', '.join(unfit)}" if unfit else _own_refusal(node, graph, kernel)
    if reason:
        yield _without_kernel(reason, types[: len(order)], kernel)
        return
    column = _column(types, columns, [*(int(_is_constant(sources[i], graph)) for i in order), *(2 for _ in outputs)])
    if node.type == "MaxPoolWithArgmaxV1":  # of its two columns for 16 bits and 32 the engine may take either
        column = [types[i] if name == "argmax" else column[i] for i, name in enumerate(names)]
    known = [*(sources[i].rpartition(":")[0] in graph.constant for i in order), *(False for _ in outputs)]
    casts: defaultdict[Verdict, list[str]] = defaultdict(list)
    for name, a, b, constant in zip(names, types, column, known, strict=True):
        if a and b and a != b:
            casts["lossy" if _loses(a, b, constant) else "casts"].append(f"{name} {a} to {b}")
    for verdict, found in casts.items():
        yield verdict, ", ".join(found)


def _loses(given: str, taken: str, constant: bool) -> bool:
    """Whether a Cast may turn numbers into others; a constant may be written with other bits of the same kind."""
    before, after = (next((i for i, k in enumerate(_WIDER) if k in name), len(_WIDER)) for name in (given, taken))
    return before > after or (before == after and not constant and itemsize(given) >= itemsize(taken))


def _without_kernel(reason: str, inputs: Sequence[str | None], kernel: Kernel) -> tuple[Verdict, str]:
    """The AI CPU takes what the AI Core does not, if it has a kernel for these types."""
    cpu = kernel.cpu
    if cpu is None or any(t and listed and t not in listed for t, listed in zip(inputs, cpu.inputs, strict=False)):
        return "refused", reason
    return "ai_cpu", f"{reason}; {cpu.library}"


def _is_constant(source: str, graph: TypedGraph) -> bool:
    return graph.has(source) and graph.producer(source).type == "Const"


def _fits(actual: str | None, listed: set[str | None]) -> bool:
    return actual is None or listed == {None} or actual in listed or (actual in _RAISED and "float32" in listed)


def _column(
    types: Sequence[str | None], columns: Sequence[Sequence[str | None]], rank: Sequence[int]
) -> Sequence[str | None]:
    """The column that the engine takes.

    Inputs that are not constant choose first (rank 0), then constants, then outputs; each leaves the columns of its
    type, or those of float32 in its place, or is passed over if there are none.
    """
    left = list(columns)
    for i in sorted(range(len(types)), key=rank.__getitem__):
        if types[i] is None:
            continue
        exact = [c for c in left if c[i] == types[i]]
        if not exact and types[i] in _RAISED:
            exact = [c for c in left if c[i] == "float32"]
        left = exact or left
    return left[0]


def _own_refusal(node: Any, graph: TypedGraph, kernel: Kernel) -> str | None:
    """What a kernel of Atlas A2 asks beyond types, or None."""
    kind, first = node.type, next(iter(graph.input_types(node)), None)
    if graph.soc != "a2" or first is None:
        return None
    if kind == "FloorMod" and first == "float32":
        return "float32 in the mode high_precision, which torchair sets"
    if kind == "Cast":
        result = graph.types[node.name][0]
        if result not in kernel.pairs.get("int8" if first == "bool" else first, ()):
            return f"{first} to {result} is no pair of the kernel"
    if kind == "Sort" and (graph.shape_of(f"{node.name}:0") or [0])[-1] == 1:
        return "a sorted axis of length 1"
    if kind == "GatherElements":
        return _gather_refusal(node, graph)
    return None


def _gather_refusal(node: Any, graph: TypedGraph) -> str | None:
    """The kernel takes small tensors, few indices, or the last axis."""
    sources = [*data_inputs(node), "", ""]
    x, indices = (graph.shape_of(source) for source in sources[:2])
    if x is None or indices is None or Node(node, graph.soc).integer("dim", 0) in (-1, len(x) - 1):
        return None
    num_bytes, count = graph.bytes_of(sources[0]), math.prod(indices)
    if num_bytes >= 3000 * 1024 and count >= 2048:
        return f"{count} indices into {num_bytes} bytes"
    return None
