"""Holds a GE graph against facts: what the engine would refuse, cast, rewrite, or run on the AI CPU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from ssd_graph.npu.engine.facts import Kernel, Operator, Parameter
from ssd_graph.npu.engine.graph import TypedGraph, data_inputs

T = TypeVar("T")

Verdict = Literal["refused", "ai_cpu", "experimental", "undeclared", "casts", "rewritten"]

VERDICTS: Mapping[Verdict, str] = {
    "refused": "no kernel takes it: the graph would not compile",
    "ai_cpu": "runs on the NPU's host processor, slowly",
    "experimental": "declared experimental or deprecated",
    "undeclared": "an attribute or type that the declaration does not have, or not in CANN 8.1",
    "casts": "the engine inserts conversions of type",
    "rewritten": "the engine puts another operator in its place, or none",
}
"""What each means."""

_FIELDS = {
    "Int": "i",
    "Float": "f",
    "Bool": "b",
    "String": "s",
    "Tensor": "t",
    "Type": "i",
    "ListInt": "list",
    "ListFloat": "list",
}
"""Where the protobuf keeps an attribute, by its declared type."""

_TORCHAIRS_OWN = ("input_layout_info", "output_layout_info")
_RAISED = ("float16", "bfloat16")
"""Types that the engine raises to float32 where a kernel has no column for them."""


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
    given = graph.input_types(node)
    yield from _attribute_verdicts(node, operator)
    if node.type != "Data":  # which the engine feeds
        yield from _input_verdicts(given, operator)
    if operator.experimental or operator.deprecated:
        yield "experimental", "experimental" if operator.experimental else "deprecated"
    kernel = operator.kernel(graph.soc)
    if kernel.engine.startswith("removed"):
        yield "rewritten", kernel.engine + (f" to {kernel.kernel}" if kernel.kernel else "")
    if kernel.engine == "none":
        yield _without_kernel("no kernel on this SoC", given, kernel)
    elif graph.is_no_cast(node):
        yield "rewritten", "a Cast of a type to itself is removed"
    elif kernel.dtypes and node.name not in graph.constant:
        yield from _kernel_verdicts(node, graph, operator, kernel)


def _attribute_verdicts(node: Any, operator: Operator) -> Iterator[tuple[Verdict, str]]:
    for name, (kind, default) in operator.attributes.items():
        if name not in node.attr:
            if default == "required":
                yield "refused", f"attribute {name} is missing"
        elif kind in _FIELDS and node.attr[name].WhichOneof("value") != _FIELDS[kind]:
            yield "refused", f"attribute {name} is no {kind}"
    if not operator.attributes and not operator.inputs:
        return
    for name in node.attr:
        if name.startswith("_") or name in _TORCHAIRS_OWN:
            continue
        if name not in operator.attributes:
            yield "undeclared", f"attribute {name}"
        elif operator.attributes_of_81 is not None and name not in operator.attributes_of_81:
            yield "undeclared", f"attribute {name} in CANN 8.1"


def _input_verdicts(given: Sequence[str | None], operator: Operator) -> Iterator[tuple[Verdict, str]]:
    declared = operator.inputs
    if not declared or any(parameter.need == "dynamic" for parameter in declared):
        return
    if len(given) > len(declared):
        yield "refused", f"{len(given)} inputs instead of {len(declared)}"
    padded = [*given, *[None] * (len(declared) - len(given))]
    for parameter, actual in zip(declared, padded, strict=False):
        if actual is None and parameter.need == "required":
            yield "refused", f"input {parameter.name} is missing"
        if actual is not None and isinstance(parameter.types, tuple) and actual not in parameter.types:
            enforced = parameter.name in operator.enforced
            yield "refused" if enforced else "undeclared", f"{parameter.name} {actual}"


def _kernel_verdicts(node: Any, graph: TypedGraph, operator: Operator, kernel: Kernel) -> Iterator[tuple[Verdict, str]]:
    """A kernel takes a node if each input and output has a type of its list, or one that can be raised to float32."""
    names, outputs = [p.name for p in operator.inputs], [p.name for p in operator.outputs]
    order = [names.index(name) for name in kernel.order or names]
    given = _by_declaration(graph.input_types(node), operator.inputs)
    constant = _by_declaration([_is_constant(source, graph) for source in data_inputs(node)], operator.inputs)
    names = [*(names[i] for i in order), *outputs]
    types = [*(given[i] for i in order), *_by_declaration(graph.types[node.name], operator.outputs)]
    columns = kernel.dtypes
    unfit = [
        f"{n} {t}" for i, (n, t) in enumerate(zip(names, types, strict=True)) if not _fits(t, {c[i] for c in columns})
    ]
    reason = f"no column takes {', '.join(unfit)}" if unfit else _own_refusal(node, graph, kernel)
    if reason:
        yield _without_kernel(reason, types[: len(order)], kernel)
        return
    column = _column(types, columns, [*(int(bool(constant[i])) for i in order), *(2 for _ in outputs)])
    casts = [f"{n} {a} to {b}" for n, a, b in zip(names, types, column, strict=True) if a and b and a != b]
    # Of a pooling's two columns for 16 bits and 32 the engine may take either for its indices.
    if casts and not (node.type == "MaxPoolWithArgmaxV1" and all(cast.startswith("argmax") for cast in casts)):
        yield "casts", ", ".join(casts)


def _without_kernel(reason: str, inputs: Sequence[str | None], kernel: Kernel) -> tuple[Verdict, str]:
    """The AI CPU takes what the AI Core does not, if it has a kernel for these types."""
    cpu = kernel.cpu
    if cpu is None or any(t and listed and t not in listed for t, listed in zip(inputs, cpu.inputs, strict=False)):
        return "refused", reason
    return "ai_cpu", f"{reason}; {cpu.library}"


def _is_constant(source: str, graph: TypedGraph) -> bool:
    return bool(source) and graph.producer(source).type == "Const"


def _by_declaration(given: Sequence[T], declared: Sequence[Parameter]) -> list[T | None]:
    """One value for each declared parameter: a dynamic one takes what the others leave over."""
    result: list[T | None] = []
    at = 0
    for parameter in declared:
        count = 1 + len(given) - len(declared) if parameter.need == "dynamic" else 1
        result.append(given[at] if at < len(given) and count else None)
        at += count
    return result


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
    if graph.soc != "a2":
        return None
    kind, (first, *_) = node.type, [*graph.input_types(node), None]
    if kind == "FloorMod" and first == "float32":
        return "float32 in the mode high_precision, which torchair sets"
    if kind == "Cast":
        result = graph.types[node.name][0]
        if result not in kernel.pairs.get("int8" if first == "bool" else str(first), ()):
            return f"{first} to {result} is no pair of the kernel"
    if kind == "Sort" and (graph.shape_of(f"{node.name}:0") or [0])[-1] == 1:
        return "a sorted axis of length 1"
    if kind == "GatherElements":
        return _gather_refusal(node, graph)
    return None


def _gather_refusal(node: Any, graph: TypedGraph) -> str | None:
    """The kernel takes small tensors, few indices, or the last axis."""
    x, indices = (graph.shape_of(source) for source in data_inputs(node)[:2])
    if x is None or indices is None or node.attr["dim"].i in (-1, len(x) - 1):
        return None
    num_bytes, count = graph.bytes_of(data_inputs(node)[0]), math.prod(indices)
    if num_bytes >= 3000 * 1024 and count >= 2048:
        return f"{count} indices into {num_bytes} bytes"
    return None
