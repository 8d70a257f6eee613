"""Proves the learning rate against frozen numbers of the MLPerf recipe (COCO's 117,266 images, global batch
256: 2,290 warm-up steps to 0.025256, a tenth from epochs 44 and 55 on) and the reference's warm-up formula.
"""

import pytest

from ssd_graph.config import RECIPES, epochs_every
from ssd_graph.training.schedule import Schedule

MLPERF = Schedule(RECIPES["mlperf-256"], global_batch=256, num_images=117_266)


def test_warmup_starts_at_zero():
    assert MLPERF.rate(0) == 0


def test_warmup_is_the_references_line():
    for step in (1, 2, 1145, 2000, 2289):
        assert MLPERF.rate(step) == pytest.approx(0.025256 * step / 2290, rel=1e-12)


def test_warmup_ends_after_2290_steps():
    assert MLPERF.rate(2289) < 0.025256
    assert MLPERF.rate(2290) == MLPERF.rate(2291) == pytest.approx(0.025256, rel=1e-12)


@pytest.mark.parametrize(("epoch", "step", "before", "after"), [(44, 20_156, 1, 0.1), (55, 25_194, 0.1, 0.01)])
def test_rate_falls_to_a_tenth_at_the_decay_epoch(epoch, step, before, after):
    assert (step - 1) * 256 < epoch * 117_266 <= step * 256
    assert MLPERF.rate(step - 1) == pytest.approx(0.025256 * before, rel=1e-12)
    assert MLPERF.rate(step) == pytest.approx(0.025256 * after, rel=1e-12)


def test_rate_stays_after_the_last_decay():
    assert MLPERF.rate(36_646) == MLPERF.rate(10**7) == pytest.approx(0.00025256, rel=1e-12)


def test_a_step_of_an_epoch_begins_when_its_images_are_seen():
    small = Schedule(RECIPES["mlperf-256"], global_batch=4, num_images=10)
    assert [small.step_of_epoch(epoch) for epoch in (0, 1, 2, 2.5, 4)] == [0, 3, 5, 7, 10]


def test_rounding_errors_of_an_epoch_do_not_add_a_step():
    assert Schedule(RECIPES["mlperf-256"], 1, 10).step_of_epoch(0.1 + 0.2) == 3


# Global batch, rate, warm-up steps, steps of the decays and of an epoch, from spec tables of REF, NVIDIA and the seed.
PUBLISHED = {
    "mlperf-ref-32": (32, 0.0025, 0, (40, 50), 3665),
    "mlperf-1024": (1024, 0.08, 300, (40, 50), 115),
    "mlperf-256": (256, 0.025256, 2290, (44, 55), 459),
    "seed-1p": (32, 0.0025, 0, (44, 55), 3665),
    "seed-8p": (256, 0.025, 0, (45, 58, 84), 459),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_its_sources_rates(name):
    batch, rate, warmup_steps, decays, steps_of_an_epoch = PUBLISHED[name]
    schedule = Schedule(RECIPES[name], batch, 117_266)
    assert schedule.step_of_epoch(1) == steps_of_an_epoch
    assert schedule.rate(warmup_steps) == pytest.approx(rate, rel=1e-12)
    assert warmup_steps == 0 or schedule.rate(warmup_steps - 1) == pytest.approx(rate * (1 - 1 / warmup_steps))
    for n, epoch in enumerate(decays):
        step = schedule.step_of_epoch(epoch)
        assert schedule.rate(step - 1) == pytest.approx(rate * 0.1**n, rel=1e-12)
        assert schedule.rate(step) == pytest.approx(rate * 0.1 ** (n + 1), rel=1e-12)


def test_recipes_have_their_sources_other_numbers():
    decay = {name: recipe.weight_decay for name, recipe in RECIPES.items()}
    assert decay == {
        "mlperf-256": 1.3e-4,
        "mlperf-ref-32": 5e-4,
        "mlperf-1024": 5e-4,
        "seed-1p": 5e-4,
        "seed-8p": 7.5e-4,
        "shapes": 5e-4,
        "finetune": 5e-4,
    }
    assert (RECIPES["seed-1p"].loss_scale, RECIPES["seed-8p"].loss_scale) == (128, 32)
    assert RECIPES["seed-1p"].evaluation_epochs == (40, 50, 55, 60, 65, 70, 75, 80, 85)
    assert RECIPES["seed-8p"].evaluation_epochs == (60, 65, 70, 75, 80, 85)
    assert all(recipe.threshold == 0.23 for name, recipe in RECIPES.items() if name not in ("shapes", "finetune"))
    assert all(recipe.momentum == 0.9 and recipe.decay_bias_bn for recipe in RECIPES.values())


def test_epochs_at_an_interval_end_with_the_last():
    assert epochs_every(5, 20) == (5, 10, 15, 20)
    assert epochs_every(0.1, 0.3) == pytest.approx((0.1, 0.2, 0.3))
    assert epochs_every(7, 5) == ()
