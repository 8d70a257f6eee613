"""The training loop: host work only, and no wait for the device between two console lines."""

from __future__ import annotations

import importlib.util
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from ssd_graph.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_trunk, save_checkpoint
from ssd_graph.checkpoints.convert import load_weights
from ssd_graph.cli import InputError
from ssd_graph.compilers.backend import DeviceKind, compile_graph, keep_addresses, require_devices
from ssd_graph.config import model_config
from ssd_graph.data.cache import PackedImages, open_cache
from ssd_graph.data.coco import CocoSplit, load_split
from ssd_graph.data.loader import Loader
from ssd_graph.data.shapes import data_root
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import TrainState
from ssd_graph.graph.step import Metrics, TrainStep, device_default_boxes
from ssd_graph.training.distributed import World, broadcast_state, device_of, join_world, launch, launched, leave_world
from ssd_graph.training.feed import feed
from ssd_graph.training.meter import Meter
from ssd_graph.training.metrics import RunLog, duration, require_log
from ssd_graph.training.mlperf_log import MLPerfLog
from ssd_graph.training.options import TrainOptions, changed_settings
from ssd_graph.training.run_folder import RunFolder
from ssd_graph.training.schedule import Schedule
from ssd_graph.training.validate import Validations, Validator


def train(options: TrainOptions) -> None:
    """Train as told, in as many processes as devices; returns when the run is over.

    Raises:
        InputError: something the user can mend, found before anything is written, or gradients that stay
            non-finite.
        SystemExit: with several processes, the exit code of one that failed.
    """
    clock_start = time.time()
    kind = require_devices(options.devices, options.first_device + options.num_devices)
    root = data_root(options.data)
    splits = load_split(root, "train"), load_split(root, "val")
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        options = replace(options, resume="auto")
    resumed, notes = _resumed(options)
    # Before the processes start, so that a cache in memory outlives those that are started again.
    skip_bad = options.on_bad_image == "skip"
    cache = open_cache(options.cache, splits[0], workers=options.workers, skip_bad=skip_bad) if options.cache else None
    if options.num_devices > 1 and not launched():
        launch(options.num_devices, options.max_restarts)
        return
    world = join_world(kind.collectives)
    try:
        trainer = Trainer(options, kind, world, splits, cache, resumed)
        with trainer.folder.locked() if world.is_main else nullcontext():
            trainer.open_log(notes, clock_start)
            trainer.run()
    finally:
        leave_world()


