"""What a run leaves behind: checkpoints, console lines, metrics.jsonl, validations, an MLPerf log.

All processes keep records in the same places of the loop; those of rank 0 speak and are on disk.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from ssd_graph.checkpoints.checkpoint import save_checkpoint
from ssd_graph.cores import has_bf16
from ssd_graph.files import locked_folder
from ssd_graph.graph.model import skeleton
from ssd_graph.graph.state import StateLayout, TrainState
from ssd_graph.graph.step import Metrics
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.training.launch import note_beginning
from ssd_graph.training.meter import Meter, Window
from ssd_graph.training.metrics import RunLog, duration
from ssd_graph.training.mlperf_log import MLPerfLog
from ssd_graph.training.plan import RunPlan
from ssd_graph.training.run_folder import RunFolder
from ssd_graph.training.validate import Validations, Validator

_MANY_BOXES = 256
"""COCO's fullest training image has 93."""


@contextmanager
def open_records(plan: RunPlan, validator: Validator, clock_start: float) -> Iterator["RunRecords"]:
    """The records of a run, in a folder that no other run can write to meanwhile.

    Args:
        clock_start: `time.time()` at which the run began, see MLPerfLog.

    Raises:
        InputError: another run has the folder, or a file cannot be written or continued.
    """
    out = plan.options.out
    busy = f"another run is writing to {out}; wait for it or give another --out"
    with locked_folder(out, busy, "--out") if plan.world.is_main else nullcontext():
        records = RunRecords(plan, validator, clock_start)
        try:
            yield records
        finally:
            records.mlperf.close()
            records.log.close()


