"""Devices that are not there are refused by name, and a compiled function refuses a second graph."""

import pytest
import torch

from ssd_graph.cli import InputError
from ssd_graph.compilers.backend import BACKENDS, DEVICES, compile_graph, require_devices


def test_cpu_processes_need_nothing():
    assert require_devices("cpu", 3).backend == "aot_eager"


def test_every_device_has_a_known_backend():
    assert {kind.backend for kind in DEVICES.values()} <= set(BACKENDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"no GPU is visible on this machine; use --cpus 1"):
        require_devices("gpu", 1)


def test_zero_devices_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        require_devices("cpu", 0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor", "inductor:plain"])
def test_every_backend_computes_the_function(backend):
    function = compile_graph(lambda x: (x * 2).relu() + 1, backend)
    x = torch.linspace(-1, 1, 5)
    torch.testing.assert_close(function(x), (x * 2).relu() + 1)


def test_a_graph_break_is_an_error():
    def broken(x):
        return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(Exception, match=r"(?i)data-dependent"):
        compile_graph(broken, "aot_eager")(torch.ones(2))


def test_a_python_number_that_changes_is_refused_at_the_second_call():
    function = compile_graph(lambda x, n: x * n, "aot_eager")
    function(torch.ones(2), 3)
    with pytest.raises(RuntimeError, match="recompile"):
        function(torch.ones(2), 4)


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="choose one of"):
        compile_graph(lambda x: x, "tpu")
