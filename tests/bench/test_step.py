"""The step's benchmark runs on a CPU and counts what it says it counts."""

import argparse
import itertools
import json
import re

import pytest
import torch

from ssd_graph.bench import step
from ssd_graph.bench.step import matmul_tflops, train_flops_per_image
from tests import REPOSITORY
from tests.run import command


def test_training_costs_what_the_reference_figures_say():
    # 15.862 GMAC forward; backward twice that, but for the first convolution's gradient of the image.
    assert train_flops_per_image("ssd300-r34") == pytest.approx(6 * 15.862e9, rel=0.01)


def test_a_matrix_product_has_a_speed():
    assert matmul_tflops(torch.float32, torch.device("cpu")) > 0


def test_the_command_measures_a_compiled_step_against_a_baseline():
    flags = ("--preset", "ssd300-nano", "--batch-size", 1, "--steps", 1, "--json", "-")
    code, out, error = command("tools/bench.py", "step", *flags, cwd=REPOSITORY)
    assert code == 0, error
    (row,) = json.loads(out)["rows"]
    assert row["compiled"] > 0
    assert row["ratio"] == row["compiled"] / row["baseline"]
    assert row["of_matmul_peak"] > 0  # two clocks on a shared machine: the share can come out above 1
    assert (row["batch_size"], row["backend"], row["amp"]) == (1, "aot_eager", "off")
    assert row["memory_format"] == "channels_last"


def test_what_does_not_fit_leaves_a_row_and_every_other_combination_is_measured(monkeypatch):
    def too_large(*args):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(step, "_measure", too_large)
    parser = argparse.ArgumentParser()
    step.add_flags(parser)
    args = parser.parse_args(["--preset", "ssd300-nano", "--batch-size", "1", "2", "--backend", "eager", "aot_eager"])
    rows = step.table(step.run(args)).splitlines()[-4:]
    for row, (size, backend) in zip(rows, itertools.product((1, 2), ("eager", "aot_eager")), strict=True):
        assert re.fullmatch(rf"\| {size} \| off \| {backend} \| channels_last \|( - \|){{7}}", row)
