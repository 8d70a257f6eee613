"""The training loop: host work only, and no wait for the device between two console lines."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssd_graph.backend import DeviceKind, compile_graph, require_devices
from ssd_graph.checkpoint import Checkpoint, load_checkpoint, load_trunk, save_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.coco import CocoSplit, load_split
from ssd_graph.config import Recipe, model_config
from ssd_graph.distributed import World, broadcast_state, device_of, join_world, launch, launched, leave_world
from ssd_graph.evaluate import CocoScores
from ssd_graph.loader import Batch, Loader
from ssd_graph.metrics import RunLog, duration
from ssd_graph.model import SSD300
from ssd_graph.schedule import Schedule
from ssd_graph.shapes import data_root
from ssd_graph.state import TrainState
from ssd_graph.step import Amp, Metrics, TrainStep, device_default_boxes
from ssd_graph.validate import Validator


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """A run, as tools/train_graph.py's flags give it; None leaves a choice to the device or the recipe."""

    data: str
    preset: str
    recipe: Recipe
    devices: str = "cpu"
    """A key of backend.DEVICES."""
    num_devices: int = 1
    max_steps: int | None = None
    seed: int = 1
    workers: int = 2
    amp: Amp | None = None
    backend: str | None = None
    out: Path = Path("runs/last")
    print_every: int = 20
    save_every: int | None = None
    """Steps between checkpoints; None saves after each validation."""
    resume: Path | None = None
    backbone: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: give 0 or more")
        for flag, value in (("--epochs", self.recipe.epochs), ("--validate-every", self.recipe.validate_every)):
            if not value > 0:
                raise InputError(f"{flag} {value}: give more than 0")
        if not 0 <= self.recipe.learning_rate < float("inf"):
            raise InputError(f"--lr {self.recipe.learning_rate}: give 0 or more")


def train(options: TrainOptions) -> None:
    """Train as told, in as many processes as devices; returns when the run is over.

    Raises:
        InputError: something the user can mend, found before anything is written.
    """
    kind = require_devices(options.devices, options.num_devices)
    root = data_root(options.data)
    splits = load_split(root, "train"), load_split(root, "val")
    resumed = load_checkpoint(options.resume) if options.resume else None
    if options.num_devices > 1 and not launched():
        launch(options.num_devices)
        return
    world = join_world(kind.collectives)
    try:
        Trainer(options, kind, world, splits, resumed).run()
    finally:
        leave_world()


