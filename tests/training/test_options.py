"""A run's options as plain values, and numbers that make no run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.training.options import TrainOptions

OPTIONS = TrainOptions(data="coco", preset="ssd300-nano", recipe=RECIPES["seed-8p"])


def test_settings_are_plain_values():
    values = OPTIONS.settings()
    assert json.loads(json.dumps(values)) == values
    assert values["recipe"]["decay_epochs"] == [45.0, 58.0, 84.0]
    assert values["out"] == "runs/last"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ({"epochs": 0.0}, "--epochs 0.0: give more than 0, at most a million"),
        ({"epochs": float("inf")}, "--epochs inf: give more than 0, at most a million"),
        ({"warmup_epochs": float("nan")}, "--warmup-epochs nan: give 0 to a million"),
        ({"decay_epochs": (1.0, float("inf"))}, "--lr-decay-epochs inf: give 0 to a million"),
        ({"decay_factor": float("nan")}, "--lr-decay-factor nan: give 0 or more"),
        ({"evaluation_epochs": (0.0, 5.0)}, "--evaluation 0.0: give more than 0"),
        ({"learning_rate": float("nan")}, "--lr nan: give 0 or more"),
        ({"learning_rate": -1.0}, "--lr -1.0: give 0 or more"),
        ({"weight_decay": -1.0}, "--wd -1.0: give 0 or more"),
        ({"ema_decay": 1.0}, "--ema 1.0: give 0 for none"),
        ({"loss_scale": 0.0}, "--loss-scale 0.0: give `dynamic` or more than 0"),
        ({"loss_scale": float("inf")}, "--loss-scale inf: give `dynamic` or more than 0"),
        ({"batch_size": 0}, "--batch-size 0: give 1 or more"),
        ({"accumulate": 0}, "--accumulate 0: give 1 or more"),
        ({"patience": 0}, "--patience 0: give 1 or more"),
    ],
)
def test_numbers_that_make_no_run_are_refused_by_their_flag(number, words):
    with pytest.raises(InputError) as caught:
        replace(OPTIONS, recipe=replace(OPTIONS.recipe, **number))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"recipe": "shapes"}, r"recipe 'shapes': give ssd_graph\.config\.Recipe"),
        ({"preset": "nano"}, "preset 'nano': give one of ssd300-r34, "),
        ({"max_steps": "5"}, "max_steps '5': give int | None"),
        ({"amp": "fp8"}, "amp 'fp8': give .*'off', 'bf16', 'fp16'"),
        ({"out": None}, "out None: give pathlib.Path"),
        ({"recipe": replace(OPTIONS.recipe, epochs=np.int64(2))}, r"recipe: Expected `float`.* `\$\.epochs`"),
        ({"recipe": replace(OPTIONS.recipe, threshold="0.3")}, r"recipe: Expected `float \| null`.* `\$\.threshold`"),
        ({"recipe": replace(OPTIONS.recipe, freeze="layer3")}, r"recipe: Invalid enum value 'layer3'"),
    ],
)
def test_values_of_another_type_are_refused_by_their_name(option, words):
    with pytest.raises(InputError, match=words):
        replace(OPTIONS, **option)


def test_paths_may_be_text_and_the_other_way_round():
    options = replace(OPTIONS, out="runs/mine", backbone="r34.pth", data=Path("coco"))
    assert (options.out, options.backbone, options.data) == (Path("runs/mine"), Path("r34.pth"), "coco")


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_restarts", -1), ("seed", 10**20), ("keep", 0), ("print_every", 0), ("max_skipped", 0)],
)
def test_whole_numbers_that_make_no_run_are_refused_by_their_flag(option, value):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} {value}: give"):
        replace(OPTIONS, **{option: value})
