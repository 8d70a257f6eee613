"""What makes a resumed run another run than the one it goes on from."""

from dataclasses import replace

import pytest

from ssd_graph.config import RECIPES
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.plan import changed_settings

OPTIONS = TrainOptions(data="coco", preset="ssd300-nano", recipe=RECIPES["seed-8p"])


def settings(options, **more):
    return {**options.settings(), "amp": "off", "world_size": 1, **more}


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