class Trainer:
    """One process's part of a run."""

    def __init__(
        self,
        options: TrainOptions,
        kind: DeviceKind,
        world: World,
        splits: tuple[CocoSplit, CocoSplit],
        resumed: Checkpoint | None,
    ) -> None:
        self.options, self.world, self.recipe = options, world, options.recipe
        self.device = device_of(kind.type, world)
        self.train_split, val_split = splits
        self.model = model_config(options.preset, self.train_split.categories.num_classes)
        self.step, self.best_ap = (resumed.step, resumed.best_ap) if resumed else (0, -1.0)
        self.scores: CocoScores | None = None
        batch_size = self.recipe.batch_size
        self.schedule = Schedule(self.recipe, batch_size * world.size, len(self.train_split))
        last = self.schedule.step_of_epoch(self.recipe.epochs)
        self.last_step = min(last, options.max_steps) if options.max_steps is not None else last
        self._refuse_mismatches(val_split, resumed)

        amp, backend = options.amp or kind.amp, options.backend or kind.backend
        step = TrainStep(self.model, self.recipe, amp=amp, world_size=world.size)
        self.layout = step.layout
        self.train_step = compile_graph(step.__call__, backend)
        self.state = self._first_state(resumed, self.recipe.loss_scale if amp == "fp16" else 1.0)
        self.defaults = device_default_boxes(self.device)
        shard = {"rank": world.rank, "world_size": world.size, "workers": options.workers}
        self.loader = Loader(self.train_split, batch_size, self.recipe.augment, seed=options.seed, **shard)
        self.validator = Validator(
            val_split,
            self.model,
            batch_size=batch_size,
            amp=amp,
            backend=backend,
            world=world,
            workers=options.workers,
        )
        self.log = RunLog(options.out / "metrics.jsonl" if world.is_main else None, self.last_step, self.step)
        self._introduce(f"on {self.device.type} ({backend}, amp {amp})", val_split)

    def _refuse_mismatches(self, val_split: CocoSplit, resumed: Checkpoint | None) -> None:
        if val_split.categories != self.train_split.categories:
            raise InputError("training and validation annotations list different categories; use one list for both")
        if resumed and (resumed.model, resumed.categories) != (self.model, self.train_split.categories):
            raise InputError(
                f"{self.options.resume} was trained with preset {resumed.model.preset} or other categories"
            )
        if self.step >= self.last_step:
            raise InputError(f"nothing left to train: step {self.step} of {self.last_step} is done; give more --epochs")

    def _introduce(self, where: str, val_split: CocoSplit) -> None:
        num_parameters = self.state.parameters.numel()
        self.log.say(
            f"{self.model.preset}, {num_parameters:,} parameters, {len(self.train_split):,} training and "
            f"{len(val_split):,} validation images of {self.model.num_classes - 1} categories, "
            f"batch {self.recipe.batch_size} x {self.world.size} {where}, {self.last_step:,} steps"
        )
        if self.device.type != "npu" and importlib.util.find_spec("torch_npu"):
            self.log.say("torch_npu is installed; only --npus loads it, and so nothing here needs CANN")
        if self.train_split.num_empty_boxes:
            self.log.say(f"left out {self.train_split.num_empty_boxes} boxes without area")

    def _first_state(self, resumed: Checkpoint | None, loss_scale: float) -> TrainState:
        if resumed:
            return resumed.state(self.layout, self.device)
        torch.manual_seed(self.options.seed)
        model = SSD300(self.model)
        if self.options.backbone:
            load_trunk(self.options.backbone, model.trunk)
        state = self.layout.new_state(model.to(self.device), loss_scale=loss_scale)
        broadcast_state(state, self.world)
        return state

    def run(self) -> None:
        """Train to the last step, then say how well and how fast."""
        start = time.perf_counter()
        first_step, meter = self.step, _Meter(self.world)
        learning_rate = torch.zeros((), device=self.device)
        batches = self.loader.batches(first_step)
        try:
            while self.step < self.last_step:
                batch = Batch(*(torch.from_numpy(a).to(self.device, non_blocking=True) for a in next(batches)))
                learning_rate.fill_(self.schedule.rate(self.step))
                meter.add(self.train_step(self.state, batch, self.defaults, learning_rate))
                self.step += 1
                self.log.advance()
                if self.step == first_step + 1:
                    self.log.say(f"first step, compilation included: {meter.restart_clock():.1f} s")
                if self.step % self.options.print_every == 0 or self.step == self.last_step:
                    self._report(meter)
                validate = self._validation_due()
                save = self.options.save_every is not None and self.step % self.options.save_every == 0
                if validate or save:
                    self.world.mean_(self.state.bn_statistics)
                    self._validate() if validate else self._save("last.pth")
                    meter.restart_clock()
        finally:
            batches.close()
            self.log.close()
        self._say_results(meter.speeds, time.perf_counter() - start)

    def _validation_due(self) -> bool:
        every = self.recipe.validate_every
        epoch = self.step * self.schedule.global_batch / self.schedule.num_images
        return self.step == self.last_step or self.step == self.schedule.step_of_epoch(epoch // every * every)

    def _report(self, meter: _Meter) -> None:
        losses, steps_per_second = meter.window()
        speed = steps_per_second * self.schedule.global_batch
        rate = self.schedule.rate(self.step - 1)
        epoch = self.step * self.schedule.global_batch / self.schedule.num_images
        left = (self.last_step - self.step) * self.schedule.global_batch / speed if speed else 0.0
        self.log.record(
            "train",
            self.step,
            epoch=round(epoch, 4),
            **dict(zip(Metrics._fields, losses, strict=True)),
            learning_rate=rate,
            images_per_second=round(speed, 3),
            skipped_steps=int(self.state.num_skipped),
        )
        self.log.say(
            f"step {self.step}/{self.last_step} | epoch {epoch:.2f} | loss {losses[0]:.4f} "
            f"(box {losses[1]:.4f}, class {losses[2]:.4f}) | lr {rate:.6f} | {speed:.1f} images/s | "
            f"left {duration(left)}"
        )

    def _validate(self) -> None:
        begin = time.perf_counter()
        self.scores = scores = self.validator.score(self.state)
        if scores is None:
            return
        seconds = round(time.perf_counter() - begin, 2)
        self.log.record("validation", self.step, seconds=seconds, **scores.stats, per_class=scores.per_class)
        self.log.say(f"step {self.step} | " + " ".join(f"{k} {v:.4f}" for k, v in scores.stats.items()))
        improved = scores.stats["AP"] > self.best_ap
        self.best_ap = max(self.best_ap, scores.stats["AP"])
        self._save("last.pth")
        if improved:
            self._save("best.pth")

    def _save(self, name: str) -> None:
        if not self.world.is_main:
            return
        run = asdict(self.options)
        save_checkpoint(
            self.options.out / name,
            self.state,
            self.layout,
            model=self.model,
            categories=self.train_split.categories,
            step=self.step,
            best_ap=self.best_ap,
            run={
                **run,
                "out": str(run["out"]),
                "resume": str(run["resume"]),
                "backbone": str(run["backbone"]),
            },
        )

    def _say_results(self, steps_per_second: list[float], seconds: float) -> None:
        if self.scores is None:
            return
        # The seed's speed is the mean over its console lines without the first two.
        kept = steps_per_second[2:] or steps_per_second or [0.0]
        speed = sum(kept) / len(kept) * self.schedule.global_batch
        print(self.scores.table)
        print(f"Final Performance images/sec : {speed:.2f}")
        print(f"Final Train Accuracy : {self.scores.stats['AP']:.5f}")
        print(f"E2E Training Duration sec : {seconds:.0f}")


class _Meter:
    """Mean losses and speed since the last console line; losses stay on the device until then."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.speeds: list[float] = []
        """Steps a second of each window."""
        self._sum: Tensor | None = None
        self._num_summed = 0
        self._num_timed = 0
        self._begin = time.perf_counter()

    def add(self, metrics: Metrics) -> None:
        """Count a step."""
        values = torch.stack(tuple(metrics))
        self._sum = values if self._sum is None else self._sum + values
        self._num_summed += 1
        self._num_timed += 1

    def restart_clock(self) -> float:
        """Wait for the device, then time from here on; returns the seconds since the clock started."""
        if self._sum is not None:
            self._sum.cpu()
        now = time.perf_counter()
        seconds, self._begin, self._num_timed = now - self._begin, now, 0
        return seconds

    def window(self) -> tuple[list[float], float]:
        """Mean of the losses over steps and processes, and steps a second (0 if none was timed)."""
        assert self._sum is not None
        mean = self._sum / self._num_summed
        self.world.mean_(mean)
        losses, num_steps = mean.tolist(), self._num_timed
        speed = num_steps / self.restart_clock()
        if num_steps:
            self.speeds.append(speed)
        self._sum, self._num_summed = None, 0
        return losses, speed
