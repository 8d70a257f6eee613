"""What the loop does at each step: the rate it uses, when it waits, what it passes over, which weights it scores."""

from dataclasses import replace
from threading import current_thread, main_thread

import numpy as np
import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.data.coco import load_split
from ssd_graph.graph.step import TrainStep
from ssd_graph.training.metrics import read_records
from ssd_graph.training.validate import Validator
from tests.conftest import train_tiny
from tests.graph.test_step import CONFIG, new_state


def test_the_rate_that_is_recorded_is_the_one_that_is_used(tiny_coco, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(
        "ssd_graph.training.train.compile_graph",
        lambda step, _: lambda *arguments: used.append(float(arguments[3])) or step(*arguments),
    )
    train_tiny(tiny_coco, tmp_path, max_steps=3, print_every=1, recipe=replace(RECIPES["shapes"], warmup_epochs=5.0))
    recorded = [r["learning_rate"] for r in read_records(tmp_path / "metrics.jsonl", "train")]
    assert used == pytest.approx(recorded, rel=1e-6)
    assert used[0] < used[1] < used[2]


def test_the_device_is_waited_for_at_console_lines_only(tiny_coco, tmp_path, monkeypatch):
    waits, steps = [], []
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__"):
        whole = getattr(torch.Tensor, name)

        def noted(tensor, *arguments, whole=whole, **options):
            if current_thread() is main_thread():
                waits.append(len(steps))
            return whole(tensor, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, noted)
    monkeypatch.setattr(
        "ssd_graph.training.train.compile_graph",
        lambda step, _: lambda *arguments: steps.append(1) or step(*arguments),
    )
    recipe = replace(RECIPES["shapes"], batch_size=4, epochs=50.0, evaluation_epochs=())
    train_tiny(tiny_coco, tmp_path, recipe=recipe, max_steps=7, print_every=5, save_every=50)
    assert {*waits} - {0} == {1, 5, 7}  # the first step is timed alone


def test_bad_images_are_passed_over_and_counted(own_coco, tmp_path):
    image = min((own_coco / "train2017").iterdir())
    image.write_bytes(image.read_bytes()[:100])
    train_tiny(own_coco, tmp_path / "run", max_steps=6, print_every=1, on_bad_image="skip")
    counts = [r["skipped_images"] for r in read_records(tmp_path / "run" / "metrics.jsonl", "train")]
    assert sum(counts) == 2  # in each of two epochs


def test_exact_and_repeatable_arithmetic_is_asked_for(tiny_coco, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("ssd_graph.training.train.deterministic_kernels", lambda: asked.append("kernels"))
    monkeypatch.setattr("ssd_graph.training.distributed.exact_float32", asked.append)
    train_tiny(tiny_coco, tmp_path, max_steps=1, deterministic=True, amp="off")
    assert asked == ["kernels", torch.device("cpu")]


def test_the_moving_average_is_what_is_validated(tiny_coco):
    state = new_state(TrainStep(CONFIG, RECIPES["shapes"]))
    validator = Validator(load_split(tiny_coco, "val"), CONFIG, batch_size=4, backend="eager")
    expected = validator.detect(state)
    found = validator.detect(state._replace(ema=state.parameters, parameters=torch.zeros_like(state.parameters)))
    assert len(found) > 20
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_steps_that_stay_non_finite_end_the_run_and_name_the_last_checkpoint(tiny_coco, tmp_path):
    recipe = replace(RECIPES["shapes"], batch_size=2, evaluation_epochs=(), learning_rate=1e30, warmup_epochs=0.0)
    with pytest.raises(InputError, match=r"non-finite gradients and were skipped; the last checkpoint is .*last\.pth"):
        train_tiny(tiny_coco, tmp_path, max_steps=40, recipe=recipe, max_skipped=5, print_every=1, save_every=1)
    last = read_records(tmp_path / "metrics.jsonl", "train")[-1]
    assert last["loss"] is None  # NaN is not JSON
    assert last["skipped_steps"] >= 5
    assert load_checkpoint(tmp_path / "last.pth").optimizer["num_skipped"] > 0


def test_a_performance_run_measures_single_steps_and_writes_no_checkpoint(tiny_coco, tmp_path, capsys):
    train_tiny(tiny_coco, tmp_path, max_steps=5, performance=True)
    out = capsys.readouterr().out
    assert "Median step with data wait" in out
    assert "Median step without data wait" in out
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.jsonl"]
