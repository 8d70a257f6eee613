"""A provider runs the model or says why not; the CPU never steps in unasked and unsaid."""

import os
import subprocess

import onnxruntime
import pytest

from ssd_graph.cli import InputError
from ssd_graph.onnx_model.providers import AUTO, PROVIDERS, open_session
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
