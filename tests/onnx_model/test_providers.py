"""A provider runs the model or says why not; the CPU never steps in unasked and unsaid."""

import json
import os
import subprocess

import onnxruntime
import pytest

from ssd_graph.cli import InputError
from ssd_graph.onnx_model.providers import AUTO, PRECISIONS, PROVIDERS, _own_options, open_session
from tests import REPOSITORY

HERE = onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def content(trained):
    return (trained / "model.onnx").read_bytes()


def test_the_cpu_runs_every_node_and_says_so(content):
    session = open_session(content, "cpu", threads=1, optimization="all")
    assert session.provider == "cpu"
    assert set(session.num_nodes) == {"CPUExecutionProvider"}
    assert session.num_nodes["CPUExecutionProvider"] > 50


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino", "cann"])
def test_a_provider_that_is_not_installed_names_its_package(content, provider):
    name, package = PROVIDERS[provider]
    if name in HERE:
        pytest.skip(f"{name} is installed")
    with pytest.raises(InputError, match=f"no {name}: .*pip install {package}`"):
        open_session(content, provider, threads=1, optimization="all")


@pytest.mark.skipif(bool({PROVIDERS[p][0] for p in AUTO[:-1]} & set(HERE)), reason="another provider is installed")
def test_auto_is_the_cpu_where_there_is_nothing_else(content):
    assert open_session(content, "auto", threads=1, optimization="all").provider == "cpu"


@pytest.mark.parametrize(("level", "fused"), [("basic", False), ("all", True)])
def test_the_optimization_level_reaches_onnxruntime(content, level, fused):
    options = open_session(content, "cpu", threads=2, optimization=level).run.get_session_options()
    assert options.intra_op_num_threads == 2
    assert (options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL) == fused


@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_is_told_the_precision(content, precision, monkeypatch):
    """What the package `onnxruntime-openvino` gets, which replaces `onnxruntime` and is not installed here."""
    told = {}

    class Started:
        def __init__(self, model, options, providers, enable_fallback):
            told.update(providers[0][1])

        def get_providers(self):
            return ["OpenVINOExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Started)
    monkeypatch.setattr("ssd_graph.onnx_model.providers.has_bf16", lambda: True)
    open_session(content, "openvino", threads=3, optimization="all", precision=precision)
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    assert told == {"num_of_threads": "3", "load_config": f'{{"CPU": {{"INFERENCE_PRECISION_HINT": "{hint}"}}}}'}
    monkeypatch.setattr("ssd_graph.onnx_model.providers.has_bf16", lambda: False)
    if precision == "bf16":
        with pytest.raises(InputError, match="--precision bf16: this processor has no instructions"):
            open_session(content, "openvino", threads=3, optimization="all", precision=precision)


def test_float32_on_cuda_can_be_asked_for():
    """Its default on cards since Ampere multiplies in TF32."""
    assert (_own_options("cuda", 1, "fp32"), _own_options("cuda", 1, None)) == ({"use_tf32": "0"}, {})


def test_a_provider_that_cannot_be_told_a_precision_refuses_it(content):
    assert open_session(content, "cpu", threads=1, optimization="all", precision="fp32").provider == "cpu"
    with pytest.raises(InputError, match=r"--precision bf16: provider cpu has no choice; .* --provider openvino"):
        open_session(content, "cpu", threads=1, optimization="all", precision="bf16")


@pytest.mark.skipif("SSD_GRAPH_ORT_OPENVINO" not in os.environ, reason="SSD_GRAPH_ORT_OPENVINO is not set")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_computes_in_it_records_it_and_repeats_its_bits(trained, tiny_coco, tmp_path, precision):
    """SSD_GRAPH_ORT_OPENVINO names the Python of an environment with onnxruntime-openvino and what the others need."""
    found = {}
    for flags in (["--provider", "cpu"], ["--provider", "openvino", "--precision", precision]):
        command = ["tools/eval_onnx.py", trained / "model.onnx", "--data", tiny_coco, "--out", tmp_path / flags[1]]
        for extra in (flags, ["--verify", tmp_path / flags[1] / "summary.json"]):
            done = subprocess.run(
                [os.environ["SSD_GRAPH_ORT_OPENVINO"], *map(str, [*command, *extra])],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                capture_output=True,
                text=True,
                check=True,
            )
        assert "detections: the same bits" in done.stdout
        found[flags[1]] = json.loads((tmp_path / flags[1] / "summary.json").read_text())
    assert found["openvino"]["run"]["precision"] == precision
    moved = abs(found["openvino"]["stats"]["AP"] - found["cpu"]["stats"]["AP"])
    assert moved < (1e-6 if precision == "fp32" else 0.02)


@pytest.mark.skipif("SSD_GRAPH_ORT_GPU" not in os.environ, reason="SSD_GRAPH_ORT_GPU is not set")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntimes_silent_fallback_is_refused(trained, tiny_coco, tmp_path, provider):
    """With onnxruntime-gpu on a machine without CUDA: it goes on with the CPU, and says so to nobody.

    SSD_GRAPH_ORT_GPU names the Python of an environment with onnxruntime-gpu, numpy, pillow and pycocotools.
    """
    command = ["tools/eval_onnx.py", trained / "model.onnx", "--data", tiny_coco, "--out", tmp_path]
    done = subprocess.run(
        [os.environ["SSD_GRAPH_ORT_GPU"], *map(str, command), "--provider", provider],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "did not start" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
