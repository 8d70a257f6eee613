"""The graph that torchair makes of the step computes what the eager step computes; nothing runs on an NPU."""

import copy
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from ssd_graph.compilers.tracing import fake
from ssd_graph.config import RECIPES, model_config
from ssd_graph.graph.state import TrainState
from ssd_graph.graph.step import Metrics, Predict, TrainStep, device_default_boxes
from ssd_graph.npu.capture import SOC_NAMES, CapturedGraph, GeGraph, capture
from ssd_graph.npu.engine.facts import shipped_facts
from ssd_graph.npu.engine.graph import TypedGraph
from ssd_graph.npu.lower import DEVICE
from ssd_graph.npu.node import Node, UnknownOperator
from ssd_graph.npu.replay import replay, replay_outputs
from ssd_graph.npu.stand_in import load_stand_in
from ssd_graph.npu.statistics import Lowering
from tests.graph.test_step import make_batch
from tests.npu.test_check import numbers, value
from tests.npu.test_engine import first
from tests.npu.test_lower import assert_lowers
from tests.step_errors import clone, error, start, worst_errors

SOCS = tuple(SOC_NAMES)
NUM_CLASSES = 7
GRADIENT_TOLERANCES = {"off": 1e-4, "bf16": 5e-2, "fp16": 2e-2}
"""Of `worst_errors`. Replay's batch normalisation sums gradients in float32, where the CPU's rounds to half precision.

Eager's own momentum is 0.34 from float64 in both: a comparison with that would find less.
"""

FORWARD_TOLERANCE = 1e-6


@dataclass
class Case:
    """A step that was captured, and what the eager one made of the same state."""

    step: TrainStep
    graph: CapturedGraph
    lowerings: dict
    """What is said of the graph, by SoC."""
    inputs: list
    positions: dict
    """Of the state's tensors among the inputs, by field."""
    before: TrainState
    after: TrainState
    metrics: Metrics


@cache
def case(preset, amp):
    config = model_config(preset, NUM_CLASSES)
    step = TrainStep(config, RECIPES["mlperf-256"], amp=amp)
    before = start(step, config, amp)
    rest = (make_batch(0), device_default_boxes("cpu"), torch.tensor(0.01))
    after, kept = clone(before), []
    load_stand_in()  # before autograd, which counts devices once
    metrics = step(after, *rest)
    with FakeTensorMode() as mode:
        arguments = fake(mode, (before, *rest), DEVICE)  # the graph is made where a run's tensors lie
        leaves = zip(*map(pytree.tree_leaves, (arguments, (before, *rest))), strict=True)
        real = {id(there): here for there, here in leaves if here is not None}

        def keep(graph, inputs):
            fields = {id(tensor): name for name, tensor in arguments[0]._asdict().items()}
            places = {fields[id(tensor)]: i for i, tensor in enumerate(inputs) if id(tensor) in fields}
            kept.extend(([real[id(tensor)] for tensor in inputs], places))
            return [torch.zeros((), device=DEVICE)] * len(metrics)  # nobody looks at them

        graphs, breaks = capture(step, arguments, SOCS, runner=keep)
        facts = shipped_facts()
        lowerings = {soc: Lowering.of(graphs, breaks, soc, arguments[0].parameters, facts) for soc in SOCS}
    assert breaks == []
    (graph,) = graphs
    return Case(step, graph, lowerings, *kept, before, after, metrics)


def replayed(case, soc, graph=None):
    """(metrics, state after) by replay of the captured graph or another."""
    inputs = [i.clone() for i in case.inputs]
    metrics = Metrics(*replay(soc)(graph or case.graph, inputs))
    untouched = set(range(len(inputs))) - set(case.positions.values())
    assert all(torch.equal(inputs[i], case.inputs[i]) for i in untouched)
    return metrics, case.before._replace(**{name: inputs[i] for name, i in case.positions.items()})


def errors_of(case, metrics, state):
    return worst_errors(case.step.layout, metrics, state, case.metrics, case.after)


