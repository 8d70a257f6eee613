"""Proves the learning rate against frozen numbers of the MLPerf recipe (COCO's 117,266 images, global batch
256: 2,290 warm-up steps to 0.02, a tenth from epochs 44 and 55 on) and the reference's warm-up formula.
"""

from dataclasses import replace

import pytest

from ssd_graph.config import RECIPES
from ssd_graph.schedule import Schedule

MLPERF = Schedule(RECIPES["mlperf-256"], global_batch=256, num_images=117_266)


def test_warmup_starts_at_zero():
    assert MLPERF.rate(0) == 0


def test_warmup_is_the_references_line():
    for step in (1, 2, 1145, 2000, 2289):
        assert MLPERF.rate(step) == pytest.approx(0.02 - (2290 - step) * 0.02 / 2290, rel=1e-12)


def test_warmup_ends_after_2290_steps():
    assert MLPERF.rate(2289) < 0.02
    assert MLPERF.rate(2290) == MLPERF.rate(2291) == pytest.approx(0.02, rel=1e-12)


@pytest.mark.parametrize(("epoch", "step", "before", "after"), [(44, 20_156, 0.02, 0.002), (55, 25_194, 0.002, 0.0002)])
def test_rate_falls_to_a_tenth_at_the_decay_epoch(epoch, step, before, after):
    assert (step - 1) * 256 < epoch * 117_266 <= step * 256
    assert MLPERF.rate(step - 1) == pytest.approx(before, rel=1e-12)
    assert MLPERF.rate(step) == pytest.approx(after, rel=1e-12)


def test_rate_stays_after_the_last_decay():
    assert MLPERF.rate(36_646) == MLPERF.rate(10**7) == pytest.approx(0.0002, rel=1e-12)


@pytest.mark.parametrize(("batch", "rate"), [(32, 0.0025), (64, 0.005), (256, 0.02), (1024, 0.08)])
def test_base_rate_grows_with_the_global_batch(batch, rate):
    assert Schedule(RECIPES["mlperf-256"], batch, 117_266).base_rate == pytest.approx(rate, rel=1e-12)


def test_without_warmup_the_first_step_has_the_full_rate():
    recipe = replace(RECIPES["mlperf-256"], warmup_epochs=0.0)
    assert Schedule(recipe, 32, 117_266).rate(0) == 0.0025


def test_a_step_of_an_epoch_begins_when_its_images_are_seen():
    small = Schedule(RECIPES["mlperf-256"], global_batch=4, num_images=10)
    assert [small.step_of_epoch(epoch) for epoch in (0, 1, 2, 2.5, 4)] == [0, 3, 5, 7, 10]


def test_rounding_errors_of_an_epoch_do_not_add_a_step():
    assert Schedule(RECIPES["mlperf-256"], 1, 10).step_of_epoch(0.1 + 0.2) == 3
