"""A GE graph with the types that the engine infers: torchair describes most intermediate results as float32."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ssd_graph.npu.capture import Soc
from ssd_graph.npu.engine.facts import Facts, Kernel, Operator
from ssd_graph.npu.node import DTYPES, described_dtype

_PROMOTION = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("bfloat16", "float16", "float32", "float64"),
)
_SAME_KIND = {"Add", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "FloorMod", "AxpyV2", "Sxpy"}
_COMPARISONS = {"Equal", "Greater", "Less", "LogicalNot"}


class TypedGraph:
    """The nodes of one GE graph for one SoC in topological order, with the type and shape of every result."""

    def __init__(self, definition: Any, soc: Soc, facts: Facts, sources: Mapping[str, str]) -> None:
        """Infer all types.

        Args:
            definition: torchair's protobuf GraphDef, or its wrapper.
            sources: `folder/file.py:line` by the name of a node.
        """
        self.soc: Soc = soc
        self.facts, self.sources = facts, sources
        self.nodes: list[Any] = list(definition.op)
        self.by_name: dict[str, Any] = {node.name: node for node in self.nodes}
        self.types: dict[str, list[str | None]] = {}
        for node in self.nodes:
            self.types[node.name] = _infer(node, self.input_types(node), facts.get(node.type))
        self.live = self._live()
        self.constant = self._constant()

    def input_types(self, node: Any) -> list[str | None]:
        """None for an input that is not there."""
        return [self.type_of(source) for source in data_inputs(node)]

    def type_of(self, source: str) -> str | None:
        """Of a result, `name:index`; None if there is no such result."""
        types, index = self.types.get(_node_of(source), ()), _index_of(source)
        return types[index] if 0 <= index < len(types) else None

    def has(self, source: str) -> bool:
        """Whether `name:index` is a result of this graph."""
        node = self.producer(source)
        return node is not None and 0 <= _index_of(source) < len(node.output_desc)

    def shape_of(self, source: str) -> list[int] | None:
        """Of a result, as torchair describes it; None if it does not, or if there is no such result."""
        if not self.has(source):
            return None
        node = self.producer(source)
        if node.type == "Const":
            return list(node.attr["value"].t.desc.shape.dim) if "value" in node.attr else None
        if node.type == "Conv2DBackpropFilter":  # torchair describes what a view makes of it; input 1 is Shape(weight)
            size = self.producer([*node.input, "", ""][1])
            return self.shape_of(next(iter(size.input), "")) if size is not None else None
        found = re.search(r"Size\(\[([^]]*)\]", node.output_desc[_index_of(source)].attr["_meta"].s.decode())
        return None if found is None else [int(n) for n in found.group(1).split(",") if n.strip()]

    def bytes_of(self, source: str) -> int:
        """Of a result, without padding."""
        shape = self.shape_of(source)
        return 0 if shape is None else math.prod(shape) * itemsize(self.type_of(source))

    def producer(self, source: str) -> Any:
        """The node that makes a result, or None."""
        return self.by_name.get(_node_of(source))

    def source(self, node: Any) -> str:
        """The line of Python that asked for a node."""
        return self.sources.get(node.name, "inputs and outputs")

    def kernel(self, node: Any) -> Kernel | None:
        """What runs a node; None if the facts do not know its kind."""
        return self.facts[node.type].kernel(self.soc) if node.type in self.facts else None

    def tasks(self) -> Iterator[Any]:
        """Nodes that become a task of the device, before the engine fuses any.

        All but those that it prunes, computes while it compiles, removes (a Cast of a type to itself) or leaves to the
        host (inputs, outputs, changes of shape).
        """
        for node in self.nodes:
            kernel = self.kernel(node)
            on_host = kernel is not None and kernel.engine == "host"
            if node.name in self.live and node.name not in self.constant and not on_host and not self.is_no_cast(node):
                yield node

    def is_no_cast(self, node: Any) -> bool:
        """Whether a node is a Cast of a type to itself."""
        return node.type == "Cast" and self.input_types(node) == self.types[node.name]

    def _live(self) -> set[str]:
        """Nodes that an output depends on or waits for; the engine prunes the others (PrunePass), if it has outputs."""
        found: set[str] = set()
        todo = [node.name for node in self.nodes if node.type == "NetOutput"] or list(self.by_name)
        while todo:
            name = todo.pop()
            if name in self.by_name and name not in found:
                found.add(name)
                todo += map(_node_of, self.by_name[name].input)
        return found

    def _constant(self) -> set[str]:
        """Nodes that depend on constants only, which the engine computes while it compiles (ConstantFoldingPass)."""
        found: set[str] = set()
        for node in self.nodes:
            sources = [_node_of(source) for source in data_inputs(node) if source]
            folds = bool(sources) and node.type != "NetOutput" and self.types[node.name] != ["bfloat16"]  # FillKernel
            # All shapes are static.
            if node.type in ("Const", "Shape") or (folds and found.issuperset(sources)):
                found.add(node.name)
        return found


def _node_of(source: str) -> str:
    """The name in `name:index`."""
    return source.rpartition(":")[0]


def _index_of(source: str) -> int:
    """The index in `name:index`, or -1."""
    index = source.rpartition(":")[2]
    return int(index) if index.isdecimal() else -1


def itemsize(name: str | None) -> int:
    """Bytes of an element."""
    return getattr(torch, name or "float32").itemsize


def data_inputs(node: Any) -> list[str]:
    """Without control edges."""
    return [source for source in node.input if not source.endswith(":-1")]


def _infer(node: Any, inputs: Sequence[str | None], operator: Operator | None) -> list[str | None]:
    """Types of a node's results, after GE's InferDataType where it is public and its declaration elsewhere."""
    count, inputs = len(node.output_desc), [*inputs, *[None] * 5]  # a node may lack some
    if node.type in _INFERRED:
        return _INFERRED[node.type](node, inputs)
    declared = [output.types for output in operator.outputs] if operator else []
    if len(declared) == count:  # an output of one type has it; any other has the first input's
        return [types[0] if len(types) == 1 else inputs[0] for types in declared]
    return [inputs[0]] * count


def _promoted(types: Sequence[str | None]) -> str | None:
    known = [t for t in types if t]
    return "float32" if {"float16", "bfloat16"} <= set(known) else max(known, key=_PROMOTION.index, default=None)


def _attribute_type(node: Any, name: str, default: int) -> str | None:
    return _name_of(DTYPES.get(node.attr[name].i if name in node.attr else default))


def _name_of(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


_INFERRED: Mapping[str, Callable[[Any, list[str | None]], list[str | None]]] = {
    "Const": lambda node, _: [_name_of(described_dtype(node.attr["value"].t.desc)) if "value" in node.attr else None],
    "Data": lambda node, _: [_name_of(described_dtype(node.output_desc[0]))],
    "Cast": lambda node, _: [_attribute_type(node, "dst_type", 0)],
    **dict.fromkeys(_COMPARISONS, lambda node, _: ["bool"]),
    **dict.fromkeys(_SAME_KIND, lambda node, inputs: [_promoted(inputs)]),
    "SelectV2": lambda node, inputs: [_promoted(inputs[1:])],
    "Fill": lambda node, inputs: [inputs[1]],
    "Shape": lambda node, _: [_attribute_type(node, "dtype", 3)],
    "Range": lambda node, inputs: [inputs[0] if len(set(inputs[:3])) == 1 else "float32"],
    "ArgMaxWithValue": lambda node, inputs: [_attribute_type(node, "indice_dtype", 3), inputs[0]],
    "Sort": lambda node, inputs: [inputs[0], _attribute_type(node, "y2_dtype", 3)],
    "MaxPoolWithArgmaxV1": lambda node, inputs: [inputs[0], "uint16"],  # taken for granted: not public
    "MaxPoolWithArgmaxV3": lambda node, inputs: [inputs[0], _attribute_type(node, "dtype", 3)],
    "BatchNormV3": lambda node, inputs: [inputs[0], inputs[3], inputs[4], "float32", "float32"],
    "BatchNormGradV3": lambda node, inputs: [inputs[0], inputs[2], inputs[2]],
    "Conv2DBackpropInput": lambda node, inputs: [inputs[1]],
}
"""What GE's InferDataType gives of a node and its inputs' types, by kind."""