def agrees(case, amp, soc, graph=None):
    metrics, state = replayed(case, soc, graph)
    errors = errors_of(case, metrics, state)
    print(soc, errors)
    return (
        max(errors["metrics"], errors["bn_statistics"]) < FORWARD_TOLERANCE
        and max(errors["parameters"], errors["momentum"]) < GRADIENT_TOLERANCES[amp]
        and all(torch.equal(getattr(state, name), getattr(case.after, name)) for name in ("num_skipped", "skip_streak"))
    )


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize(
    ("preset", "amp"),
    [
        ("ssd300-nano", "off"),
        ("ssd300-nano", "bf16"),
        ("ssd300-nano", "fp16"),
        pytest.param("ssd300-r34", "off", marks=pytest.mark.slow),
        pytest.param("ssd300-r34", "fp16", marks=pytest.mark.slow),  # minutes on a CPU without arithmetic of fp16
        pytest.param("ssd300-r34", "bf16", marks=pytest.mark.slow),
    ],
)
def test_the_graph_computes_the_step(preset, amp, soc):
    assert case(preset, amp).metrics.num_positive > 10
    assert case(preset, amp).metrics.loss.isfinite()
    assert agrees(case(preset, amp), amp, soc)


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_the_step_lowers_to_one_graph(amp, soc):
    assert_lowers(case("ssd300-nano", amp).lowerings[soc])


def statistics_split(graph):
    """The node that cuts what normalisation is given as running statistics into pieces, and where that comes from."""
    nodes = {o.name: o for o in graph.op}
    splits = {nodes[s.rpartition(":")[0]].name for o in graph.op if o.type == "BatchNormV3" for s in o.input[3:5]}
    (split,) = (nodes[name] for name in splits)
    return split, nodes[split.input[0].rpartition(":")[0]]


def without_room(graph):
    """The running statistics themselves, as torchair's own graph would have them but for its copies."""
    split, room = statistics_split(graph)
    (split.input[0],) = (s for s in room.input if first_named(graph, s).type == "Data")


def first_named(graph, source):
    return next(o for o in graph.op if o.name == source.rpartition(":")[0])


@pytest.mark.parametrize("soc", SOCS)
def test_a_skipped_step_leaves_the_state_untouched_where_pieces_are_views(soc):
    """The gradient overflows, so that no part of the state may change, and the statistics are pieces of it."""
    nano = case("ssd300-nano", "fp16")
    inputs = [i.clone() for i in nano.inputs]
    inputs[nano.positions["loss_scale"]].fill_(1e38)
    begin = [i.clone() for i in inputs]
    counters = {nano.positions[name] for name in ("num_skipped", "skip_streak", "loss_scale")}

    def changed(graph):
        for tensor, before in zip(inputs, begin, strict=True):
            tensor.copy_(before)
        replay(soc)(graph, inputs)
        assert inputs[nano.positions["num_skipped"]] == begin[nano.positions["num_skipped"]] + 1
        names = {position: name for name, position in nano.positions.items()}
        return {names.get(i) for i in range(len(inputs)) if i not in counters and not torch.equal(inputs[i], begin[i])}

    assert changed(nano.graph) == set()
    if soc == "950":
        assert changed(planted(nano, soc, without_room)) == {"bn_statistics"}


def test_normalisation_is_given_no_piece_of_the_state_to_overwrite():
    """BatchNormV3 writes where its running statistics lie; Atlas A2's operators have none."""
    graphs = {soc: case("ssd300-nano", "fp16").graph.ge[soc].concrete.graph for soc in SOCS}
    kinds = {soc: Counter(o.type for o in graph.op) for soc, graph in graphs.items()}
    assert (kinds["950"]["BatchNormV3"], kinds["a2"]["BNTrainingUpdateV3"]) == (9, 9)
    assert not kinds["a2"]["BatchNormV3"]
    assert statistics_split(graphs["950"])[1].type == "Mul"


