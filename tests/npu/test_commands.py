"""With torch_npu installed and no CANN, the commands that need neither work, and --npus says what is missing."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests import REPOSITORY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_npu") is None, reason="torch_npu is not installed in this environment"
)


def command(*arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    words = [sys.executable, *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)


def test_npus_without_cann_is_one_line_and_exit_code_2(tmp_path):
    done = command(REPOSITORY / "tools" / "train_graph.py", "--npus", 8, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "is installed but does not load" in done.stderr
    assert "install CANN" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_torchair_backend_on_a_cpu_is_refused_the_same_way(tiny_coco, tmp_path):
    flags = ("--data", tiny_coco, "--preset", "ssd300-nano", "--backend", "torchair", "--out", "run")
    done = command(REPOSITORY / "tools" / "train_graph.py", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_training_export_and_scoring_on_the_cpu_work_beside_torch_npu(tiny_coco, tmp_path):
    flags = ("--preset", "ssd300-nano", "--recipe", "shapes", "--max-steps", 1, "--out", "run", "--data", tiny_coco)
    flags += ("--backend", "eager")
    done = command(REPOSITORY / "tools" / "train_graph.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch_npu is installed; only --npus loads it" in done.stdout
    for script, *arguments in (
        ("export/to_onnx.py", "run/last.pth"),
        ("tools/eval_onnx.py", "run/last.onnx", "--data", tiny_coco),
    ):
        done = command(REPOSITORY / script, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_torch_npu_of_another_release_is_named(monkeypatch):
    from ssd_graph.cli import InputError
    from ssd_graph.compilers import ascend, backend

    monkeypatch.setattr(ascend, "version", lambda package: "2.9.0.post1")
    with pytest.raises(InputError, match=r"torch_npu 2\.9\.0\.post1 does not pair with torch 2"):
        backend.require_devices("npu", 1)


@pytest.mark.parametrize(
    "call",
    [
        "from ssd_graph.commands.lower_npu import main; main()",
        "import sys; sys.argv += ['--npus', '1']; from ssd_graph.commands.train_graph import main; main()",
    ],
)
def test_a_build_for_cuda_is_refused_before_torch_npu_could_end_the_process(call, tmp_path):
    """With 2.13 and 2.14 the import itself ends in SIGABRT, which nobody can catch."""
    pretend = (
        "import ssd_graph.training; from ssd_graph.compilers import ascend; import torch; torch.version.cuda = '13.0'"
    )
    done = command("-c", f"{pretend}; ascend.LOADS_BESIDE_CUDA = (); {call}", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"is a build for CUDA, .* run `pip install .*--index-url \S+`\n$", done.stderr)
    assert done.stderr.count("\n") == 1
