"""The training loop: host work only, and no wait for the device between two console lines."""

import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import torch

from ssd_graph.cli import InputError, launched, speaks
from ssd_graph.compilers.backend import (
    advice_on_memory,
    compile_graph,
    deterministic_kernels,
    keep_addresses,
    require_devices,
)
from ssd_graph.data.cache import PackedImages, open_cache, remove_leftovers
from ssd_graph.data.coco import load_split
from ssd_graph.data.image_files import require_images
from ssd_graph.data.loader import Loader
from ssd_graph.data.shapes import data_root
from ssd_graph.files import require_output
from ssd_graph.graph.step import TrainStep, device_default_boxes
from ssd_graph.training.distributed import joined_world
from ssd_graph.training.feed import feed
from ssd_graph.training.launch import has_begun, launch
from ssd_graph.training.meter import Meter
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.plan import RunPlan, checkpoint_to_resume
from ssd_graph.training.records import RunRecords, open_records
from ssd_graph.training.run_folder import RunFolder
from ssd_graph.training.stop import stop_requests
from ssd_graph.training.validate import Validator


def train(options: TrainOptions, *, command: bool = False) -> None:
    """Train as told, in as many processes as devices; returns when the run is over.

    Args:
        command: whether this process is tools/train_graph.py, which several devices may start again with its flags.

    Raises:
        InputError: something the user can mend: most of it is found before anything is written, a bad image, a full
            disk, too little memory and gradients that stay non-finite later.
        SystemExit: 143 or 130 after SIGTERM or Ctrl-C, once all is saved; with several processes, the exit code of
            one that failed.
    """
    clock_start = time.time()
    kind = require_devices(options.devices, options.num_devices, options.first_device)
    if options.num_devices > 1 and not (launched() or command):
        raise InputError(
            f"num_devices {options.num_devices}: each needs a process, which `python tools/train_graph.py "
            f"--{options.devices}s {options.num_devices}` starts and this program does not"
        )
    root = data_root(options.data)
    how = {"upright": options.upright, "empty_images": options.empty_images}
    training, validation = (load_split(root, name, **how) for name in ("train", "val"))
    if has_begun(options.out):
        options = replace(options, resume="auto")
    resumed, notes = checkpoint_to_resume(options)
    if options.deterministic:
        deterministic_kernels()
    else:
        torch.backends.cudnn.benchmark = True  # shapes never change
    # Before the processes start, so that a cache in memory outlives those that are started again.
    remove_leftovers()
    skip_bad = options.on_bad_image == "skip"
    cache = open_cache(options.cache, training, workers=options.workers, skip_bad=skip_bad) if options.cache else None
    if speaks():
        require_output(options.mlperf_log, "--mlperf-log")
    if speaks() and not options.performance:
        notes += require_images(validation)
    if options.num_devices > 1 and not launched():
        folder = RunFolder(options.out)
        before = folder.checkpoint_times()

        def again() -> list[str]:
            if options.overwrite and not options.resume and folder.checkpoint_times() == before:
                return []  # what is there is still the run that is to be overwritten
            # The folder too: a run that --resume names by its file goes on beside that.
            return ["--resume", "auto", "--out", str(options.out)]

        launch(options.num_devices, options.max_restarts, again)
        return
    with (
        joined_world(kind, options.first_device, exact=options.amp == "off") as (world, device),
        advice_on_memory(options.recipe.batch_size, ", and --accumulate for the same number of images a step"),
    ):
        plan = RunPlan(options, kind, world, (training, validation), resumed)
        trainer = Trainer(plan, device, cache)
        if world.is_main and not options.performance:
            state_bytes = sum(tensor.nbytes for tensor in trainer.state if tensor is not None)
            RunFolder(options.out, options.keep).require_space(state_bytes)
        with open_records(plan, trainer.validator, clock_start) as records:
            records.say_beginning(trainer.state, notes)
            trainer.run(records)


