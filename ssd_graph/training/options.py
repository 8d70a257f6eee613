"""A training run as its user asks for it, and what of it decides the run's bits."""

import inspect
import json
import os
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from ssd_graph.cli import InputError, require_one_of
from ssd_graph.config import MODELS, RECIPES, Amp, EmptyImages, OnBadImage, Recipe
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import DEFAULT_ROOT

MOST_EPOCHS = 1e6
"""So that steps can be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """A run, as tools/train_graph.py's flags give it; None leaves a choice to the device or the recipe.

    Raises:
        InputError: a value makes no run. Paths may be given as text.
    """

    data: str = DEFAULT_ROOT
    """A COCO folder, or `shapes`."""
    preset: str = "ssd300-r34"
    """A key of config.MODELS."""
    recipe: Recipe = RECIPES["mlperf-256"]
    devices: str = "cpu"
    """A key of backend.DEVICES."""
    num_devices: int = 1
    first_device: int = 0
    max_steps: int | None = None
    seed: int = 1
    workers: int = 2
    """Decoding processes of each device; 0 decodes in the process that trains."""
    upright: bool = False
    """Whether images are turned as their EXIF orientation says, for training and validation."""
    empty_images: EmptyImages = "drop"
    """Images without boxes, of both splits."""
    on_bad_image: OnBadImage = "error"
    cache: str | None = None
    """Where decoded training images are kept: a folder, or `ram`."""
    amp: Amp | None = None
    backend: str | None = None
    deterministic: bool = False
    """Whether GPUs have to repeat their bits, see backend.deterministic_kernels."""
    out: Path = Path("runs/last")
    overwrite: bool = False
    """Whether a folder with checkpoints of another run may be used."""
    print_every: int = 20
    save_every: int | None = None
    """Steps between checkpoints; None saves after each epoch. At each validation there always is one."""
    keep: int = 3
    """Newest checkpoints to keep, beside the best."""
    resume: str | None = None
    """A checkpoint file to continue, or `auto` for the newest in `out`, if any."""
    backbone: Path | None = None
    """ImageNet weights of the trunk."""
    checkpoint: Path | None = None
    """Weights of the whole network to begin with."""
    max_skipped: int = 50
    """Skipped steps in a row that end the run."""
    max_restarts: int = 3
    """Times that the processes are started again after one has died."""
    performance: bool = False
    """Only measure speed: no validation and no checkpoint."""
    tensorboard: bool = False
    mlperf_log: Path | None = None

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            given = getattr(self, name)
            try:
                value = str(given) if isinstance(given, Path) else given
                value = msgspec.convert(value, kind, dec_hook=lambda kind, value: kind(value))
                if isinstance(value, Recipe):  # which is believed as it is
                    value = msgspec.convert(asdict(value), Recipe)
            except msgspec.ValidationError as error:
                what = f"recipe: {error}" if kind is Recipe and isinstance(given, Recipe) else None
                raise InputError(what or f"{name} {given!r}: give {inspect.formatannotation(kind)}") from error
            object.__setattr__(self, name, value)
        require_one_of(MODELS, "preset", self.preset)
        recipe = self.recipe
        counts = {name: getattr(self, name) for name in ("print_every", "keep", "max_skipped")}
        counts |= {name: getattr(recipe, name) for name in ("batch_size", "accumulate", "patience")}
        for flag, value, fits, advice in (
            *((f"--{name.replace('_', '-')}", n, n is None or n >= 1, "1 or more") for name, n in counts.items()),
            ("--workers", self.workers, self.workers >= 0, "0 or more"),
            ("--max-restarts", self.max_restarts, self.max_restarts >= 0, "0 or more"),
            ("--seed", self.seed, -(2**63) <= self.seed < 2**63, "a number from -2**63 to 2**63 - 1"),
            ("--epochs", recipe.epochs, 0 < recipe.epochs <= MOST_EPOCHS, "more than 0, at most a million"),
            ("--warmup-epochs", recipe.warmup_epochs, 0 <= recipe.warmup_epochs <= MOST_EPOCHS, "0 to a million"),
            *(("--lr-decay-epochs", e, 0 <= e <= MOST_EPOCHS, "0 to a million") for e in recipe.decay_epochs),
            *(
                ("--evaluation", e, 0 < e <= MOST_EPOCHS, "more than 0, at most a million")
                for e in recipe.evaluation_epochs
            ),
            ("--lr-decay-factor", recipe.decay_factor, 0 <= recipe.decay_factor < inf, "0 or more"),
            ("--lr", recipe.learning_rate, 0 <= recipe.learning_rate < inf, "0 or more"),
            ("--wd", recipe.weight_decay, 0 <= recipe.weight_decay < inf, "0 or more"),
            ("--ema", recipe.ema_decay, 0 <= recipe.ema_decay < 1, "0 for none, or a decay such as 0.9998"),
            ("--loss-scale", recipe.loss_scale, 0 < recipe.loss_scale < inf, "`dynamic` or more than 0"),
        ):
            if not fits:
                raise InputError(f"{flag} {value}: give {advice}")

    def settings(self) -> dict[str, Any]:
        """All of it as plain values, as a checkpoint keeps it; paths hold from wherever the run is continued."""
        values = json.loads(json.dumps(asdict(self), default=str))
        for name in ("data", "cache", "backbone", "checkpoint", "mlperf_log"):
            if values[name] not in (None, "shapes", "ram"):
                values[name] = os.path.abspath(values[name])
        return values


def default_workers(devices: str, num_devices: int) -> int:
    """Decoding processes of a device when nobody says: the machine's cores shared out, but where cores are devices."""
    return 2 if devices == "cpu" else min(16, max(2, usable_cores() // num_devices))