def test_the_step_is_large_enough_to_tell():
    """What replay is compared with is not what the step began with."""
    nano = case("ssd300-nano", "off")
    errors = errors_of(nano, nano.metrics, nano.before)
    assert min(errors[field] for field in ("parameters", "momentum", "bn_statistics")) > 0.1


def test_replay_serves_as_the_runner_of_a_capture():
    def update(total, x):
        total.add_(x)
        return total * 2

    total, returned, seen = torch.ones(3), [], []

    def runner(graph, inputs):
        seen.extend(tuple(i.shape) for i in inputs)
        returned.extend(replay("a2")(graph, inputs))
        return returned

    graphs, breaks = capture(update, (total, torch.arange(3.0)), runner=runner)
    assert (len(graphs), breaks, seen) == (1, [], [(3,), (3,)])
    assert total.tolist() == [1, 2, 3]
    assert [r.tolist() for r in returned] == [[2, 4, 6]]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_the_graph_computes_the_inference(amp):
    config = model_config("ssd300-nano", NUM_CLASSES)
    predict = Predict(config, amp=amp)
    state = start(predict, config, "off")
    args = (state.parameters, state.bn_statistics, make_batch(1).images)
    expected = predict(*args)

    def runner(graph, inputs):
        for soc in SOCS:
            for ours, theirs in zip(replay(soc)(graph, inputs), expected, strict=True):
                assert ours.dtype == theirs.dtype == torch.float32
                assert error(ours, theirs) < FORWARD_TOLERANCE
        return expected

    assert len(capture(predict, args, SOCS, runner=runner)[0]) == 1


def planted(case, soc, plant):
    """The captured graph with `plant` applied to its GE graph."""
    concrete = copy.copy(case.graph.ge[soc].concrete)
    definition = type(concrete.graph._proto)()
    definition.CopyFrom(concrete.graph._proto)
    plant(definition)
    concrete._graph = definition
    return CapturedGraph(case.graph.module, {soc: GeGraph(concrete)})


def set_constant(kind, position, value, number=0):
    """Overwrite the constant that a node has as an input."""

    def plant(graph):
        source = first(graph, kind, number).input[position].rpartition(":")[0]
        (constant,) = (operation for operation in graph.op if operation.name == source)
        old = Node(constant, "a2").constant()
        constant.attr["value"].t.data = torch.full_like(old, value).numpy().tobytes()

    return plant


def swap_batch_norm_outputs(graph):
    """The saved and the running statistics in each other's place, as torchair's own converter hands them on."""
    names = {operation.name for operation in graph.op if operation.type == norm(graph)}
    swap = {f"{name}:{old}": f"{name}:{new}" for name in names for old, new in ((1, 3), (2, 4), (3, 1), (4, 2))}
    for operation in graph.op:
        operation.input[:] = [swap.get(source, source) for source in operation.input]


def norm(graph):
    """What training-mode normalisation became."""
    return next(o.type for o in graph.op if o.type in ("BatchNormV3", "BNTrainingUpdateV3"))


def swap_sums(graph):
    """Those of a normalisation, or its scale and offset where it has none."""
    node = first(graph, norm(graph))
    node.input[1], node.input[2] = node.input[2], node.input[1]


def dilate(graph):
    """A dilation of two with one more pixel around, which keeps the shape."""
    numbers("Conv2D", "dilations", [1, 1, 2, 2], number=1)(graph)
    numbers("Conv2D", "pads", [2, 2, 2, 2], number=1)(graph)


def wider_window(graph):
    """Of the gradient alone."""
    window = next(o for o in graph.op if o.type.startswith("MaxPoolGradWithArgmax")).attr["ksize"].list.i
    window[-2 if len(window) == 4 else 0] += 1


