"""What the check against the engine's facts finds: planted faults by name, and kinds of them at every node."""

from collections import Counter

import pytest

from ssd_graph.npu.engine.check import check
from tests.npu.test_engine import ARGUMENTS, INDEXED, SOCS, first, network, typed


def verdicts(soc, *how):
    return Counter((f.verdict, f.kind) for f in check(typed(soc, *how)).elements())


def renamed(old, new):
    return lambda graph: setattr(first(graph, old), "type", new)


def without_attribute(graph):
    del first(graph, "Conv2D").attr["strides"]


def unknown_attribute(graph):
    first(graph, "Conv2D").attr["rounding"].i = 1


def wrong_attribute(graph):
    first(graph, "Conv2D").attr["groups"].s = b"1"


def without_input(graph):
    first(graph, "Conv2D").input[1] = ""


def one_input_more(graph):
    node = first(graph, "Relu")
    node.input.append(node.input[0])


def cast_to(number, reader):
    """Give the first node of a kind its input in another type, by way of the Cast that makes it."""

    def plant(graph):
        nodes = {node.name: node for node in graph.op}
        name = first(graph, reader).input[0].rpartition(":")[0]
        while nodes[name].type != "Cast":
            name = nodes[name].input[0].rpartition(":")[0]
        nodes[name].attr["dst_type"].i = number

    return plant


def numbers(kind, name, values, field="i", number=0):
    def plant(graph):
        attribute = first(graph, kind, number).attr[name].list
        attribute.ClearField("i")
        getattr(attribute, field).extend(values)

    return plant


def value(kind, name, field, value):
    return lambda graph: setattr(first(graph, kind).attr[name], field, value)


def source(kind, position, name):
    """Another input; an empty name is none."""
    return lambda graph: first(graph, kind).input.__setitem__(position, name)


def without_inputs(kind):
    return lambda graph: first(graph, kind).ClearField("input")


def computed(kind, position):
    """An index that is known only when the graph runs."""

    def plant(graph):
        given = [node for node in graph.op if node.type == "Data"][1]
        first(graph, kind).input[position] = f"{given.name}:0"

    return plant


def sort_of_one(graph):
    node = first(graph, "Sort")
    for description in node.output_desc:
        description.attr["_meta"].s = b"Tensor(dtype=torch.float32, shape=torch.Size([2, 1])"


