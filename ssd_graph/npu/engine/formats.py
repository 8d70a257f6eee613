"""Memory formats: Atlas A2 convolves in NC1HWC0 with weights in FRACTAL_Z, and converts where neighbours differ.

NC1HWC0 cuts channels into blocks of 32 bytes (C0 numbers), the last of which is filled up; a convolution's weights in
FRACTAL_Z are cut in the same way, by 16 outputs. A conversion (TransData) reads a tensor once and writes it once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ssd_graph.npu.engine.graph import TypedGraph, data_inputs, itemsize

PLAIN = "ND"
"""The format of the graph, which NCHW is too."""

BLOCKED = "NC1HWC0"
WEIGHTS = "FRACTAL_Z"
_BLOCK_BYTES = 32
_CUBE = 16


class Conversion(NamedTuple):
    """A TransData that the engine inserts."""

    result: str
    """`name:index` of what is converted."""
    format: str
    """To this one."""
    num_bytes: int
    """Read and written."""
    source: str
    """`folder/file.py:line` of the reader."""


@dataclass(slots=True)
class Formats:
    """Of every result of a graph, and the conversions between them."""

    of: dict[str, str] = field(default_factory=dict)
    """By `name:index`."""
    read: dict[str, list[str]] = field(default_factory=dict)
    """Those of a node's inputs as its kernel reads them."""
    conversions: dict[tuple[str, str], Conversion] = field(default_factory=dict)
    """By result and format: readers share one."""


def propagate(graph: TypedGraph) -> Formats:
    """Give each result the format that its kernel writes, forwards from the inputs.

    A kernel with several columns takes the one whose inputs need the fewest bytes converted. One that takes any
    format takes that of its first input of more than one number that is not plain. Ascend 950 has no blocked
    kernels in its tables, so nothing is converted there.
    """
    formats = Formats()
    for node in graph.nodes:
        if node.name not in graph.live:
            continue
        inputs = data_inputs(node)
        have = [formats.of.get(source, PLAIN) for source in inputs]
        wanted, written = _choice(node, inputs, have, graph)
        for source, old, new in zip(inputs, have, wanted, strict=True):
            if source and old != new and (source, new) not in formats.conversions:
                shape = graph.shape_of(source) or []
                size = itemsize(graph.type_of(source))
                moved = padded_bytes(shape, size, old) + padded_bytes(shape, size, new)
                formats.conversions[source, new] = Conversion(source, new, moved, graph.source(node))
        formats.read[node.name] = wanted
        formats.of |= {f"{node.name}:{i}": f for i, f in enumerate(written)}
    return formats


def padded_bytes(shape: Sequence[int], itemsize: int, format: str) -> int:
    """Of a tensor with its blocks filled up; one number a channel is [C]."""
    if format == PLAIN or not shape:
        return math.prod(shape) * itemsize
    block = _BLOCK_BYTES // itemsize
    if format == WEIGHTS:
        outputs, inputs, *window = shape
        return _up(outputs, _CUBE) * _up(inputs, block) * math.prod(window) * itemsize
    if len(shape) == 1:
        return _up(shape[0], block) * itemsize
    images, channels, *plane = shape
    return images * _up(channels, block) * math.prod(plane) * itemsize


def _choice(node: Any, inputs: Sequence[str], have: Sequence[str], graph: TypedGraph) -> tuple[list[str], list[str]]:
    """Formats that a node's kernel reads and writes."""
    num_outputs = len(node.output_desc)
    plain = [PLAIN] * len(inputs), [PLAIN] * num_outputs
    kernel = graph.kernel(node)
    if kernel is None or not kernel.formats:
        return plain
    if kernel.formats != "any":

        def bytes_converted(column: Sequence[str]) -> int:
            differ = (s for s, old, new in zip(inputs, have, column, strict=False) if s and old != new)
            return sum(graph.bytes_of(source) for source in differ)

        columns = [tuple(PLAIN if f == "NCHW" else f for f in column) for column in kernel.formats]
        best = min(columns, key=bytes_converted)
        return list(best[: len(inputs)]), list(best[-num_outputs:])
    whole = graph.shape_of(f"{node.name}:0")
    blocked = [f for s, f in zip(inputs, have, strict=True) if f != PLAIN and graph.shape_of(s) == whole]
    if not blocked:
        return plain
    # Scalars and what is broadcast stay as they are.
    read = [blocked[0] if s and graph.shape_of(s) == whole else f for s, f in zip(inputs, have, strict=True)]
    return read, [blocked[0]] * num_outputs


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
