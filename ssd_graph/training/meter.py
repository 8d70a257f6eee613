"""Mean losses and speed of a run; the losses stay on the device until somebody looks."""

import time
from statistics import mean, median
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_graph.graph.step import Metrics
from ssd_graph.training.distributed import World


class Window(NamedTuple):
    """What was seen between two looks."""

    losses: list[float]
    """Means over steps and processes, in the order of step.Metrics."""
    steps_per_second: float
    """0 if no step was timed."""
    flagged: bool
    """Whether any process set it."""
    counted: int
    """Sum over processes."""


class Meter:
    """Adds up the metrics of steps and times them, from one look at them to the next."""

    def __init__(self, world: World, *, each_step: bool = False) -> None:
        """`each_step` waits for the device after every step, so that single steps can be timed."""
        self.speeds: list[float] = []
        """Steps a second of each window, data wait included."""
        self.steps: list[tuple[float, float]] = []
        """Seconds of each step and, of these, waiting for data; empty without `each_step`."""
        self._world, self._each_step = world, each_step
        self._sum: Tensor | None = None
        self._num_summed = 0
        self._num_timed = 0
        self._begin = self._step_begin = time.perf_counter()

    def add(self, metrics: Metrics, waited: float) -> None:
        """Count a step that waited so many seconds for its data."""
        values = torch.stack(tuple(metrics))
        self._sum = values if self._sum is None else self._sum + values
        self._num_summed += 1
        self._num_timed += 1
        if self._each_step:
            values.cpu()
            now = time.perf_counter()
            self.steps.append((now - self._step_begin, waited))
            self._step_begin = now

    def restart_clock(self) -> float:
        """Wait for the device, then time from here on; returns the seconds since the clock started."""
        if self._sum is not None:
            self._sum.cpu()
        now = time.perf_counter()
        seconds, self._begin, self._num_timed = now - self._begin, now, 0
        self._step_begin = now
        return seconds

    def window(self, flag: bool = False, count: int = 0) -> Window:
        """Look: the means, the speed, and what all processes together make of a flag and of a count."""
        assert self._sum is not None
        ours = self._sum.new_tensor([float(flag), float(count)])
        values = torch.cat([self._sum / self._num_summed, ours])
        self._world.mean_(values)
        *losses, flagged, counted = values.tolist()
        num_steps = self._num_timed
        speed = num_steps / self.restart_clock()
        if num_steps:
            self.speeds.append(speed)
        self._sum, self._num_summed = None, 0
        return Window(losses, speed, flagged > 0, round(counted * self._world.size))

    def seed_speed(self) -> float:
        """Steps a second as the seed's scripts count them: the mean over windows, without the first 20 steps."""
        return mean(self.speeds[1:] or self.speeds or [0.0])

    def median_step(self) -> tuple[float, float]:
        """Median seconds of a step with and without its wait for data, 0 if steps are not timed singly.

        The first, which compiles, is left out.
        """
        steps = self.steps[1:] or self.steps or [(0.0, 0.0)]
        return median(total for total, _ in steps), median(total - waited for total, waited in steps)