POOLING = "MaxPoolWithArgmaxV1"
FAULTS = {
    "a missing attribute": (without_attribute, "refused", "Conv2D"),
    "an unknown attribute": (unknown_attribute, "undeclared", "Conv2D"),
    "an attribute of another type": (wrong_attribute, "refused", "Conv2D"),
    "a missing input": (without_input, "refused", "Conv2D"),
    "an input too many": (one_input_more, "refused", "Relu"),
    "an unknown operator": (renamed("Relu", "Swish9"), "refused", "Swish9"),
    "the other SoC's pooling": (
        renamed("MaxPoolWithArgmaxV1", "MaxPoolWithArgmaxV3"),
        "refused",
        "MaxPoolWithArgmaxV3",
    ),
    "a convolution of integers": (cast_to(3, "Conv2D"), "refused", "Conv2D"),
    "a remainder of floats": (cast_to(0, "FloorMod"), "ai_cpu", "FloorMod"),
    "a mirror of bytes": (cast_to(4, "ReverseV2"), "ai_cpu", "ReverseV2"),
    "an experimental operator": (renamed("Sub", "Sxpy"), "experimental", "Sxpy"),
    "a sort of one number": (sort_of_one, "ai_cpu", "Sort"),
    "a pooling in bfloat16": (cast_to(27, "MaxPoolWithArgmaxV1"), "casts", "MaxPoolWithArgmaxV1"),
    "strides of floats": (numbers("Conv2D", "strides", [1.0] * 4, "f"), "refused", "Conv2D"),
    "two strides": (numbers("Conv2D", "strides", [1, 1]), "refused", "Conv2D"),
    "no strides": (numbers("Conv2D", "strides", []), "refused", "Conv2D"),
    "a stride of 0": (numbers("Conv2D", "strides", [1, 1, 0, 1]), "refused", "Conv2D"),
    "groups that do not divide": (value("Conv2D", "groups", "i", 5), "refused", "Conv2D"),
    "an unknown layout": (value("Conv2D", "data_format", "s", b"NCWH"), "refused", "Conv2D"),
    "another layout": (value("Conv2D", "data_format", "s", b"NHWC"), "refused", "Conv2D"),
    "an axis that is not there": (value("Sort", "axis", "i", 9), "refused", "Sort"),
    "a type that is not there": (value("Cast", "dst_type", "i", 99), "refused", "Cast"),
    "indices of floats": (value("Sort", "y2_dtype", "i", 0), "undeclared", "Sort"),
    "a constant without value": (lambda graph: first(graph, "Const").attr.pop("value"), "refused", "Const"),
    "no inputs": (without_inputs("Sort"), "refused", "Sort"),
    "a shape of nothing": (without_inputs("Reshape"), "refused", "Reshape"),
    "an input from nowhere": (source("Relu", 0, "Nowhere:0"), "refused", "Relu"),
    "an output that nobody makes": (source("Relu", 0, "arg0_1:7"), "refused", "Relu"),
    "an output too many": (lambda graph: first(graph, "Relu").output_desc.add(), "refused", "Relu"),
    "an output too few": (lambda graph: first(graph, "Sort").output_desc.pop(), "refused", "Sort"),
    "a result that is missing": (source("NetOutput", 0, ""), "refused", "NetOutput"),
    "no results": (lambda graph: graph.op.remove(first(graph, "NetOutput")), "refused", "NetOutput"),
    "an integer less a float": (cast_to(3, "Sub"), "lossy", "Sub"),
    "pads that make other maps": (numbers("Conv2D", "pads", [3, 3, 3, 3]), "refused", "Conv2D"),
    "a window that makes other maps": (numbers(POOLING, "ksize", [1, 5, 2, 1]), "refused", POOLING),
    "maps for images": (source("Conv2D", 0, "arg1_1:0"), "refused", "Conv2D"),
    "an input twice": (value("Data", "index", "i", 1), "refused", "Data"),
}
INDEX_FAULTS = {
    "tensors of two types": (cast_to(3, "ConcatV2"), "refused", "ConcatV2"),
    "another number of tensors": (value("ConcatV2", "N", "i", 3), "refused", "ConcatV2"),
    "no tensors": (without_inputs("ConcatV2"), "refused", "ConcatV2"),
    "no axis": (source("ConcatV2", -1, ""), "refused", "ConcatV2"),
    "an axis of run time": (computed("ConcatV2", -1), "ai_cpu", "ConcatV2"),
    "a slice of run time": (computed("StridedSliceV2", 1), "ai_cpu", "StridedSliceV2"),
    "a missing index": (source("GatherElements", 1, ""), "refused", "GatherElements"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    plant, verdict, kind = FAULTS[name]
    assert (verdict, kind) not in verdicts("a2")
    assert verdicts("a2", plant)[verdict, kind]


@pytest.mark.parametrize("name", INDEX_FAULTS)
def test_a_planted_fault_of_indices_is_found(name):
    plant, verdict, kind = INDEX_FAULTS[name]
    assert (verdict, kind) not in verdicts("a2", lambda graph: None, *INDEXED)
    assert verdicts("a2", plant, *INDEXED)[verdict, kind]


MUTATIONS = {
    "an unknown attribute": lambda node: setattr(node.attr["surplus"], "i", 1),
    "another kind": lambda node: setattr(node, "type", f"{node.type}X"),
    "an input from nowhere": lambda node: node.input.__setitem__(0, "Nowhere:0"),
    "no input": lambda node: node.input.__setitem__(0, ""),
    "an input too many": lambda node: node.input.extend([node.input[0]] * 9),
    "an output too many": lambda node: node.output_desc.add(),
}


def mutations(node):
    """What may be done to a node that has to be found; a constant and an input have no inputs."""
    for name, mutate in MUTATIONS.items():
        if "input" not in name or node.type not in ("Const", "Data"):
            yield name, mutate
    for attribute, given in node.attr.items():
        if not attribute.startswith("_") and not attribute.endswith("layout_info"):
            other = ("i", 1) if given.WhichOneof("value") == "s" else ("s", b"1")
            yield attribute, lambda node, a=attribute, other=other: setattr(node.attr[a], *other)


@pytest.mark.parametrize("how", [(network, ARGUMENTS), INDEXED])
@pytest.mark.parametrize("soc", SOCS)
def test_every_node_is_held_to_its_declaration(soc, how):
    before, found = verdicts(soc, lambda graph: None, *how), Counter()
    graph = typed(soc, lambda graph: None, *how)
    for number, node in enumerate(graph.nodes):
        for name, mutate in mutations(node) if node.name in graph.live and node.type != "NetOutput" else ():
            after = verdicts(soc, lambda graph, n=number, m=mutate: m(graph.op[n]), *how)
            assert {verdict for verdict, _ in after - before} & {"refused", "undeclared"}, (node.type, name)
            found[name] += 1
    assert all(found[name] > 5 for name in MUTATIONS), found


def test_what_only_a_control_edge_needs_is_checked_and_checking_changes_nothing():
    def plant(graph):
        node = graph.op.add(name="planted", type="Swish9")
        node.input.append(f"{first(graph, 'Data').name}:0")
        first(graph, "NetOutput").input.append("planted:-1")

    assert verdicts("a2", plant)["refused", "Swish9"]
    graph = typed("a2", lambda graph: first(graph, "GatherElements").attr.pop("dim"), *INDEXED)
    before = [node.SerializeToString(deterministic=True) for node in graph.nodes]
    assert check(graph) == check(graph)
    assert [node.SerializeToString(deterministic=True) for node in graph.nodes] == before


def test_atlas_a2s_pooling_is_refused_on_950():
    assert not any(verdict == "refused" for verdict, _ in verdicts("950"))
    plant = renamed("MaxPoolWithArgmaxV3", "MaxPoolWithArgmaxV1")
    assert verdicts("950", plant)["refused", "MaxPoolWithArgmaxV1"]
