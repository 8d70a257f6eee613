"""What the graph engine would do with a graph, by the published tables: kernels, types, memory formats, a bound."""

from collections import Counter
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from ssd_graph.npu.capture import SOC_NAMES, capture
from ssd_graph.npu.engine.bound import BANDWIDTH, MATRIX_FLOPS, bound
from ssd_graph.npu.engine.facts import shipped_facts
from ssd_graph.npu.engine.formats import BLOCKED, WEIGHTS, padded_bytes, propagate
from ssd_graph.npu.engine.graph import TypedGraph

SOCS = tuple(SOC_NAMES)


def network(levels, weight):
    """Some of each kind that the step has: a flip, convolutions, a pooling, a remainder, a sort."""
    x = F.conv2d(levels.half().flip(3), weight, padding=1).relu()
    x = F.max_pool2d(x, 2)
    places = (x.int() + 3) % 7
    ranked = x.float().flatten(1).sort(1, descending=True).values
    return ranked - places.float().flatten(1), x.flatten(1) - x.flatten(1).mean(1, keepdim=True)


ARGUMENTS = (torch.zeros(2, 16, 8, 8, dtype=torch.uint8), torch.zeros(32, 16, 3, 3, dtype=torch.float16))


def indexed(x, index):
    """A concatenation of slices, the elements that an index names, and maxima."""
    return torch.cat([x.half().float()[:, 1:3], x[:, :2]], 1).gather(1, index), x.max(1).values


INDEXED = (indexed, (torch.zeros(4, 6), torch.zeros(4, 3, dtype=torch.int64)))


@cache
def captured(function=network, arguments=ARGUMENTS):
    ((graph,), breaks) = capture(function, arguments, SOCS, runner=lambda graph, inputs: graph.module(*inputs))
    assert not breaks
    return graph


def definition(soc, plant=lambda graph: None, function=network, arguments=ARGUMENTS):
    """The GE graph, with something planted in it."""
    source = captured(function, arguments).ge[soc].concrete.graph._proto
    copy = type(source)()
    copy.CopyFrom(source)
    plant(copy)
    return copy


def typed(soc, *how):
    return TypedGraph(definition(soc, *how), soc, shipped_facts(), {})


def first(graph, kind, number=0):
    return [node for node in graph.op if node.type == kind][number]


@pytest.mark.parametrize("soc", SOCS)
def test_the_engine_infers_the_types_that_torch_computes(soc):
    graph = typed(soc)
    results = [graph.type_of(source) for source in first(definition(soc), "NetOutput").input]
    assert results == ["float32", "float16"]
    kinds = {node.type: graph.types[node.name] for node in graph.nodes}
    assert kinds["Sort"] == ["float32", "int32"]
    assert kinds["FloorMod"] == ["int32"]
    assert kinds["ReverseV2"] == ["float16"]


def test_a_range_of_two_types_is_float32_and_runs():
    """GE folds it only where start, end and step have one type."""

    def mixed(graph):
        constant = next(n for n in graph.op if n.name == first(graph, "Range").input[2].rpartition(":")[0])
        description = constant.attr["value"].t.desc
        names = description.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name
        description.dtype = names["DT_INT32"].number

    def count(x):
        return x + torch.arange(0, 5, 1)

    arguments = (torch.zeros(5, dtype=torch.int64),)
    plain = typed("a2", lambda graph: None, count, arguments)
    assert "Range" not in {node.type for node in plain.tasks()}
    graph = typed("a2", mixed, count, arguments)
    (node,) = (node for node in graph.nodes if node.type == "Range")
    assert graph.input_types(node) == ["int64", "int64", "int32"]
    assert graph.types[node.name] == ["float32"]


def test_tasks_are_what_the_device_is_given():
    """Neither shapes, constants, conversions of a type to itself nor what nobody reads."""

    def function(x):
        unread = x * 3.0  # noqa: F841
        return (x.float().reshape(-1) + torch.ones(3, dtype=torch.float32) * 2.0).relu()

    graph = typed("a2", lambda graph: None, function, (torch.zeros(3),))
    assert Counter(node.type for node in graph.tasks()) == {"Add": 1, "Relu": 1}


def test_blocks_are_filled_up():
    assert padded_bytes((2, 3, 5, 7), 2, BLOCKED) == 2 * 16 * 5 * 7 * 2
    assert padded_bytes((2, 3, 5, 7), 4, BLOCKED) == 2 * 8 * 5 * 7 * 4
    assert padded_bytes((340, 3, 3, 3), 2, WEIGHTS) == 352 * 16 * 9 * 2
    assert padded_bytes((3,), 4, BLOCKED) == 8 * 4
    assert padded_bytes((2, 3, 5, 7), 2, "ND") == 2 * 3 * 5 * 7 * 2


def test_conversions_stand_before_the_convolution_and_behind_what_takes_any_format():
    graph = typed("a2")
    formats = propagate(graph)
    found = {(graph.producer(c.result).type, c.format): c.num_bytes for c in formats.conversions.values()}
    images, weight, pooled = 2 * 16 * 8 * 8 * 2, 32 * 16 * 9 * 2, 2 * 32 * 4 * 4 * 2
    assert found == {
        ("ReverseV2", BLOCKED): 2 * images,
        ("Data", WEIGHTS): 2 * weight,
        ("MaxPoolWithArgmaxV1", "ND"): 2 * pooled,  # flattened twice, converted once
        ("Cast", "ND"): 2 * 2 * pooled,  # the same in float32, and the remainders
    }
    assert not propagate(typed("950")).conversions


def test_the_bound_is_the_sum_of_the_longer_of_bytes_and_multiplications():
    def convolve(x, weight):
        return F.conv2d(x, weight, padding=1).relu()

    arguments = (torch.zeros(4, 32, 8, 8, dtype=torch.float16), torch.zeros(64, 32, 3, 3, dtype=torch.float16))
    graph = typed("a2", lambda graph: None, convolve, arguments)
    found = bound(graph, propagate(graph))
    x, weight, y = 4 * 32 * 64 * 2, 64 * 32 * 9 * 2, 4 * 64 * 64 * 2
    assert found.flops == 2 * (4 * 64 * 64) * (32 * 9)
    assert found.num_bytes == {"Conv2D": x + weight + y, "Relu": 2 * y, "TransData": 2 * x + 2 * weight + 2 * y}
    convolution = max((x + weight + y) / BANDWIDTH, found.flops / MATRIX_FLOPS)
    assert found.total_seconds == pytest.approx(convolution + (2 * y + 2 * (x + weight + y)) / BANDWIDTH)
    assert bound(typed("950"), propagate(typed("950"))) is None
    in_float32 = typed("a2", lambda graph: None, convolve, tuple(x.float() for x in arguments))
    assert bound(in_float32, propagate(in_float32)) is None