PLANTS = {
    "dilation": dilate,
    "shifted padding": numbers("Conv2D", "pads", [2, 0, 1, 1], number=1),
    # The last one, in the first stage: the heads on the smallest maps may have no gradient at all.
    "padding of a gradient": numbers("Conv2DBackpropInput", "pads", [0, 2, 1, 1], number=-1),
    "swapped sums": swap_sums,
    "epsilon": lambda graph: value(norm(graph), "epsilon", "f", 1e-3)(graph),
    "swapped statistics": swap_batch_norm_outputs,
    "axis of a sum": set_constant("ReduceSum", 1, 2),
    "upper bound": set_constant("ClipByValueV2", 2, 128.0),
    "axis of the softmax": numbers("LogSoftmaxGrad", "axis", [2]),
    "window of a pooling's gradient": wider_window,
    "ascending order": value("Sort", "descending", "b", False),
}


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_mistake_is_found(name, soc):
    nano = case("ssd300-nano", "off")
    graph = planted(nano, soc, PLANTS[name])
    try:
        found = not agrees(nano, "off", soc, graph)
    except (RuntimeError, IndexError, UnknownOperator) as problem:  # a shape that fits nowhere is found too
        print(problem)
        found = True
    assert found


def test_an_operator_that_replay_does_not_know_is_an_error():
    nano = case("ssd300-nano", "off")

    def plant(graph):
        first(graph, "Relu").type = "Gelu"

    with pytest.raises(UnknownOperator, match="Gelu Relu"):
        replayed(nano, "a2", planted(nano, "a2", plant))


def test_types_that_do_not_agree_are_an_error():
    nano = case("ssd300-nano", "off")

    def plant(graph):
        """The first conversion to float32 becomes one to half precision."""
        cast = next(o for o in graph.op if o.type == "Cast" and o.attr["dst_type"].i == 0)
        cast.attr["dst_type"].i = 1

    with pytest.raises((UnknownOperator, RuntimeError)):
        replayed(nano, "a2", planted(nano, "a2", plant))


def test_outputs_do_not_share_memory_with_inputs():
    def function(x):
        return x.view(-1), x + 1

    x = torch.zeros(2, 3)
    (graph,), _ = capture(function, (x,))
    concrete = graph.ge["a2"].concrete
    (*_, last) = replay_outputs(concrete.graph, [x], "a2")
    last.add_(5)
    assert x.eq(0).all()


@pytest.mark.parametrize("soc", SOCS)
def test_the_state_is_overwritten_after_its_last_reader(soc):
    """The engine is told to put new state where the old one lies; whoever reads the old one has to come before."""
    concrete = case("ssd300-nano", "fp16").graph.ge[soc].concrete
    assert not concrete._graph_output_ref_input_has_cpu_memory()  # else the engine is told nothing
    nodes = {node.name: node for node in concrete.graph.op}
    inputs = {name: [s.rpartition(":")[0] for s in node.input if s] for name, node in nodes.items()}
    data = {node.attr["index"].i: name for name, node in nodes.items() if node.type == "Data"}
    (output,) = (node for node in concrete.graph.op if node.type == "NetOutput")
    live = TypedGraph(concrete.graph, soc, shipped_facts(), {}).live
    assert len(concrete._graph_output_ref_input) >= 5  # parameters, momentum, statistics, two counters
    for place, index in concrete._graph_output_ref_input.items():
        writer = output.input[place].rpartition(":")[0]
        before, todo = {writer}, [writer]
        while todo:
            new = set(inputs[todo.pop()]) - before
            before |= new
            todo += new
        readers = {name for name, sources in inputs.items() if data[index] in sources} & live - {output.name}
        assert readers <= before, (data[index], readers - before)


def test_saved_statistics_are_float32_where_the_device_is():
    graph = case("ssd300-nano", "fp16").graph.module.graph
    norms = [n for n in graph.nodes if "_native_batch_norm_legit_functional" in str(n.target)]
    assert len(norms) == 9
    for norm in norms:
        y, *statistics = norm.meta["val"]
        assert y.dtype == torch.float16
        assert {s.dtype for s in statistics} == {torch.float32}
