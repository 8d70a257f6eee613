"""The graph of one of two ranks, replayed on two batches whose gradients meet in the all-reduce."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from ssd_graph.compilers.tracing import _ranks, fake
from ssd_graph.config import RECIPES, model_config
from ssd_graph.graph.step import Metrics, TrainStep, device_default_boxes
from ssd_graph.npu.capture import SOC_NAMES, capture
from ssd_graph.npu.lower import DEVICE, lower_predict
from ssd_graph.npu.node import Node
from ssd_graph.npu.replay import KNOWN, replay
from ssd_graph.npu.stand_in import load_stand_in
from tests.graph.test_step import make_batch
from tests.npu.test_replay import FORWARD_TOLERANCE, GRADIENT_TOLERANCES, NUM_CLASSES
from tests.step_errors import clone, start, worst_errors

SOCS = tuple(SOC_NAMES)
RANKS = range(2)


class Meeting:
    """An all-reduce between threads."""

    def __init__(self):
        self.barrier = threading.Barrier(len(RANKS), timeout=600)
        self.given = [None for _ in RANKS]

    def sum(self, rank, tensor):
        self.given[rank] = tensor
        self.barrier.wait()
        assert not torch.equal(self.given[0], self.given[1])
        total = self.given[0] + self.given[1]
        self.barrier.wait()
        return total


def together(function):
    """`function(rank, all_reduce)` of both ranks at once."""
    meeting = Meeting()

    def rank(number):
        try:
            return function(number, lambda tensor: meeting.sum(number, tensor))
        except BaseException:
            meeting.barrier.abort()  # else the other would wait
            raise

    with ThreadPoolExecutor(len(RANKS)) as pool:
        return list(pool.map(rank, RANKS))


@cache
def captured(preset, amp):
    """(step, graph, inputs of each rank, places of the state among them, what eager steps made of each rank's)."""
    config = model_config(preset, NUM_CLASSES)
    load_stand_in()
    with _ranks(len(RANKS)):
        # Each rank has its own, whose module holds its tensors while it runs.
        steps = [TrainStep(config, RECIPES["mlperf-256"], amp=amp, world_size=len(RANKS)) for _ in RANKS]
        step = steps[0]
        before = start(step, config, amp)
        arguments = [(before, make_batch(rank), device_default_boxes("cpu"), torch.tensor(0.01)) for rank in RANKS]

        def eager(rank, all_reduce):
            reducers[threading.get_ident()] = all_reduce
            state = clone(before)
            return steps[rank](state, *arguments[rank][1:]), state

        reducers = {}
        with patch("ssd_graph.graph.step.collectives.all_reduce", lambda x, *_: reducers[threading.get_ident()](x)):
            expected = together(eager)

        kept = []
        with FakeTensorMode() as mode:
            given = fake(mode, arguments[0], DEVICE)

            def keep(graph, inputs):
                for rank in RANKS:
                    leaves = zip(*map(pytree.tree_leaves, (given, arguments[rank])), strict=True)
                    real = {id(there): here for there, here in leaves if here is not None}
                    kept.append([real[id(tensor)] for tensor in inputs])
                fields = {id(tensor): name for name, tensor in given[0]._asdict().items()}
                kept.append({fields[id(tensor)]: i for i, tensor in enumerate(inputs) if id(tensor) in fields})
                kept.append(graph)
                return [torch.zeros((), device=DEVICE)] * len(Metrics._fields)

            _, breaks = capture(step, given, SOCS, runner=keep)
    assert breaks == []
    *inputs, places, graph = kept
    return step, graph, inputs, places, before, expected


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize(
    ("preset", "amp"),
    [
        ("ssd300-nano", "fp16"),
        *(pytest.param("ssd300-r34", amp, marks=pytest.mark.slow) for amp in ("off", "bf16", "fp16")),
    ],
)
def test_the_graph_computes_the_step_of_two_ranks(preset, amp, soc):
    step, graph, inputs, places, before, expected = captured(preset, amp)

    def replayed(rank, all_reduce):
        mine = [tensor.clone() for tensor in inputs[rank]]
        metrics = Metrics(*replay(soc, all_reduce)(graph, mine))
        return metrics, before._replace(**{name: mine[i] for name, i in places.items()})

    found = together(replayed)
    for (metrics, state), (expected_metrics, expected_state) in zip(found, expected, strict=True):
        errors = worst_errors(step.layout, metrics, state, expected_metrics, expected_state)
        print(preset, amp, soc, errors)
        assert max(errors["metrics"], errors["bn_statistics"]) < FORWARD_TOLERANCE
        assert max(errors["parameters"], errors["momentum"]) < GRADIENT_TOLERANCES[amp]
    states = [state for _, state in found]
    assert torch.equal(states[0].parameters, states[1].parameters)
    assert torch.equal(states[0].bn_statistics, states[1].bn_statistics)
    assert not torch.equal(found[0][0].loss, found[1][0].loss)


def test_all_reduce_takes_the_other_ranks_for_copies_of_this_one_or_asks_them():
    graph = captured("ssd300-nano", "fp16")[1].ge["a2"].concrete.graph
    (reduce,) = (operation for operation in graph.op if operation.type == "HcomAllReduce")
    gradient = torch.randn(5)
    assert torch.equal(KNOWN["HcomAllReduce"](Node(reduce, "a2"), gradient), 2 * gradient)
    assert torch.equal(KNOWN["HcomAllReduce"](Node(reduce, "a2", lambda x: x + 1), gradient), gradient + 1)


def test_replay_knows_every_operator_of_the_project_and_no_other():
    step = captured("ssd300-nano", "fp16")[1]
    graphs = [step.ge[soc].concrete.graph for soc in SOCS]
    graphs += [
        graph for lowering in lower_predict(SOCS, "ssd300-nano", 2, "fp16").values() for graph in lowering.graphs
    ]
    kinds = {operation.type for graph in graphs for operation in graph.op}
    assert kinds - {"Data", "NetOutput"} == set(KNOWN)
