"""The step's benchmark runs on a CPU and counts what it says it counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssd_graph.bench.step import matmul_tflops, train_flops_per_image

REPOSITORY = Path(__file__).parents[2]


def test_training_costs_what_the_reference_figures_say():
    # 15.862 GMAC forward; backward twice that, but for the first convolution's gradient of the image.
    assert train_flops_per_image("ssd300-r34") == pytest.approx(6 * 15.862e9, rel=0.01)


def test_a_matrix_product_has_a_speed():
    assert matmul_tflops(torch.float32, torch.device("cpu")) > 0


def test_the_command_measures_both_steps_in_one_run():
    flags = ["--preset", "ssd300-nano", "--batch-size", "2", "--steps", "3", "--json", "-"]
    command = [sys.executable, "tools/bench.py", "step", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["compiled"] > 0
    assert result["ratio"] == pytest.approx(result["compiled"] / result["baseline"], rel=0.02)
    assert (result["options"]["backend"], result["options"]["amp"]) == ("aot_eager", "off")
    assert 0 < result["of_matmul_peak"] < 1
