"""Executes a captured GE graph on the CPU, one GE operator at a time.

Lowering shows that torchair makes a graph of the step; replay shows that the graph computes the step. It knows what
each operator means (operators.py, layers.py), not how a device computes it: rounding, order of summation and speed
are the CPU's.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ssd_graph.npu.capture import CapturedGraph, Runner, Soc
from ssd_graph.npu.layers import LAYERS
from ssd_graph.npu.node import AllReduce, Node, UnknownOperator
from ssd_graph.npu.operators import OPERATORS

KNOWN = {**OPERATORS, **LAYERS}
"""What replay can execute, besides the graph's inputs and outputs (Data, NetOutput)."""


def replay(soc: Soc, all_reduce: AllReduce | None = None) -> Runner:
    """A Runner for `capture` that executes the graph made for `soc`, which has to be one of the captured.

    Args:
        all_reduce: sums a tensor over the ranks; None takes every other rank for a copy of this one.
    """

    def run(graph: CapturedGraph, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        concrete = graph.ge[soc].concrete
        # torchair leaves inputs without use out of its graph.
        positions = [info.func.fx_input_idx for info in concrete._input_info_list]
        ge_inputs = [inputs[position].contiguous() for position in positions]
        outputs = replay_outputs(concrete.graph, ge_inputs, soc, all_reduce)
        for output, target in concrete._graph_output_ref_input.items():
            inputs[positions[target]].copy_(outputs[output])
        mapping = concrete._fx_outputs_mapping
        assert sorted(mapping) == list(range(len(concrete._fx_outputs))), "an output that GE does not compute"
        return tuple(outputs[mapping[i]] for i in range(len(mapping)))

    return run


def replay_outputs(graph: Any, inputs: Sequence[Tensor], soc: Soc, all_reduce: AllReduce | None = None) -> list[Tensor]:
    """The outputs of a GE graph, none of which shares memory with an input.

    Args:
        graph: torchair's protobuf GraphDef, or its wrapper.
        inputs: by the attribute `index` of the graph's Data nodes. A graph that overwrites a piece of one without
            copying it first overwrites the input, as it would on a device.

    Raises:
        UnknownOperator: the graph holds a kind of node, or a use of one, that has no definition here.
    """
    values: dict[str, Tensor | None] = {}
    uses_left = Counter(source for operation in graph.op for source in operation.input)
    for operation in graph.op:
        sources = [source for source in operation.input if not source.endswith(":-1")]  # else control edges
        arguments = [values[source] if source else None for source in sources]
        if operation.type == "NetOutput":
            return [_output(argument, source).clone() for argument, source in zip(arguments, sources, strict=True)]
        node = Node(operation, soc, all_reduce)
        if operation.type not in ("Data", *KNOWN):
            raise UnknownOperator(f"replay does not know {node}")
        results = inputs[node.integer("index")] if operation.type == "Data" else KNOWN[operation.type](node, *arguments)
        for i, result in enumerate(results if isinstance(results, tuple) else (results,)):
            values[f"{operation.name}:{i}"] = result
        uses_left.subtract(sources)
        for source in sources:  # or a step would hold several times its memory
            if uses_left[source] == 0:
                values.pop(source, None)
    raise UnknownOperator("the graph has no NetOutput")


def _output(value: Tensor | None, name: str) -> Tensor:
    assert value is not None, f"{name} has no value"
    return value
