"""The kernels that inductor writes for a GPU compute what the eager step computes; nothing runs on a GPU."""

import re
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from ssd_graph.compilers import inductor
from ssd_graph.compilers.backend import keep_addresses
from ssd_graph.config import RECIPES, model_config
from ssd_graph.gpu.kernels import Lowering
from ssd_graph.gpu.lower import lower
from ssd_graph.gpu.machine_code import assemble
from ssd_graph.gpu.replay import UnknownKernel, replay
from ssd_graph.graph.state import TrainState
from ssd_graph.graph.step import Metrics, TrainStep, device_default_boxes
from tests.graph.test_step import make_batch
from tests.step_errors import clone, positions, start, worst_errors

pytest.importorskip("triton", reason="inductor writes GPU kernels with Triton")
from triton.runtime.errors import InterpreterError

SLACK = {"metrics": 1e-6, "parameters": 2e-2, "momentum": 2e-2, "bn_statistics": 1e-6}
"""Beside twice eager's error. One ReLU that flips at zero changes a gradient by 1e-2, seen of eager torch with one
thread and with two."""


@pytest.fixture(autouse=True, scope="module")
def _maps_of_two_images_count_as_large():
    with patch.object(inductor, "MAP_BYTES", 0):
        yield


@dataclass
class Case:
    """A step that was compiled, where it began, and where it ends by float64 and by eager torch."""

    lowering: Lowering
    inputs: list
    positions: dict
    """Of the state's tensors among the inputs, by field."""
    before: TrainState
    errors_of: object
    """Of (metrics, state), from float64."""
    eager_errors: dict


def double(tensors):
    return type(tensors)(*(t.double() if t is not None and t.is_floating_point() else t for t in tensors))


@cache
def case(preset, amp):
    config = model_config(preset, 7)
    step = TrainStep(config, RECIPES["mlperf-256"], amp=amp, memory_format=torch.channels_last)
    before = start(step, config, amp)
    batch, defaults, rate = make_batch(0), device_default_boxes("cpu"), torch.tensor(0.01)
    exact, eager, given, kept = double(before), clone(before), clone(before), []
    exact_metrics = TrainStep(config, step.recipe)(exact, batch, defaults, rate.double())
    eager_metrics = step(eager, batch, defaults, rate)

    def errors_of(metrics, state):
        return worst_errors(step.layout, metrics, state, exact_metrics, exact)

    def keep(code, inputs):
        kept.extend(([i.clone() for i in inputs], positions(given, inputs)))
        return [torch.zeros(())] * len(eager_metrics)  # nobody looks at them

    keep_addresses(given)
    lowering = lower(step, (given, batch, defaults, rate), 2, keep)
    return Case(lowering, *kept, before, errors_of, errors_of(eager_metrics, eager))


def agrees(case, code):
    """Whether the code ends about as far from float64 as eager torch in the same precision."""
    inputs = [i.clone() for i in case.inputs]
    metrics = Metrics(*replay(code, inputs))
    untouched = set(range(len(inputs))) - set(case.positions.values())
    assert all(torch.equal(inputs[i], case.inputs[i]) for i in untouched)
    state = case.before._replace(**{name: inputs[i] for name, i in case.positions.items()})
    errors = case.errors_of(metrics, state)
    print("replay", errors, "eager", case.eager_errors)
    return state.num_skipped == 0 and all(errors[name] < 2 * case.eager_errors[name] + SLACK[name] for name in errors)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_the_kernels_compute_the_step(amp):
    nano = case("ssd300-nano", amp)
    assert nano.lowering.host_constants == ()
    assert nano.lowering.cuda_graph_refused is None
    assert agrees(nano, nano.lowering.code)


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_the_kernels_of_r34_compute_the_step(amp):
    r34 = case("ssd300-r34", amp)
    assert agrees(r34, r34.lowering.code)


