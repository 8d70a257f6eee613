"""What a checkpoint says of its run, and what makes a resumed run another one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.saved_run import SavedRun

OPTIONS = TrainOptions(data="coco", preset="ssd300-nano", recipe=RECIPES["seed-8p"], amp="off", backend="eager")


def saved(options=OPTIONS, **more):
    run = {**options.settings(), "world_size": 2, "train_fingerprint": "0" * 64, **more}
    return SavedRun.of(SimpleNamespace(run=run))


def test_a_run_comes_back_from_its_plain_values():
    assert saved().options == replace(OPTIONS, data=saved().options.data)
    assert saved().options.data.endswith("/coco")
    assert (saved().world_size, saved().global_batch) == (2, 64)


def test_images_seen_are_counted_or_follow_from_the_batch():
    assert saved().images_seen_after(10) == 640
    assert saved(images_seen=77).images_seen_after(10) == 77


def test_nothing_is_said_of_the_same_run_from_another_place():
    assert saved().changes(replace(OPTIONS, resume="auto", overwrite=True, out="/elsewhere"), 2) == []


def test_what_does_not_decide_a_bit_is_named_and_that_is_all():
    longer = replace(OPTIONS.recipe, name="mine", epochs=200.0, evaluation_epochs=(), threshold=None)
    (line,) = saved().changes(replace(OPTIONS, recipe=longer, workers=7), 2)
    assert line.startswith("unlike the run so far: workers 2 -> 7, name seed-8p -> mine, ")
    assert "epochs 90.0 -> 200.0" in line


def test_what_decides_a_bit_is_named_with_both_values_and_said_to():
    other = replace(OPTIONS, seed=3, recipe=replace(OPTIONS.recipe, momentum=0.5))
    names, bits = saved().changes(other, 8)
    assert names == "unlike the run so far: seed 1 -> 3, momentum 0.9 -> 0.5, world_size 2 -> 8"
    assert "not the continuation of the same run" in bits


@pytest.mark.parametrize(
    "damage",
    [
        {"recipe": None},
        {"recipe": {"batch_size": "many"}},
        {"world_size": None},
        {"images_seen": -1},
        {"seed": []},
        {"out": 7},
        {"recipe": {"epochs": -1}},
    ],
)
def test_settings_that_are_none_are_refused(damage):
    with pytest.raises(InputError, match="does not say how its run began"):
        saved(**damage)


def test_an_imported_checkpoint_cannot_be_resumed():
    with pytest.raises(InputError, match="imported, not trained here"):
        SavedRun.of(SimpleNamespace(run={"imported": "iter.pt"}))
