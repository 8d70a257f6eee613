"""The command lines of Ascend's SSD-Resnet, called the seed: what its flags and its scripts' flags mean here."""

import os
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_graph.cli import InputError, launched, say_once
from ssd_graph.config import RECIPES

if TYPE_CHECKING:  # which takes long to import
    from ssd_graph.training.options import TrainOptions

_TRUNK = Path("resnet34-333f7ec4.pth")
"""The seed reads ImageNet's weights from there, in the current folder."""

_TRUNKS = ("vgg16", "vgg16bn", "resnet18", "resnet34", "resnet50")
"""Values of its --backbone, which it does not use either."""

_ITS_OWN = {"--tag", "--local-rank", "--use-fp16", "--data-path", "--checkpoint-path", "--warmup", "--lr-decay-factor"}

_NO_EFFECT = {
    0: (
        *("--dali", "--no-dali", "--dali-sync", "--fake-input", "--jit", "--delay-allreduce", "--opt-loss"),
        *("--save", "--no-save", "--allreduce-running-stats", "--no-allreduce-running-stats"),
        *("--profile-nvtx", "--profile-gc-off", "--profile-cudnn-get", "--profile-fake-optim"),
    ),
    1: (
        *("--meta-files-path", "--eval-batch-size", "--input-batch-multiplier", "--dali-cache", "--use-nvjpeg"),
        *("--use-roi-decode", "--model-path", "--nhwc", "--pad-input", "--num-classes", "--input-size"),
        *("--iteration", "--warmup-factor", "--bn-group", "--profile", "--profile-start"),
    ),
}
"""The seed's flags that change nothing here, by the number of their values; docs/training.md says why."""

_OF_TRAINING = {
    1: ("--lr", "--wd", "--epochs", "-e", "--loss-scale", "--seed", "-s", "--threshold", "-t"),
    "*": ("--lr-decay-epochs", "--evaluation"),
}
"""What the seed's evaluation takes and does not use, beside these."""


class _NoEffect(Action):
    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.no_effect = (*getattr(namespace, "no_effect", ()), option_string)


def add_seed_flags(parser: ArgumentParser, *, training: bool) -> None:
    """Let a parser, which keeps only what is given, take the seed's flags; --help does not list them.

    `training` parsers have flags of their own for the recipe.
    """
    for number, flags in (*_NO_EFFECT.items(), *(() if training else _OF_TRAINING.items())):
        for flag in flags:
            parser.add_argument(flag, action=_NoEffect, nargs=number, dest="no_effect", help=SUPPRESS)
    parser.add_argument("--data-path", dest="data", help=SUPPRESS)
    parser.add_argument("--checkpoint-path", dest="checkpoint", type=Path, help=SUPPRESS)
    parser.add_argument("--tag", help=SUPPRESS)
    parser.add_argument("--local-rank", type=int, help=SUPPRESS)
    parser.add_argument("--use-fp16", action="store_true", help=SUPPRESS)
    if training:
        parser.add_argument("--warmup", type=int, help=SUPPRESS)
        parser.add_argument("--lr-decay-factor", type=float, help=SUPPRESS)


def translate(given: dict[str, Any], words: Sequence[str], *, training: bool) -> list[str]:
    """Replace what only the seed has in `given`, the flags of `words`, by what it means; returns what to say of it.

    Flags that only the seed has stand for its recipe, on NPUs if there are any, from its trunk's file.

    Raises:
        InputError: a flag cannot be obeyed.
    """
    no_effect = given.pop("no_effect", ())
    if launched():
        given.pop("local_rank", None)  # torch.distributed.launch adds it to each rank's command
        words = [word for word in words if not word.replace("_", "-").startswith("--local-rank")]
    if str(given.get("backbone")) in _TRUNKS:
        no_effect += (f"--backbone {given.pop('backbone')}",)
    if not no_effect and not _ITS_OWN & {word.partition("=")[0].replace("_", "-") for word in words}:
        return []
    _refuse_warmup(given.pop("warmup", None))
    tag, rank, half = given.pop("tag", None), given.pop("local_rank", None), given.pop("use_fp16", False)
    num_ranks = _join_ranks(rank)
    training = training and "eval_only" not in given
    if tag and training and given.get("resume", "auto") == "auto":
        given.setdefault("out", Path("runs") / tag)
    before: TrainOptions | None = None
    if training and "resume" in given:
        from ssd_graph.training.plan import run_to_resume

        before, _ = run_to_resume(given["resume"], given.get("out"))
    if not {"npus", "gpus", "cpus"} & set(given) and (before is None or num_ranks > 1):
        given[f"{_kind_at_hand()}s"] = num_ranks
    if num_ranks > 1:
        given.pop("device_id", None)  # its number of devices there
    if half and "cpus" not in given and not (before and before.devices == "cpu"):
        given.setdefault("amp", "fp16")
    lines = [f"of the seed's flags, these change nothing here: {', '.join(no_effect)}"] if no_effect else []
    if not training:
        return lines
    if "recipe" not in given:
        lines = [*_as_its_recipe(given, before), *lines]
    return lines


def say(notes: Iterable[str], num_devices: int) -> None:
    """Once: not if the processes that this one starts say it."""
    if launched() or num_devices == 1:
        list(map(say_once, notes))


def _as_its_recipe(given: dict[str, Any], before: "TrainOptions | None") -> list[str]:
    counts, lines = [given[kind] for kind in ("npus", "gpus", "cpus") if kind in given], []
    count = counts[0] if counts or before is None else before.num_devices
    recipe = before.recipe if before else None
    if recipe is None:
        recipe = RECIPES["seed-8p" if count == 8 else "seed-1p"]
        given["recipe"] = recipe.name
        lines.append(f"the seed's flags: its recipe, {recipe.name}, with what they change; --recipe chooses another")
        if "backbone" not in given and "checkpoint" not in given and _TRUNK.is_file():
            given["backbone"] = _TRUNK
    images = given.get("batch_size", recipe.batch_size) * given.get("accumulate", recipe.accumulate) * count
    if "lr" in given and isfinite(multiple := given["lr"] / 2.5e-3 * images / 32):  # TrainOptions refuses most others
        multiple = max(1, round(multiple))
        given["lr"] = 2.5e-3 * multiple * 32 / images
        lines.append(
            f"learning rate {2.5e-3 * multiple:.4g} for {images} images: the seed rounds to multiples of 0.0025"
        )
    return lines


def _refuse_warmup(steps: int | None) -> None:
    if steps:
        raise InputError(
            f"--warmup {steps} counts steps; give --warmup-epochs, which is steps x images a step / training images: "
            f"{steps * 256 / 117266:.3g} for COCO and 256 images a step"
        )


def _join_ranks(rank: int | None) -> int:
    """The number of processes that the seed's scripts start, of which this is one where they say a rank."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal():
        raise InputError(f"WORLD_SIZE is {said!r}: set it to the number of processes, or unset it")
    size = int(said)
    if rank is None or launched():
        return size if launched() else 1
    if not 0 <= rank < size:
        raise InputError(f"--local-rank {rank}: WORLD_SIZE says {size} processes; give --npus 8 once instead")
    if size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29688")
    return size


def _kind_at_hand() -> str:
    from ssd_graph.compilers.backend import require_devices

    for kind in ("npu", "gpu"):
        with suppress(InputError):
            require_devices(kind, 1)
            return kind
    return "cpu"
