"""Two gloo processes train as one: same gradient, same bits, one graph with one collective."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from ssd_graph.data.coco import load_split
from ssd_graph.graph.step import TrainStep
from ssd_graph.training.distributed import World, device_of
from ssd_graph.training.validate import Validator
from tests import REPOSITORY
from tests.graph.test_step import CONFIG, DEFAULTS, make_batch, new_state
from tests.training.rank_failures import processes_of
from tests.training.two_ranks import NUM_STEPS, RECIPE


@pytest.fixture(autouse=True)
def one_thread():
    """As many as each rank has: another number of threads adds in another order, which moves float32 by 2e-5."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ranks(tiny_coco, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [*launcher, "-m", "tests.training.two_ranks", str(out), str(tiny_coco)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_ranks_hold_the_same_bits_after_every_step(ranks):
    assert ranks[0]["parameters"].shape[0] == NUM_STEPS
    assert torch.equal(ranks[0]["parameters"], ranks[1]["parameters"])
    assert not torch.equal(ranks[0]["parameters"][0], ranks[0]["parameters"][1])


def test_gradient_and_statistics_are_the_average_of_the_single_ranks(ranks):
    gradients, statistics = [], []
    for rank in range(2):
        step = TrainStep(CONFIG, RECIPE)
        state = new_state(step)
        step(state, make_batch(rank), DEFAULTS, torch.tensor(0.002))
        gradients.append(state.momentum)
        statistics.append(state.bn_statistics)
    average = (gradients[0] + gradients[1]) / 2
    for result in ranks:
        assert (result["first_gradient"] - average).abs().max() <= 1e-6 * average.abs().max()
        torch.testing.assert_close(result["first_statistics"], (statistics[0] + statistics[1]) / 2)
    assert (gradients[0] - gradients[1]).abs().max() > 0.01 * average.abs().max()
    assert not torch.allclose(*statistics, rtol=1e-3)


def test_a_rank_has_the_device_of_its_place_on_its_machine(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    assert device_of("cuda", World(rank=9, size=16, local_rank=1), first=2) == torch.device("cuda", 3)
    assert chosen == [3]


def test_the_step_of_two_ranks_is_one_graph_with_one_collective(ranks):
    assert [(r["num_graphs"], r["num_collectives"]) for r in ranks] == [(1, 1), (1, 1)]


def test_means_and_gathering_reach_every_rank(ranks):
    assert [(float(r["mean_of_ranks"]), r["gathered"]) for r in ranks] == [(0.5, [0, 10])] * 2


@pytest.mark.parametrize("seconds", [1.5, 3.0, 4.5])
def test_ranks_end_with_a_launcher_that_is_killed_however_early(tiny_coco, tmp_path, seconds):
    command = ["tools/train_graph.py", "--data", tiny_coco, "--out", tmp_path / "run", "--cpus", 2]
    command += ["--preset", "ssd300-nano", "--recipe", "shapes"]
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=REPOSITORY)
    time.sleep(seconds)
    process.kill()
    process.wait()
    for _ in range(100):
        if not processes_of(tmp_path / "run"):
            return
        time.sleep(0.1)
    pytest.fail("ranks are left")


def test_two_processes_find_together_what_one_finds(ranks, tiny_coco):
    split = load_split(tiny_coco, "val")
    assert len(split) // 2 % 2 == 1  # each process fills up its last batch of two
    alone = Validator(split, CONFIG, batch_size=2).detect(new_state(TrainStep(CONFIG, RECIPE)))
    assert len(alone) > 100
    for result in ranks:
        for column, expected in zip(result["detections"], alone, strict=True):
            assert np.array_equal(column.numpy(), expected)
