"""What decides a run's bits, and numbers that make no run."""

import json
from dataclasses import replace

import pytest

from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.training.options import TrainOptions, changed_settings

OPTIONS = TrainOptions(data="coco", preset="ssd300-nano", recipe=RECIPES["seed-8p"])


def settings(options, **more):
    return {**options.settings(), "amp": "off", "world_size": 1, **more}


def test_settings_are_plain_values():
    values = OPTIONS.settings()
    assert json.loads(json.dumps(values)) == values
    assert values["recipe"]["decay_epochs"] == [45.0, 58.0, 84.0]
    assert values["out"] == "runs/last"


def test_what_does_not_decide_a_bit_may_change():
    longer = replace(OPTIONS.recipe, name="mine", epochs=200.0, evaluation_epochs=(), threshold=None)
    other = replace(OPTIONS, recipe=longer, workers=7, print_every=3, resume="auto", data="/elsewhere")
    assert changed_settings(settings(OPTIONS), settings(other)) == []


def test_what_decides_a_bit_is_named_with_both_values():
    other = replace(OPTIONS, seed=3, recipe=replace(OPTIONS.recipe, momentum=0.5))
    changes = changed_settings(settings(OPTIONS), settings(other, world_size=8))
    assert changes == ["seed 1 -> 3", "world_size 1 -> 8", "momentum 0.9 -> 0.5"]


@pytest.mark.parametrize("recipe", [None, 7, []])
def test_settings_without_a_recipe_differ_in_all_of_it(recipe):
    changes = changed_settings({"recipe": recipe}, settings(OPTIONS))
    assert "momentum None -> 0.9" in changes


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ({"epochs": 0.0}, "--epochs 0.0: give more than 0"),
        ({"learning_rate": float("nan")}, "--lr nan: give 0 or more"),
        ({"weight_decay": -1.0}, "--wd -1.0: give 0 or more"),
        ({"ema_decay": 1.0}, "--ema 1.0: give 0 for none"),
        ({"loss_scale": float("inf")}, "--loss_scale inf: give `dynamic` or more than 0"),
    ],
)
def test_numbers_that_make_no_run_are_refused_by_their_flag(number, words):
    with pytest.raises(InputError) as caught:
        replace(OPTIONS, recipe=replace(OPTIONS.recipe, **number))
    assert words in str(caught.value)
