"""Devices that are not there are refused by name, and a compiled function refuses a second graph."""

import os
import shutil
import subprocess
import sys
import sysconfig
from types import SimpleNamespace

import pytest
import torch

from ssd_graph.cli import InputError
from ssd_graph.compilers import backend
from ssd_graph.compilers.backend import (
    BACKENDS,
    DEVICES,
    advice_on_memory,
    compile_graph,
    default_amp,
    deterministic_kernels,
    exact_float32,
    require_devices,
)


def test_cpu_processes_need_nothing():
    assert require_devices("cpu", 3).backend == "aot_eager"


def test_every_device_has_a_known_backend():
    assert {kind.backend for kind in DEVICES.values()} <= set(BACKENDS)


def test_what_does_not_compile_does_not_import_the_compiler():
    """It takes seconds: of a launcher, and of every command that only asks for a network's shapes."""
    code = """
import sys
from ssd_graph.config import RECIPES, model_config
from ssd_graph.graph.step import TrainStep
import ssd_graph.training.train
TrainStep(model_config("ssd300-nano", 7), RECIPES["mlperf-256"])
print([name for name in sys.modules if name.startswith("torch._dynamo")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"no GPU is visible on this machine.*; use --cpus 1") as caught:
        require_devices("gpu", 1)
    assert ("a build for CPUs" in str(caught.value)) == (torch.version.cuda is None)


@pytest.mark.parametrize(
    ("count", "first", "told"),
    [
        (3, 0, "--gpus 3: this machine shows 2; give --gpus 2"),
        (1, 2, "--gpus 1 --device-id 2: this machine shows 2; give --gpus 1 --device-id 1"),
        (2, 1, "--gpus 2 --device-id 1: this machine shows 2; give --gpus 2"),
    ],
)
def test_what_is_not_there_is_refused_with_flags_that_fit(monkeypatch, count, first, told):
    monkeypatch.setattr(backend, "_count_gpus", lambda: 2)
    with pytest.raises(InputError, match=f"^{told}$"):
        require_devices("gpu", count, first)
    assert require_devices("gpu", 1, 1).type == "cuda"


def test_zero_devices_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        require_devices("cpu", 0)
    with pytest.raises(InputError, match="--device-id -1: give 0 or more"):
        require_devices("gpu", 1, -1)
    with pytest.raises(InputError, match="devices 'tpu': give one of cpu, gpu, npu"):
        require_devices("tpu", 1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor", "inductor:plain"])
def test_every_backend_computes_the_function(backend):
    function = compile_graph(lambda x: (x * 2).relu() + 1, backend)
    x = torch.linspace(-1, 1, 5)
    torch.testing.assert_close(function(x), (x * 2).relu() + 1)


def test_a_program_may_compile_a_function_many_times():
    def double(x):
        return x * 2

    for size in range(1, 12):  # torch takes 8 graphs of a function
        assert compile_graph(double, "aot_eager")(torch.ones(size)).shape == (size,)


def test_a_captured_graph_overwrites_a_tensor_by_one_copy():
    def overwrite(state, x, row):
        state.copy_(state * 2 + x)
        row.copy_(x[:1])  # into more elements than it has

    state, x, row = torch.ones(1000), torch.arange(1000.0), torch.zeros(7)
    function = compile_graph(overwrite, "aot_eager")
    function(state, x, row)
    assert torch.equal(state, 2 + x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        function(state, x + 1, row)
    assert torch.equal(state, 2 * (2 + x) + x + 1)
    assert torch.equal(row, torch.ones(7))
    copies = [event for event in profile.events() if event.name == "aten::copy_" and event.input_shapes[0] == [1000]]
    assert len(copies) == 1


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


@pytest.mark.parametrize(("capability", "amp"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_old_gpus_get_the_half_precision_that_they_have(monkeypatch, capability, amp):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert default_amp(DEVICES["gpu"]) == amp
    assert (default_amp(DEVICES["npu"]), default_amp(DEVICES["cpu"])) == ("fp16", "off")


def test_float32_can_be_asked_for_where_devices_round_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    conv = SimpleNamespace(allow_hf32=True)
    monkeypatch.setattr(torch, "npu", SimpleNamespace(conv=conv), raising=False)
    exact_float32(torch.device("cpu"))
    assert (torch.backends.cudnn.allow_tf32, conv.allow_hf32) == (True, True)
    exact_float32(SimpleNamespace(type="npu"))
    exact_float32(torch.device("cuda"))
    assert (torch.backends.cudnn.allow_tf32, conv.allow_hf32) == (False, False)


def test_deterministic_kernels_are_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch._inductor.config, "deterministic", False)
    deterministic_kernels()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert torch._inductor.config.deterministic


@pytest.mark.parametrize(("gpu", "language", "others"), [(True, "C", "g++"), (False, r"C\+\+", "gcc")])
def test_inductor_without_a_compiler_is_refused_in_one_line(monkeypatch, tmp_path, gpu, language, others):
    (tmp_path / others).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: gpu)
        with pytest.raises(InputError, match=rf"no {language} compiler, which inductor needs: install gcc"):
            compile_graph(torch.relu, "inductor")
    assert compile_graph(torch.relu, "aot_eager")(torch.ones(2)).tolist() == [1, 1]


def test_inductor_needs_no_openssl(monkeypatch, tmp_path):
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", True)
    openssl = tmp_path / "openssl"
    openssl.write_text("#!/bin/sh\nexit 1\n")
    openssl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("shutil.which", lambda name, which=shutil.which: None if name == "openssl" else which(name))
    torch._inductor.codecache._precompile_header.cache_clear()
    with torch._inductor.utils.fresh_cache():
        assert compile_graph(torch.relu, "inductor")(torch.ones(3)).tolist() == [1, 1, 1]


def test_inductor_without_pythons_headers_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"no Python\.h, which inductor needs: install python3-dev"):
        compile_graph(torch.relu, "inductor")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_names_the_flag(error):
    told = r"not enough memory \(.+\); give less than --batch-size 128, and more"
    with pytest.raises(InputError, match=told), advice_on_memory(128, ", and more"):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), advice_on_memory(8):
        raise RuntimeError("a shape is wrong")
