"""How fast a graph could be on an Atlas A2 at best: a bound, and no measurement."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from ssd_graph.npu.engine.formats import Formats, padded_bytes
from ssd_graph.npu.engine.graph import TypedGraph, data_inputs, itemsize

BANDWIDTH = 1.6e12
"""Bytes a second of an Ascend 910B's memory (CANN's guide to migrating operators, its table of A2 and 950)."""

MATRIX_FLOPS = 24 * 1.85e9 * 16**3 * 2
"""Floating-point operations a second in 16 bits: cores, clock and matrix unit of CANN 8.1's Ascend910B1.ini."""

CONVOLUTIONS = {"Conv2D": 1, "Conv2DBackpropInput": 1, "Conv2DBackpropFilter": 2}
"""Kinds, and the input whose type the multiplications have."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Each kernel takes the longer of moving its bytes and of its multiplications, one after the other."""

    seconds: dict[str, float]
    """By kind of node; `TransData` are the conversions of format."""
    num_bytes: dict[str, int]
    """Read and written, by kind."""
    flops: int
    """Of convolutions; a multiply-add counts as two."""

    @property
    def total_seconds(self) -> float:
        """Of all kernels."""
        return sum(self.seconds.values())


def bound(graph: TypedGraph, formats: Formats) -> Bound | None:
    """Of a graph for Atlas A2, before the engine fuses any kernels: which it fuses is not public.

    None if it convolves in float32, whose rate is not public either. The AI CPU's time is unknown and counts as
    nothing, as do collectives.
    """
    convolutions = [node for node in graph.tasks() if node.type in CONVOLUTIONS]
    if graph.soc != "a2" or any(graph.input_types(node)[CONVOLUTIONS[node.type]] == "float32" for node in convolutions):
        return None
    seconds, moved, flops = defaultdict[str, float](float), Counter[str](), 0
    for node in graph.tasks():
        if node.type.startswith("Hcom"):
            continue
        num_bytes, operations = _bytes(node, graph, formats), _flops(node, graph)
        seconds[node.type] += max(num_bytes / BANDWIDTH, operations / MATRIX_FLOPS)
        moved[node.type] += num_bytes
        flops += operations
    moved["TransData"] = sum(conversion.num_bytes for conversion in formats.conversions.values())
    seconds["TransData"] = moved["TransData"] / BANDWIDTH
    return Bound(dict(seconds), dict(moved), flops)


def _bytes(node: Any, graph: TypedGraph, formats: Formats) -> int:
    inputs = zip(data_inputs(node), formats.read[node.name], strict=True)
    outputs = [f"{node.name}:{i}" for i in range(len(node.output_desc))]
    tensors = [*((s, f) for s, f in inputs if s), *((o, formats.of[o]) for o in outputs)]
    return sum(padded_bytes(graph.shape_of(s) or [], itemsize(graph.type_of(s)), f) for s, f in tensors)


def _flops(node: Any, graph: TypedGraph) -> int:
    """Of a convolution or its gradients: all three multiply each output with its window."""
    if node.type not in CONVOLUTIONS:
        return 0
    result, sources = graph.shape_of(f"{node.name}:0") or [], data_inputs(node)
    shapes = [graph.shape_of(source) or [] if source else [] for source in sources]
    output, weight = {
        "Conv2D": (result, shapes[1]),
        "Conv2DBackpropInput": (shapes[2], shapes[1]),
        "Conv2DBackpropFilter": (shapes[2], result),
    }[node.type]
    return 2 * math.prod(output) * math.prod(weight[1:])
