"""What a run will do: its options, its data and the checkpoint that it goes on from, taken together.

Every process makes the same plan, before anything is computed or written.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssd_graph.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_trunk
from ssd_graph.checkpoints.convert import load_weights
from ssd_graph.cli import InputError
from ssd_graph.compilers.backend import DeviceKind, default_amp
from ssd_graph.config import Amp, model_config
from ssd_graph.data.coco import CocoSplit
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import StateLayout, TrainState
from ssd_graph.training.distributed import World, broadcast_state
from ssd_graph.training.metrics import read_records
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.run_folder import RunFolder
from ssd_graph.training.saved_run import SavedRun
from ssd_graph.training.schedule import Schedule


def run_to_resume(resume: str, out: Path | None) -> tuple[TrainOptions | None, Path]:
    """The run that --resume names, as it began, and the folder to go on in; None if `auto` finds none in `out`.

    Raises:
        InputError: as `checkpoint_to_resume`; or an older checkpoint is named without a folder.
    """
    if out is None:
        out = TrainOptions().out if resume == "auto" else Path(resume).parent
        if Path(resume).is_file() and Path(resume).resolve() != RunFolder(out).last.resolve():
            raise InputError(
                f"--resume {resume}: it is not the newest of its run; to go on from it, and remove those, give --out "
                f"{Path(resume).resolve().parent}"
            )
    resumed, _ = checkpoint_to_resume(TrainOptions(resume=resume, out=out))
    return SavedRun.of(resumed).options if resumed else None, out


def checkpoint_to_resume(options: TrainOptions) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to continue, if any, and what to say about it.

    Raises:
        InputError: it is damaged or of another folder, or the folder holds a run that nobody asked to continue.
    """
    folder = RunFolder(options.out)
    if options.resume is None:
        if folder.holds_run() and not options.overwrite:
            raise InputError(
                f"{options.out} holds a run's checkpoints; continue it with --resume auto, or give another --out, or "
                "--overwrite"
            )
        return None, []
    if options.resume == "auto":
        return folder.load_last()
    file = Path(options.resume)
    if file.name == folder.last.name and file.is_file():
        checkpoint, notes = RunFolder(file.parent).load_last()
    else:
        checkpoint, notes = load_checkpoint(file), []
    if file.resolve().parent != folder.path.resolve():
        raise InputError(
            f"--resume {file}: a run goes on in its own folder, not in {folder.path}; begin another with its weights "
            "by --checkpoint"
        )
    return checkpoint, notes