@pytest.mark.slow
def test_the_losses_of_a_run_are_those_of_eager_torch():
    """The kernels' bf16 differs from eager's as eager's does from float32, not more."""
    config, num_steps = model_config("ssd300-nano", 7), 21
    bf16, off = (
        TrainStep(config, RECIPES["mlperf-256"], amp=a, memory_format=torch.channels_last) for a in ("bf16", "off")
    )
    batches, defaults = [make_batch(seed) for seed in range(7)], device_default_boxes("cpu")
    before = start(bf16, config, "bf16")
    batch, rate, state, kept = clone(batches[0]), torch.tensor(0.0), clone(before), []
    keep_addresses(state)
    lower(bf16, (state, batch, defaults, rate), 2, lambda *of: kept.append(of) or [torch.zeros(())] * 4)
    ((code, inputs),) = kept
    curves = torch.zeros(3, num_steps)
    states = clone(before), clone(before)
    for i in range(num_steps):
        for into, new in zip(batch, batches[i % 7], strict=True):
            into.copy_(new)
        rate.fill_(0.002 * min(1, (i + 1) / 20))
        curves[0, i] = replay(code, inputs)[0]
        for curve, step, own in zip(curves[1:], (bf16, off), states, strict=True):
            curve[i] = step(own, batch, defaults, rate).loss
    print(curves)
    kernels, eager, single = curves
    assert (kernels - eager).abs().mean() < 1.5 * (eager - single).abs().mean()
    assert kernels[-7:].mean() < 0.6 * kernels[:7].mean()


def test_the_step_is_large_enough_to_tell():
    """What replay is compared with is not what the step began with."""
    nano = case("ssd300-nano", "off")
    errors = nano.errors_of([torch.zeros(())] * 4, nano.before)
    assert errors["momentum"] > 0.1
    assert errors["bn_statistics"] > 0.05


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("tl.full([1], 1e-05, tl.float32)", "tl.full([1], 1e-03, tl.float32)"),  # batch normalisation's epsilon
        pytest.param(
            "tl.full([1], 0.587005615234375, tl.float32)",  # the green part of luma
            "tl.full([1], 0.5, tl.float32)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_number_in_a_kernel_is_found(right, wrong):
    nano = case("ssd300-nano", "off")
    assert nano.lowering.code.count(right) > 0
    assert not agrees(nano, nano.lowering.code.replace(right, wrong))


@pytest.mark.slow
def test_every_kernel_becomes_machine_code():
    nano = case("ssd300-nano", "bf16")
    machine_code = assemble(nano.lowering.code)
    kernels = {binary.kernel for binary in machine_code.binaries}
    assert kernels == set(re.findall(r"^(\w+) = async_compile\.triton\(", nano.lowering.code, re.MULTILINE))
    assert {binary.kernel for binary in machine_code.binaries if not binary.spilled_bytes} == kernels
    assert all(0 < binary.registers <= 255 for binary in machine_code.binaries)


def run(function, *arguments):
    """What `function` returns by its kernels."""
    returned = []

    def runner(code, inputs):
        returned.extend(replay(code, inputs))
        return returned

    lower(function, arguments, 1, runner)
    return returned


EXACT = {
    "first of equal maxima": (lambda x: x.max(dim=1), (torch.tensor([[1.0, 3.0, 3.0, 2.0]]).repeat(5, 700),)),
    "stable order": (lambda x: x.sort(dim=1, stable=True), (torch.randint(0, 9, (3, 1000)),)),
    "places": (lambda x, i: x.gather(1, i), (torch.rand(4, 50), torch.randint(0, 50, (4, 7)))),
    "pooling": (lambda x: (F.max_pool2d(x, 3, 2, 1),), (torch.randn(2, 8, 31, 29),)),
    "turned maps": (lambda x: (x.permute(0, 2, 1).contiguous(),), (torch.randn(1, 9, 3072),)),
    "bf16, to the nearest even": (
        lambda x: (x.bfloat16(),),
        (torch.cat([torch.randn(4000), 1 + torch.arange(512) / 512]),),
    ),
    "fp16": (lambda x: (x.half(),), (torch.randn(4000),)),
}


@pytest.mark.parametrize("name", EXACT)
def test_replay_is_exact_where_nothing_is_rounded_in_another_order(name):
    function, arguments = EXACT[name]
    expected = function(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(run(function, *arguments), expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("wrong", ["xnumel + 1", "xnumel + 4096"])
def test_a_kernel_that_leaves_its_arguments_is_an_error(wrong):
    """Of a tensor at the end of its memory, by one element and by many."""

    def runner(code, inputs):
        return replay(code.replace("xmask = xindex < xnumel", f"xmask = xindex < {wrong}"), inputs)

    with pytest.raises(InterpreterError, match=r"OutOfBounds\('create_masked_load'\)"):
        lower(lambda x: (x + 1,), (torch.rand(300),), 1, runner)


def test_a_kernel_with_parameters_that_replay_does_not_know_is_an_error():
    nano = case("ssd300-nano", "off")
    with pytest.raises(UnknownKernel, match="wants OTHER"):
        replay(nano.lowering.code.replace("'XBLOCK': 'constexpr'", "'OTHER': 'constexpr'"), nano.inputs)
