"""What a checkpoint says of the run that wrote it, and how a run that goes on from it differs."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from ssd_graph.checkpoints.checkpoint import Checkpoint
from ssd_graph.cli import InputError
from ssd_graph.training.options import TrainOptions

_NOT_SAID = ("resume", "overwrite", "out", "num_devices")  # of this start, or said by world_size
_DECIDES_NO_BIT = {
    *("data", "backbone", "checkpoint", "first_device", "workers", "cache", "max_skipped", "max_restarts"),
    *("print_every", "save_every", "keep", "performance", "tensorboard", "mlperf_log"),
    *("name", "max_steps", "epochs", "evaluation_epochs", "threshold", "patience"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedRun:
    """A run up to a checkpoint."""

    options: TrainOptions
    """With the precision and the backend that the device chose."""
    world_size: int
    train_fingerprint: str
    val_fingerprint: str | None = None
    """None in a checkpoint of a version that did not take it."""
    images_seen: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] | None = None
    """None in a checkpoint of a version that did not count them: `global_batch` in every step, then."""

    @staticmethod
    def of(checkpoint: Checkpoint) -> "SavedRun":
        """The run that wrote `checkpoint`.

        Raises:
            InputError: it was imported, or its settings are damaged.
        """
        if "train_fingerprint" not in checkpoint.run:
            raise InputError("the checkpoint to resume was imported, not trained here; begin with it by --checkpoint")
        try:
            saved = {**checkpoint.run, "options": checkpoint.run}
            return msgspec.convert(saved, SavedRun, dec_hook=lambda kind, value: kind(value))
        except (msgspec.ValidationError, TypeError) as error:
            raise InputError(
                f"the checkpoint to resume does not say how its run began ({error}); begin a new run with its weights "
                "by --checkpoint"
            ) from error

    def images_seen_after(self, step: int) -> int:
        """Images that the run had seen when it wrote the checkpoint after `step` steps."""
        return step * self.global_batch if self.images_seen is None else self.images_seen

    @property
    def global_batch(self) -> int:
        """Images of all devices in a step."""
        return self.options.recipe.images_a_step * self.world_size

    def changes(self, now: TrainOptions, world_size: int) -> list[str]:
        """What is other in a run that goes on as `now`, which has the device's precision and backend; a line each."""
        before, after = _flat(self.options), _flat(now)
        before["world_size"], after["world_size"] = self.world_size, world_size
        changed = [name for name in after if before[name] != after[name] and name not in _NOT_SAID]
        if not changed:
            return []
        lines = [
            "unlike the run so far: "
            + ", ".join(f"{name} {_short(before[name])} -> {_short(after[name])}" for name in changed)
        ]
        if not set(changed) <= _DECIDES_NO_BIT:
            lines.append("so it is not the continuation of the same run, bit by bit")
        return lines


def _short(value: Any) -> str:
    return f"{value[0]} ... {value[-1]}" if isinstance(value, list) and len(value) > 3 else str(value)


def _flat(options: TrainOptions) -> dict[str, Any]:
    """Every setting by its own name, those of the recipe and of the augmentation beside the others."""
    values = options.settings()
    recipe = values.pop("recipe")
    return values | recipe.pop("augment") | recipe
