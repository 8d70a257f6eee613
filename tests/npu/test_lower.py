"""The step and the inference graph lower to one GE graph each by torchair's compiler; nothing runs on an NPU."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ssd_graph.cli import InputError
from ssd_graph.npu import stand_in
from ssd_graph.npu.capture import SOC_NAMES
from ssd_graph.npu.lower import lower, lower_predict, lower_step
from tests import REPOSITORY
from tests.run import command

SOCS = tuple(SOC_NAMES)

NUM_STATISTICS = {"ssd300-r34": 9856, "ssd300-nano": 672}
"""Running means and variances."""


MAX_COMPUTE_OPS = {"a2": 845, "950": 784}
MAX_TASKS = {"a2": 766, "950": 709}
"""Of the r34 step in fp16 with eight ranks; when they fall, lower the bounds with them."""


@cache
def step(amp, world_size, preset):
    return lower_step(SOCS, preset, 2, amp, world_size)


@cache
def predict(amp, preset):
    return lower_predict(SOCS, preset, 2, amp)


LARGE = [pytest.param("ssd300-r34", amp, marks=pytest.mark.slow) for amp in ("bf16", "off")]
PRECISIONS = [("ssd300-r34", "fp16"), ("ssd300-nano", "off"), *LARGE]
"""ssd300-r34 in NPUs' own precision; in the others the small network, which has the same operations.