class RunPlan:
    """A run on one of its processes."""

    def __init__(
        self,
        options: TrainOptions,
        kind: DeviceKind,
        world: World,
        splits: tuple[CocoSplit, CocoSplit],
        resumed: Checkpoint | None = None,
    ) -> None:
        """`splits` are those to train and to validate on.

        Raises:
            InputError: options, data and checkpoint do not fit together, or nothing is left to train.
        """
        self.kind, self.world, self.recipe = kind, world, options.recipe
        self._resumed, self._before = resumed, SavedRun.of(resumed) if resumed else None
        self.amp: Amp = options.amp or default_amp(kind)
        self.backend = options.backend or kind.backend
        self.options = replace(options, amp=self.amp, backend=self.backend)
        self.train_split, val_split = splits
        self.categories = self.train_split.categories
        self.val_split = val_split.numbered_as(
            self.categories, self.train_split.annotation_file, "list the same categories in both files"
        )
        self.model = model_config(options.preset, self.categories.num_classes)
        self.batch_size = self.recipe.images_a_step
        """Images of a step on this process."""
        self._refuse_mismatches()
        self.first_step, global_batch, offset = 0, self.batch_size * world.size, 0
        if resumed and self._before:
            self.first_step = resumed.step
            offset = self._before.images_seen_after(resumed.step) - resumed.step * global_batch
        self.schedule = Schedule(self.recipe, global_batch, len(self.train_split), offset)
        last = self.schedule.step_of_epoch(self.recipe.epochs)
        self.last_step = min(last, options.max_steps) if options.max_steps is not None else last
        self.validation_steps: set[int] = set()
        if not options.performance:
            self.validation_steps = {self.schedule.step_of_epoch(epoch) for epoch in self.recipe.evaluation_epochs}
            self.validation_steps.add(self.last_step)
            self.validation_steps.discard(0)  # of which there is no checkpoint
        self._require_the_same_on_all()
        self.metrics_file = options.out / "metrics.jsonl" if world.is_main else None
        self.weights = "random"
        """Where those of the first step are from; `first_state` says."""
        self.validated = self._validated()
        """AP of each validated step before the first one; on rank 0 only."""
        self._refuse_to_do_nothing()

    def settings(self) -> dict[str, Any]:
        """What a checkpoint says of the run that wrote it."""
        return {
            **self.options.settings(),
            "world_size": self.world.size,
            "train_fingerprint": self.train_split.fingerprint,
            "val_fingerprint": self.val_split.fingerprint,
        }

    def saves_after(self, step: int) -> bool:
        """Whether there is a checkpoint after `step` steps that no validation asks for."""
        if self.options.performance:
            return False
        if self.options.save_every:
            return step % self.options.save_every == 0
        return self.schedule.epochs_done(step) > self.schedule.epochs_done(step - 1)

    def reason_to_end(self, aps: Sequence[float]) -> str | None:
        """Why validations with these APs, in their order, end the run, if they do."""
        best, threshold, patience = max(aps, default=-1.0), self.recipe.threshold, self.recipe.patience
        if threshold is not None and best >= threshold:
            return f"AP {best:.4f} reaches --threshold {threshold}"
        if patience is not None and aps and len(aps) - 1 - list(aps).index(best) >= patience:
            return f"no better AP than {best:.4f} in {patience} validations, which is the --patience"
        return None

    def changes(self) -> list[str]:
        """What is other than in the run that it goes on from, a line each."""
        before = self._before
        lines = before.changes(self.options, self.world.size) if before else []
        if before and before.global_batch != self.schedule.global_batch:
            seen, step = self.schedule.images_before(self.first_step), self.first_step
            lines.append(
                f"{self.schedule.global_batch} images a step instead of {before.global_batch}: it goes on behind the "
                f"{seen:,} images seen, at epoch {seen / len(self.train_split):.2f}; the learning rate grows with the "
                f"images of a step and is {self.schedule.rate(step):.6f}"
            )
        return lines

    def first_state(self, layout: StateLayout, device: torch.device) -> TrainState:
        """The checkpoint's state, or that of step 0, the same on all processes.

        Raises:
            InputError: a file of weights cannot be used.
        """
        if self._resumed:
            self.weights = f"the checkpoint of step {self.first_step:,}"
            return self._as_recipe(self._resumed.state(layout, device))
        torch.manual_seed(self.options.seed)
        model = SSD300(self.model)
        if self.options.backbone:
            load_trunk(self.options.backbone, model.trunk)
            self.weights = f"the trunk of {self.options.backbone}"
        if self.options.checkpoint:
            heads = load_weights(self.options.checkpoint, model, self.categories)
            anew = "" if heads else ", the heads anew for other or unnamed categories"
            self.weights = f"{self.options.checkpoint}{anew}"
        state = self._as_recipe(layout.load(model.to(device).state_dict()))
        broadcast_state(state, self.world)
        return state

    def _as_recipe(self, state: TrainState) -> TrainState:
        """With a moving average if the recipe keeps one, and with its loss scale unless the run had that before."""
        if not self._before or _loss_scaling(self._before.options) != _loss_scaling(self.options):
            state.loss_scale.fill_(self.recipe.loss_scale if self.amp == "fp16" else 1.0)
            state.finite_streak.zero_()
        if self.recipe.ema_decay and state.ema is None:
            state = state._replace(ema=state.parameters.clone())
        return state

    def _refuse_mismatches(self) -> None:
        resumed, before = self._resumed, self._before
        if not (resumed and before):
            return
        if (resumed.model, resumed.categories) != (self.model, self.categories):
            raise InputError(
                f"the checkpoint to resume has preset {resumed.model.preset} or other categories; use --checkpoint to "
                "begin a new run with its weights"
            )
        fingerprints = ((self.train_split, before.train_fingerprint), (self.val_split, before.val_fingerprint))
        for split, fingerprint in fingerprints:
            if fingerprint not in (None, split.fingerprint):
                why = f"{split.annotation_file} has changed since the checkpoint was written"
                if self.options.empty_images != before.options.empty_images:
                    why = f"the checkpoint was trained with --empty-images {before.options.empty_images}"
                raise InputError(f"{why}; use --checkpoint to begin a new run with its weights")

    def _require_the_same_on_all(self) -> None:
        """Processes that went on from other steps, or with other data, would wait for one another for ever."""
        plan = self.first_step, self._resumed and self._resumed.sha256, self.last_step
        splits = self.train_split.fingerprint, self.val_split.fingerprint
        if len(set(self.world.gather((plan, splits)))) > 1:
            raise InputError(
                "the processes do not find the same checkpoint and data; have --data and --out on a disk that all "
                "machines see"
            )

    def _validated(self) -> dict[int, float]:
        if not self.metrics_file or not self.first_step:
            return {}
        records = read_records(self.metrics_file, "validation")
        return {record["step"]: record["AP"] for record in records if record["step"] <= self.first_step}

    def _refuse_to_do_nothing(self) -> None:
        unscored = self.first_step in self.validation_steps and self.first_step not in self.validated
        if self.first_step >= self.last_step + self.world.from_main(unscored):
            flag = "--max-steps" if self.last_step == self.options.max_steps else "--epochs"
            raise InputError(
                f"nothing left to train: step {self.first_step} of {self.last_step} is done; give more {flag}"
            )
        reason = self.reason_to_end([self.validated[step] for step in sorted(self.validated)])
        if self.world.from_main(reason is not None):
            raise InputError(f"nothing left to train: {reason}; raise it to go on")


def _loss_scaling(options: TrainOptions) -> tuple[Amp | None, float, bool]:
    """What decides how the loss scale begins and changes."""
    return options.amp, options.recipe.loss_scale, options.recipe.dynamic_loss_scale