class RunRecords:
    """The records of one run; `open_records` makes them."""

    def __init__(self, plan: RunPlan, validator: Validator, clock_start: float) -> None:
        """Begin the records, or continue those of the run to resume without what was written after its first step."""
        self._plan, options = plan, plan.options
        self.folder = RunFolder(options.out, options.keep)
        scorer = CocoScorer(validator.split.annotation_file) if plan.world.is_main else None
        parameters = [name for name, _ in skeleton(plan.model).named_parameters()]
        self.mlperf = MLPerfLog(
            options.mlperf_log if plan.world.is_main else None,
            plan.schedule,
            num_val_images=len(plan.val_split),
            parameters=parameters,
            seed=options.seed,
            clock_start=clock_start,
            first_step=plan.first_step,
        )
        # Last of all that may refuse, since an older run's records and checkpoints go here.
        self.log = RunLog(plan.metrics_file, plan.last_step, plan.first_step, tensorboard=options.tensorboard)
        if plan.world.is_main:
            self.folder.rewind(plan.first_step)
            note_beginning(options.out)
        self.validations = Validations(plan, validator, scorer, self.folder, self.log, self.mlperf)

    def say_beginning(self, state: TrainState, notes: list[str]) -> None:
        """What runs where on what; `notes` come first."""
        plan, log, device = self._plan, self.log, state.parameters.device
        data, recipe = plan.train_split, plan.recipe
        for line in (*notes, *plan.changes()):
            log.say(line)
        log.say(
            f"{len(data):,} training and {len(plan.val_split):,} validation images, {len(data.boxes):,} boxes of "
            f"{plan.model.num_classes - 1} classes (up to {data.max_boxes} an image), "
            f"{plan.schedule.step_of_epoch(1):,} steps an epoch; recipe {recipe.name}"
            + f", frozen up to {recipe.freeze}" * (recipe.freeze != "none")
            + f"; weights: {plan.weights}; results in {plan.options.out}"
        )
        log.say(
            f"{plan.model.preset}, {state.parameters.numel():,} parameters, batch {plan.batch_size} x "
            f"{plan.world.size} on {device.type} ({plan.backend}, amp {plan.amp}), "
            f"steps {plan.first_step:,} to {plan.last_step:,}"
        )
        if plan.weights == "random" and plan.model.preset == "ssd300-r34":
            log.say(
                "the references begin with a trunk from ImageNet: --backbone resnet34-333f7ec4.pth, from "
                "https://download.pytorch.org/models/resnet34-333f7ec4.pth"
            )
        if device.type != "npu" and importlib.util.find_spec("torch_npu"):
            log.say("torch_npu is installed; only --npus loads it, and so nothing here needs CANN")
        if device.type == "cpu" and plan.amp == "off" and has_bf16():
            log.say("this processor multiplies in bfloat16: --amp bf16 trains ssd300-r34 1.7 to 2 times as fast")
        if plan.train_split.max_boxes > _MANY_BOXES:
            counts = np.diff(plan.train_split.offsets)
            fullest = plan.train_split.path(int(counts.argmax()))
            log.say(
                f"{fullest} alone has {counts.max():,} boxes, half of the images have at most {np.median(counts):.0f}: "
                "every image of a batch pays for as many in the matching; remove it if it is a mistake"
            )
        for line in (*plan.train_split.remarks(), *plan.val_split.remarks()):
            log.say(line)
        if unused := plan.train_split.categories_without_boxes():
            log.say(f"{len(unused)} categories have no boxes and will never be found: {', '.join(unused[:5])}")

    def report(self, step: int, window: Window, state: TrainState) -> None:
        """A console line and a record of the steps since the last one, `step` steps being done."""
        schedule, last_step = self._plan.schedule, self._plan.last_step
        speed = window.steps_per_second * schedule.global_batch
        rate = schedule.rate(step - 1)
        epoch = schedule.images_before(step) / schedule.num_images
        left = (last_step - step) * schedule.global_batch / speed if speed else 0.0
        self.log.record(
            "train",
            step,
            epoch=round(epoch, 4),
            **dict(zip(Metrics._fields, window.losses, strict=True)),
            learning_rate=rate,
            images_per_second=round(speed, 3),
            skipped_steps=int(state.num_skipped),
            loss_scale=float(state.loss_scale),
            skipped_images=window.counted,
        )
        self.log.say(
            f"step {step}/{last_step} | epoch {epoch:.2f} | loss {window.losses[0]:.4f} "
            f"(box {window.losses[1]:.4f}, class {window.losses[2]:.4f}) | lr {rate:.6f}"
            + (f" | {speed:.1f} images/s | left {duration(left)}" if speed else "")
            + (f" | {window.counted} bad images skipped" if window.counted else "")
        )

    def save(self, state: TrainState, layout: StateLayout, step: int) -> None:
        """Write the checkpoint of `step`."""
        if not self._plan.world.is_main:
            return
        self.log.sync()
        save_checkpoint(
            self.folder.file_of(step),
            state,
            layout,
            model=self._plan.model,
            categories=self._plan.categories,
            step=step,
            run=self._plan.settings() | {"images_seen": self._plan.schedule.images_before(step)},
        )
        self.folder.mark_last(step)

    def say_results(self, meter: Meter, seconds: float) -> None:
        """How well and how fast the run was, in the words of the seed's scripts."""
        batch, scores = self._plan.schedule.global_batch, self.validations.scores
        if scores is not None:
            self.log.say(scores.table)
        self.log.say(f"Final Performance images/sec : {meter.seed_speed() * batch:.2f}")
        for name, step in zip(("with", "without"), meter.median_step(), strict=True):
            if step:
                self.log.say(f"Median step {name} data wait : {step * 1e3:.2f} ms, {batch / step:.2f} images/sec")
        if scores is not None:
            self.log.say(f"Final Train Accuracy : {scores.stats['AP']:.5f}")
        self.log.say(f"E2E Training Duration sec : {seconds:.0f}")
        if not self._plan.options.performance:
            ap = self.validations.best_ap
            best = f", the best one {self.folder.best} (AP {ap:.4f})" if self.folder.best.exists() else ""
            self.log.say(f"saved: the last checkpoint {self.folder.last}{best}, and metrics.jsonl beside them")