class Trainer:
    """One process's part of a run: the state, the compiled step, and the loop around it."""

    def __init__(self, plan: RunPlan, device: torch.device, cache: PackedImages | None) -> None:
        """`cache` holds the training images, decoded.

        Raises:
            InputError: a file of weights or the backend cannot be used.
        """
        self.plan, self.device = plan, device
        options, recipe, world, kind = plan.options, plan.recipe, plan.world, plan.kind
        step = TrainStep(plan.model, recipe, amp=plan.amp, world_size=world.size, memory_format=kind.memory_format)
        self.layout = step.layout
        self.train_step = compile_graph(step.__call__, plan.backend)
        self.state = plan.first_state(self.layout, self.device)
        if plan.backend != "eager":  # which need not wait for the import of torch's compiler
            keep_addresses(self.state)
        self.defaults = device_default_boxes(self.device)
        self.loader = Loader(
            plan.train_split,
            plan.batch_size,
            recipe.augment,
            seed=options.seed,
            rank=world.rank,
            world_size=world.size,
            offset=plan.schedule.offset,
            workers=options.workers,
            on_bad_image=options.on_bad_image,
            cache=cache,
        )
        self.validator = Validator(
            plan.val_split,
            plan.model,
            batch_size=recipe.batch_size,
            amp=plan.amp,
            backend=plan.backend,
            world=world,
            workers=options.workers,
            memory_format=kind.memory_format,
        )
        self.meter = Meter(world, each_step=options.performance)
        self.step = plan.first_step
        """Steps done."""
        self.reached = False
        """Whether a validation ends the run, by the recipe's threshold or patience, as all processes know."""
        self.signal = 0
        """Number of the signal that ends the run, as all processes know."""
        self._requested: Callable[[], int] = lambda: 0

    def run(self, records: RunRecords) -> None:
        """Train to the last step or to the threshold, then say how well and how fast."""
        start = time.perf_counter()
        learning_rate = torch.zeros((), device=self.device)
        with closing(feed(self.loader.batches(self.step), self.device)) as batches, stop_requests() as self._requested:
            if self.plan.kind.type != "cpu":  # whose graphs are captured in seconds, and not compiled further
                records.log.say("compiling; it is normal that the first step takes minutes")
                if self.plan.validation_steps:
                    self.validator.compile(self.state)
            self.reached = records.validations.make_up_for(self.state, self.step)
            self.meter.restart_clock()
            while self.step < self.plan.last_step and not self.reached and not self.signal:
                records.mlperf.before_step(self.step)
                begin = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - begin
                learning_rate.fill_(self.plan.schedule.rate(self.step))
                self.meter.add(self.train_step(self.state, batch, self.defaults, learning_rate), waited)
                self.step += 1
                self._after_step(records)
            if self.signal:
                self._stop(records)
            records.mlperf.run_stop(self.step)
        records.say_results(self.meter, time.perf_counter() - start)

    def _after_step(self, records: RunRecords) -> None:
        """Look, save and validate where it is due; a save ends the window, so that a resumed run has the same ones."""
        records.log.advance()
        if self.step == self.plan.first_step + 1:
            records.log.say(f"first step, compilation included: {self.meter.restart_clock():.1f} s")
        validate = self.step in self.plan.validation_steps
        save = validate or self.plan.saves_after(self.step)
        if self.plan.world.size == 1:
            self.signal = self._requested()
        due = save or self.step % self.plan.options.print_every == 0 or self.step == self.plan.last_step
        if due or self.signal:
            self._report(records)
        if save and not self.signal:
            records.save(self.state, self.layout, self.step)
            if validate:
                self.reached = records.validations.run(self.state, self.step)
            self.meter.restart_clock()

    def _report(self, records: RunRecords) -> None:
        """Say how it goes; the ranks learn together whether a signal ends the run."""
        window = self.meter.window(bool(self._requested()), self.loader.num_skipped)
        self.loader.num_skipped = 0
        if window.flagged:
            self.signal = max(self.plan.world.gather(self._requested()))
        records.report(self.step, window, self.state)
        self._refuse_to_go_on_skipping(records.folder)

    def _stop(self, records: RunRecords) -> None:
        """Save and end as a signal asked; of several processes they do so together, at a console line."""
        name = signal.Signals(self.signal).name
        if self.plan.options.performance:
            records.log.say(f"{name}: ended at step {self.step}")
        else:
            records.save(self.state, self.layout, self.step)
            records.log.say(f"{name}: saved at step {self.step}; go on with --resume auto")
        raise SystemExit(128 + self.signal)

    def _refuse_to_go_on_skipping(self, folder: RunFolder) -> None:
        num_skipped = int(self.state.skip_streak)
        if num_skipped >= self.plan.options.max_skipped:
            good = f"the last checkpoint is {folder.last}" if folder.last.is_file() else "nothing was saved"
            raise InputError(
                f"the last {num_skipped} steps had non-finite gradients and were skipped; {good}; try a lower --lr, "
                "--loss-scale dynamic or --amp bf16"
            )
