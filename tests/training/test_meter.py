"""Windows and medians of a run's speed."""

import torch

from ssd_graph.graph.step import Metrics
from ssd_graph.training.distributed import World
from ssd_graph.training.meter import Meter


def metrics(loss):
    return Metrics(*(torch.tensor(float(value)) for value in (loss, loss / 2, loss / 2, 7)))


def test_a_window_is_the_mean_since_the_last_one():
    meter = Meter(World())
    for loss in (2, 4):
        meter.add(metrics(loss), waited=0.0)
    first = meter.window()
    assert (first.losses, first.flagged, first.counted) == ([3.0, 1.5, 1.5, 7.0], False, 0)
    assert first.steps_per_second > 0
    meter.add(metrics(10), waited=0.0)
    second = meter.window(flag=True, count=3)
    assert (second.losses, second.flagged, second.counted) == ([10.0, 5.0, 5.0, 7.0], True, 3)


def test_steps_before_the_clock_restarts_count_for_the_loss_but_not_for_the_speed():
    meter = Meter(World())
    meter.add(metrics(2), waited=0.0)
    meter.restart_clock()
    losses, speed, _, _ = meter.window()
    assert losses[0] == 2.0
    assert (speed, meter.speeds) == (0.0, [])


def test_the_seeds_speed_leaves_out_the_first_window():
    meter = Meter(World())
    meter.speeds = [1.0, 10.0, 20.0]
    assert meter.seed_speed() == 15.0
    meter.speeds = [4.0]
    assert meter.seed_speed() == 4.0


def test_the_median_step_leaves_out_the_first_and_tells_data_wait_apart():
    meter = Meter(World(), each_step=True)
    for waited in (0.0, 0.0, 0.0):
        meter.add(metrics(1), waited)
    assert len(meter.steps) == 3
    meter.steps = [(9.0, 5.0), (1.0, 0.25), (3.0, 0.5), (2.0, 1.5)]
    assert meter.median_step() == (2.0, 0.75)


def test_without_single_steps_there_is_no_median():
    meter = Meter(World())
    meter.add(metrics(1), waited=0.0)
    assert meter.median_step() == (0.0, 0.0)
