"""What of a node contradicts the declaration of its operator: attributes, inputs, outputs; shapes are in shapes.py."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ssd_graph.npu.engine.facts import Attribute, Operator, Parameter
from ssd_graph.npu.engine.graph import TypedGraph, data_inputs
from ssd_graph.npu.engine.shapes import shape_faults
from ssd_graph.npu.node import Node

T = TypeVar("T")

_FIELDS = {"Int": "i", "Float": "f", "Bool": "b", "String": "s", "Tensor": "t", "Type": "i", "ListInt": "list"}
"""Where the protobuf keeps an attribute, by its declared kind; kernel tables know more kinds."""

_TORCHAIRS_OWN = ("input_layout_info", "output_layout_info")


def faults(node: Any, graph: TypedGraph, operator: Operator) -> Iterator[str]:
    """What the engine would refuse."""
    yield from _attribute_faults(node, operator)
    if node.type != "Data":  # which the engine feeds
        yield from _input_faults(node, graph, operator)
    yield from _output_faults(node, graph, operator)
    yield from shape_faults(node, graph)


def undeclared(node: Any, graph: TypedGraph, operator: Operator) -> Iterator[str]:
    """Attributes and types that the declaration does not have, or not in CANN 8.1."""
    known, older = operator.attributes, operator.attributes_of_81
    for name in node.attr if known or operator.inputs else ():
        if name.startswith("_") or name in _TORCHAIRS_OWN:
            continue
        if name not in known:
            yield f"attribute {name}"
        elif older is not None and name not in older:
            yield f"attribute {name} in CANN 8.1"
    types = by_declaration(graph.input_types(node), operator.inputs)
    inputs = () if node.type == "Data" else zip(operator.inputs, types, strict=True)
    outputs = zip(operator.outputs, by_declaration(graph.types[node.name], operator.outputs), strict=True)
    for parameter, types in (*inputs, *outputs):
        if parameter.name not in operator.enforced and (unknown := _unknown(parameter, types)):
            yield unknown


def by_declaration(given: Sequence[T], declared: Sequence[Parameter]) -> list[Sequence[T]]:
    """Those of each declared parameter: a dynamic one takes what the others leave over."""
    result: list[Sequence[T]] = []
    at = 0
    for parameter in declared:
        count = max(0, 1 + len(given) - len(declared)) if parameter.need == "dynamic" else 1
        result.append(given[at : at + count])
        at += count
    return result


def _unknown(parameter: Parameter, types: Sequence[str | None]) -> str | None:
    unknown = sorted({t for t in types if t and isinstance(parameter.types, tuple) and t not in parameter.types})
    return f"{parameter.name} {', '.join(unknown)}" if unknown else None


def _attribute_faults(node: Any, operator: Operator) -> Iterator[str]:
    for name, attribute in operator.attributes.items():
        if name not in node.attr:
            if attribute.default == "required":
                yield f"attribute {name} is missing"
        elif fault := _fault(node.attr[name], attribute):
            yield f"attribute {name} {fault}"


def _fault(value: Any, attribute: Attribute) -> str | None:
    field = _FIELDS.get(attribute.kind)
    if field is None:
        return None
    others = field == "list" and (value.list.f or value.list.s or value.list.b)
    if value.WhichOneof("value") != field or others:
        return f"has another type than {attribute.kind}"
    numbers = list(value.list.i) if field == "list" else [value.i]
    if attribute.length not in (None, len(numbers)):
        return f"has {len(numbers)} numbers instead of {attribute.length}"
    if attribute.least is not None and min(numbers, default=attribute.least) < attribute.least:
        return f"is {min(numbers)}, and {attribute.least} is the least"
    given = value.s.decode(errors="replace") if field == "s" else str(value.i)
    if attribute.choices and given not in attribute.choices:
        return f"is none of {', '.join(attribute.choices)}"
    return None


def _input_faults(node: Any, graph: TypedGraph, operator: Operator) -> Iterator[str]:
    sources, declared = data_inputs(node), operator.inputs
    for source in sources:
        if source and not graph.has(source):
            yield f"{source} is no result of this graph"
    dynamic = any(parameter.need == "dynamic" for parameter in declared)
    if not dynamic and len(sources) > len(declared):
        yield f"{len(sources)} inputs instead of {len(declared)}"
    for parameter, own in zip(declared, by_declaration(sources, declared), strict=True):
        types = [graph.type_of(source) for source in own]
        known = sorted({t for t in types if t})
        if parameter.need != "optional" and (not own or "" in own):
            yield f"input {parameter.name} is missing"
        if len(known) > 1 and parameter.types != "all":
            yield f"{parameter.name} has types {', '.join(known)}"
        if parameter.name in operator.enforced and (unknown := _unknown(parameter, types)):
            yield unknown
        if parameter.need == "dynamic" and "N" in operator.attributes:
            number = Node(node, graph.soc).integer("N", 1)
            if number != len(own):
                yield f"attribute N is {number}, with {len(own)} tensors of {parameter.name}"


def _output_faults(node: Any, graph: TypedGraph, operator: Operator) -> Iterator[str]:
    declared = operator.outputs
    if any(parameter.need == "dynamic" for parameter in declared):
        number = Node(node, graph.soc).integer("num_split", 0)
        if number != len(node.output_desc):
            yield f"attribute num_split is {number}, with {len(node.output_desc)} outputs"
        return
    if not declared:
        return
    if len(node.output_desc) != len(declared):
        yield f"{len(node.output_desc)} outputs instead of {len(declared)}"
        return
    given = graph.input_types(node)
    if None not in given and len(given) >= sum(p.need == "required" for p in operator.inputs):
        for parameter, actual in zip(declared, graph.types[node.name], strict=True):
            if actual is None:
                yield f"{parameter.name} of a type that GE does not have"