def _resumed(options: TrainOptions) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to continue, if any, and what to say about it."""
    folder = RunFolder(options.out)
    if options.resume is None:
        if folder.last.is_file() and not options.overwrite:
            raise InputError(
                f"{options.out} holds a run's checkpoints; continue it with --resume auto, or give another --out, or "
                "--overwrite"
            )
        return None, []
    if options.resume == "auto":
        return folder.load_last()
    file = Path(options.resume)
    if file.name == folder.last.name and file.is_file():
        return RunFolder(file.parent).load_last()
    return load_checkpoint(file), []


class Trainer:
    """One process's part of a run."""

    def __init__(
        self,
        options: TrainOptions,
        kind: DeviceKind,
        world: World,
        splits: tuple[CocoSplit, CocoSplit],
        cache: PackedImages | None,
        resumed: Checkpoint | None,
    ) -> None:
        self.options, self.world, self.recipe = options, world, options.recipe
        self.amp, self.backend = options.amp or kind.amp, options.backend or kind.backend
        self.device = device_of(kind.type, world, options.first_device)
        self.train_split, self.val_split = splits
        self.categories = self.train_split.categories
        self.model = model_config(options.preset, self.categories.num_classes)
        batch_size = self.recipe.batch_size * self.recipe.accumulate
        self.schedule = Schedule(self.recipe, batch_size * world.size, len(self.train_split))
        last = self.schedule.step_of_epoch(self.recipe.epochs)
        self.last_step = min(last, options.max_steps) if options.max_steps is not None else last
        self.first_step = self.step = resumed.step if resumed else 0
        self._refuse_mismatches(resumed)

        step = TrainStep(self.model, self.recipe, amp=self.amp, world_size=world.size, memory_format=kind.memory_format)
        self.layout = step.layout
        self.parameter_names = [name for name, _ in step.model.named_parameters()]
        self.train_step = compile_graph(step.__call__, self.backend)
        self.state = resumed.state(self.layout, self.device) if resumed else self._first_state()
        keep_addresses(self.state)
        self.defaults = device_default_boxes(self.device)
        self.loader = Loader(
            self.train_split,
            batch_size,
            self.recipe.augment,
            seed=options.seed,
            rank=world.rank,
            world_size=world.size,
            workers=options.workers,
            on_bad_image=options.on_bad_image,
            cache=cache,
        )
        self.validator = Validator(
            self.val_split,
            self.model,
            batch_size=self.recipe.batch_size,
            amp=self.amp,
            backend=self.backend,
            world=world,
            workers=options.workers,
        )
        self.reached = False
        """Whether the recipe's threshold is, as all processes know."""
        self.folder = RunFolder(options.out, options.keep)
        self.changes = changed_settings(resumed.run, self.settings()) if resumed else []
        self.meter = Meter(world, each_step=options.performance)

    def settings(self) -> dict[str, object]:
        """What a checkpoint says of the run that wrote it."""
        return {
            **self.options.settings(),
            "amp": self.amp,
            "backend": self.backend,
            "world_size": self.world.size,
            "train_fingerprint": self.train_split.fingerprint,
        }

    def _refuse_mismatches(self, resumed: Checkpoint | None) -> None:
        if self.val_split.categories != self.categories:
            raise InputError("training and validation annotations list different categories; use one list for both")
        if not resumed:
            return
        if (resumed.model, resumed.categories) != (self.model, self.categories):
            raise InputError(
                f"the checkpoint to resume has preset {resumed.model.preset} or other categories; use --checkpoint to "
                "begin a new run with its weights"
            )
        if "train_fingerprint" not in resumed.run:
            raise InputError("the checkpoint to resume was imported, not trained here; begin with it by --checkpoint")
        if resumed.run["train_fingerprint"] != self.train_split.fingerprint:
            raise InputError(
                f"{self.train_split.annotation_file} has changed since the checkpoint was written; use --checkpoint "
                "to begin a new run with its weights"
            )
        if self.world.is_main and self.step:
            require_log(self.options.out / "metrics.jsonl")
        if self.step >= self.last_step:
            raise InputError(f"nothing left to train: step {self.step} of {self.last_step} is done; give more --epochs")

    def _first_state(self) -> TrainState:
        torch.manual_seed(self.options.seed)
        model = SSD300(self.model)
        if self.options.backbone:
            load_trunk(self.options.backbone, model.trunk)
        if self.options.checkpoint:
            load_weights(self.options.checkpoint, model, self.categories)
        loss_scale = self.recipe.loss_scale if self.amp == "fp16" else 1.0
        state = self.layout.new_state(model.to(self.device), loss_scale=loss_scale)
        if self.recipe.ema_decay:
            state = state._replace(ema=state.parameters.clone())
        broadcast_state(state, self.world)
        return state

    def open_log(self, notes: list[str], clock_start: float) -> None:
        """Begin or continue `metrics.jsonl`, forget what was written after the first step, say what runs where."""
        path = self.options.out / "metrics.jsonl" if self.world.is_main else None
        self.log = RunLog(path, self.last_step, self.first_step, tensorboard=self.options.tensorboard)
        if path:
            self.folder.rewind(self.first_step)
        self.mlperf = MLPerfLog(
            self.options.mlperf_log if self.world.is_main else None,
            self.schedule,
            num_val_images=len(self.val_split),
            parameters=self.parameter_names,
            seed=self.options.seed,
            clock_start=clock_start,
            first_step=self.first_step,
        )
        steps = {self.schedule.step_of_epoch(epoch) for epoch in self.recipe.evaluation_epochs} | {self.last_step}
        self.validations = Validations(
            self.validator,
            () if self.options.performance else steps,
            self.recipe.threshold,
            self.world,
            self.folder,
            self.log,
            self.mlperf,
        )
        if self.world.from_main(self.validations.passed):
            self.log.close()
            self.mlperf.close()
            threshold = self.recipe.threshold
            raise InputError(f"nothing left to train: AP has reached --threshold {threshold}; give a higher one")
        for note in notes:
            self.log.say(note)
        if self.changes:
            self.log.say(f"not the continuation of the same run: {', '.join(self.changes)}")
        where = f"on {self.device.type} ({self.backend}, amp {self.amp})"
        self.log.say(
            f"{self.model.preset}, {self.state.parameters.numel():,} parameters, {len(self.train_split):,} training "
            f"and {len(self.val_split):,} validation images of {self.model.num_classes - 1} categories, "
            f"batch {self.loader.batch_size} x {self.world.size} {where}, steps {self.step:,} to {self.last_step:,}"
        )
        if self.device.type != "npu" and importlib.util.find_spec("torch_npu"):
            self.log.say("torch_npu is installed; only --npus loads it, and so nothing here needs CANN")
        if self.train_split.num_empty_boxes:
            self.log.say(f"left out {self.train_split.num_empty_boxes} boxes without area")

    def run(self) -> None:
        """Train to the last step or to the threshold, then say how well and how fast."""
        start = time.perf_counter()
        batches = feed(self.loader.batches(self.step), self.device)
        learning_rate = torch.zeros((), device=self.device)
        try:
            self.validations.make_up_for(self.state, self.step)
            self.meter.restart_clock()
            while self.step < self.last_step and not self.reached:
                self.mlperf.before_step(self.step)
                begin = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - begin
                learning_rate.fill_(self.schedule.rate(self.step))
                self.meter.add(self.train_step(self.state, batch, self.defaults, learning_rate), waited)
                self.step += 1
                self._after_step()
            self.validations.collect(wait=True)
            self.mlperf.run_stop(self.step)
        finally:
            batches.close()
            self.mlperf.close()
            self.log.close()
        self._say_results(time.perf_counter() - start)

    def _after_step(self) -> None:
        """Look, save and validate where it is due; a save ends the window, so that a resumed run has the same ones."""
        self.log.advance()
        if self.step == self.first_step + 1:
            self.log.say(f"first step, compilation included: {self.meter.restart_clock():.1f} s")
        save = self._save_due()
        if save or self.step % self.options.print_every == 0 or self.step == self.last_step:
            self._report(wait=save)
        if save and not self.reached:
            self._save()
            if self.validations.due(self.step):
                self.validations.begin(self.state, self.step)
            self.meter.restart_clock()

    def _save_due(self) -> bool:
        every = self.options.save_every
        return self.validations.due(self.step) or (every is not None and self.step % every == 0)

    def _report(self, *, wait: bool) -> None:
        """A console line and a record; the ranks learn together whether the threshold is reached.

        Before a save, it waits for the scores of the last validation: what lies behind a checkpoint is recorded.
        """
        self.validations.collect(wait=wait)
        window = self.meter.window(self.validations.passed, self.loader.num_skipped)
        self.loader.num_skipped = 0
        self.reached = window.flagged
        global_batch = self.schedule.global_batch
        speed = window.steps_per_second * global_batch
        rate = self.schedule.rate(self.step - 1)
        epoch = self.step * global_batch / self.schedule.num_images
        left = (self.last_step - self.step) * global_batch / speed if speed else 0.0
        self.log.record(
            "train",
            self.step,
            epoch=round(epoch, 4),
            **dict(zip(Metrics._fields, window.losses, strict=True)),
            learning_rate=rate,
            images_per_second=round(speed, 3),
            skipped_steps=int(self.state.num_skipped),
            loss_scale=float(self.state.loss_scale),
            skipped_images=window.counted,
        )
        self.log.say(
            f"step {self.step}/{self.last_step} | epoch {epoch:.2f} | loss {window.losses[0]:.4f} "
            f"(box {window.losses[1]:.4f}, class {window.losses[2]:.4f}) | lr {rate:.6f} | {speed:.1f} images/s | "
            f"left {duration(left)}" + (f" | {window.counted} bad images skipped" if window.counted else "")
        )
        self._refuse_to_go_on_skipping()

    def _refuse_to_go_on_skipping(self) -> None:
        num_skipped = int(self.state.skip_streak)
        if num_skipped >= self.options.max_skipped:
            good = f"the last checkpoint is {self.folder.last}" if self.folder.last.is_file() else "nothing was saved"
            raise InputError(
                f"the last {num_skipped} steps had non-finite gradients and were skipped; {good}; try a lower --lr, "
                "--loss_scale dynamic or --amp bf16"
            )

    def _save(self) -> None:
        if not self.world.is_main:
            return
        self.log.sync()
        save_checkpoint(
            self.folder.file_of(self.step),
            self.state,
            self.layout,
            model=self.model,
            categories=self.categories,
            step=self.step,
            run=self.settings(),
        )
        self.folder.mark_last(self.step)

    def _say_results(self, seconds: float) -> None:
        if not self.world.is_main:
            return
        batch = self.schedule.global_batch
        scores = self.validations.scores
        if scores is not None:
            print(scores.table)
        print(f"Final Performance images/sec : {self.meter.seed_speed() * batch:.2f}")
        for name, step in zip(("with", "without"), self.meter.median_step(), strict=True):
            if step:
                print(f"Median step {name} data wait : {step * 1e3:.2f} ms, {batch / step:.2f} images/sec")
        if scores is not None:
            print(f"Final Train Accuracy : {scores.stats['AP']:.5f}")
        print(f"E2E Training Duration sec : {seconds:.0f}")