test_replay.py has the small network's step in bf16.
"""


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize(("preset", "amp"), PRECISIONS)
def test_the_step_of_eight_ranks_lowers_to_one_graph(preset, amp, soc):
    lowering = step(amp, 8, preset)[soc]
    assert_lowers(lowering, [one_all_reduce(lowering, preset)])


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize(("preset", "amp"), [("ssd300-r34", "fp16"), *LARGE])  # test_replay.py has the small network
def test_the_step_of_one_rank_lowers_to_one_graph(preset, amp, soc):
    assert_lowers(step(amp, 1, preset)[soc])


def test_a_step_with_a_frozen_trunk_lowers_to_one_graph():
    for lowering in lower_step(SOCS, "ssd300-nano", 2, "fp16", 8, freeze="trunk").values():
        assert_lowers(lowering, [one_all_reduce(lowering, "ssd300-nano")])
        # No gradient flows into the trunk: the other convolutions' weights have one each.
        assert (lowering.ge_ops["Conv2D"], lowering.ge_ops["Conv2DBackpropFilter"]) == (25, 16)


def one_all_reduce(lowering, preset):
    """Of gradient and statistics together."""
    return ("HcomAllReduce", 4 * (lowering.num_parameters + NUM_STATISTICS[preset]))


def assert_lowers(lowering, collectives=()):
    """To one graph whose every node has a kernel by the published tables, none of them on the AI CPU."""
    assert lowering.unsupported == ()
    assert lowering.graph_breaks == ()
    assert len(lowering.graphs) == 1
    assert lowering.collectives == tuple(collectives)
    assert lowering.runs
    for verdict in ("refused", "ai_cpu", "experimental"):
        assert lowering.found(verdict) == {}


@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize(("preset", "amp"), [*PRECISIONS, ("ssd300-nano", "bf16")])
def test_the_inference_graph_lowers_to_one_graph(preset, amp, soc):
    lowering = predict(amp, preset)[soc]
    assert_lowers(lowering)
    assert lowering.ge_ops["Conv2D"] == {"ssd300-r34": 45, "ssd300-nano": 25}[preset]


@pytest.mark.parametrize("soc", SOCS)
def test_the_step_does_not_grow(soc):
    assert step("fp16", 8, "ssd300-r34")[soc].compute_ops <= MAX_COMPUTE_OPS[soc]
    assert step("fp16", 8, "ssd300-r34")[soc].tasks <= MAX_TASKS[soc]


@pytest.mark.slow
@pytest.mark.parametrize("soc", SOCS)
@pytest.mark.parametrize("amp", ["bf16", "off"])
def test_the_small_network_has_the_same_kinds_of_operations(amp, soc):
    large, small = (step(amp, 8, preset)[soc].ge_ops for preset in ("ssd300-r34", "ssd300-nano"))
    assert set(large) == set(small)


def test_the_families_take_different_converters():
    kinds = {soc: step("fp16", 8, "ssd300-r34")[soc].ge_ops for soc in SOCS}
    assert kinds["a2"]["MaxPoolWithArgmaxV1"]
    assert kinds["950"]["MaxPoolWithArgmaxV3"]
    assert not kinds["a2"]["MaxPoolWithArgmaxV3"]


def test_the_statistics_add_up():
    lowering = step("off", 8, "ssd300-nano")["a2"]
    assert lowering.weight_bytes == 4 * lowering.num_parameters
    assert lowering.ge_ops.total() == sum(len(graph.op) for graph in lowering.graphs)
    assert lowering.sources.total() == lowering.ge_ops.total()
    places = [
        place for op, place in lowering.sources if op == "SplitV" and place.startswith("ssd_graph/graph/state.py:")
    ]
    lines = (REPOSITORY / "ssd_graph/graph/state.py").read_text().splitlines()
    assert places
    assert all(".split(" in lines[int(place.partition(":")[2]) - 1] for place in places)


def test_activations_and_flops_are_those_of_a_convolution_counted_by_hand():
    def convolve(images, weight):
        return F.conv2d(images.relu(), weight).view(-1).relu()

    lowering = lower(convolve, (torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3)))["a2"]
    assert lowering.flops == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3)
    # The convolution's input and result, then its result, of which the view is no copy, and that of relu.
    assert lowering.activation_bytes == max(4 * (2 * 3 * 8 * 8 + 2 * 4 * 6 * 6), 4 * 2 * (2 * 4 * 6 * 6))


def test_operations_that_do_not_lower_are_all_named_with_their_lines():
    def loss(x, y):
        first = F.smooth_l1_loss(x, y, reduction="none")
        return (first + x.relu()).amax(1)

    lowering = lower(loss, (torch.zeros(2, 3), torch.zeros(2, 3)))["a2"]
    line = loss.__code__.co_firstlineno
    assert [(op.op, op.source) for op in lowering.unsupported] == [
        ("aten.smooth_l1_loss.default", f"npu/test_lower.py:{line + 1}"),
        ("aten.amax.default", f"npu/test_lower.py:{line + 2}"),
    ]
    assert "not implemented" in lowering.unsupported[0].reason
    assert lowering.ge_ops["Relu"] == 1
    assert not lowering.lowers
    assert f"npu/test_lower.py:{line + 1}" in lowering.table()


def test_a_graph_break_shows_as_more_than_one_graph():
    def broken(x):
        y = x * 2
        torch._dynamo.graph_break()
        return y + 1

    lowering = lower(broken, (torch.zeros(3),))["a2"]
    assert len(lowering.graphs) == 2
    assert len(lowering.graph_breaks) == 1
    assert not lowering.lowers


def test_torchair_is_itself_again_afterwards():
    from torchair._ge_concrete_graph import compat_ir, fx2ge_converter
    from torchair.npu_fx_compiler import _NpuFxCompiler

    def names():
        functions = (
            fx2ge_converter.initialize_graph_engine,
            fx2ge_converter.GeConcreteGraph.parse_node,
            compat_ir.is_cann_compat,
            _NpuFxCompiler._gen_compiled_gm,
            torch.npu.get_device_name,
        )
        return [function.__module__ for function in functions]

    lower(torch.relu, (torch.zeros(2),))
    assert not [name for name in names() if name.startswith("ssd_graph") or "mock" in name]
    assert not torch.distributed.is_initialized()


def test_the_graph_is_written_as_text(tmp_path):
    step("off", 8, "ssd300-nano")["a2"].dump(tmp_path / "graph.txt")
    text = (tmp_path / "graph.txt").read_text()
    assert 'type: "Conv2DBackpropFilter"' in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("variable", stand_in.CANN_VARIABLES)
def test_a_real_cann_is_not_hidden(variable, monkeypatch):
    monkeypatch.setenv(variable, "somewhere")
    with pytest.raises(InputError, match=f"{variable} is set"):
        stand_in.load_stand_in.__wrapped__()


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SSD_GRAPH_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="no C compiler"):
        stand_in._build(stand_in.c_source(["aclInit"]), ["libascendcl.so"])
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_one_json_object_and_succeeds(tmp_path):
    flags = ("--preset", "ssd300-nano", "--batch-size", 1, "--graph", "predict", "--json", "-", "--out", "graph.txt")
    code, out, error = command("tools/lower_npu.py", *flags, cwd=tmp_path)
    assert code == 0, error
    numbers = json.loads(out)
    assert numbers["graphs"] == 1
    assert numbers["unsupported"] == numbers["collectives"] == []
    assert numbers["compute_ops"] < sum(numbers["ge_ops"].values())
    assert (tmp_path / "graph.txt").stat().st_size > 100_000
