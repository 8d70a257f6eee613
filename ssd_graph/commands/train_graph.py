"""Train SSD300; the whole step runs as one compiled graph.

python tools/train_graph.py --npus 8                        # ./coco on eight Ascend NPUs
python tools/train_graph.py --data /data/coco --gpus 1      # one GPU
python tools/train_graph.py --data shapes --preset ssd300-nano --recipe shapes --cpus 1   # no download, minutes
python tools/train_graph.py --resume auto --out runs/last   # go on where that run was cut off, by its own command
torchrun --nnodes 2 --nproc-per-node 8 ... tools/train_graph.py --npus 8                  # several machines
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ssd_graph.cli import InputError, command, command_parser, not_negative, positive
from ssd_graph.commands.devices import add_device_flags, given_options
from ssd_graph.commands.seed_flags import add_seed_flags, say, translate
from ssd_graph.config import MODELS, NO_AUGMENT, RECIPES, Freeze, Recipe, epochs_every
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.training.launch import die_with_launcher, has_begun, num_restarts
from ssd_graph.training.options import MOST_EPOCHS, TrainOptions, default_workers


def loss_scale(text: str) -> float | str:
    """An argparse type: a number or `dynamic`."""
    return text if text == "dynamic" else float(text)


def log_file(text: str) -> Path | None:
    """An argparse type: a file, or `none`."""
    return None if text == "none" else Path(text)


def parser() -> argparse.ArgumentParser:
    """The command's flags; what is not given is as TrainOptions has it or, of a resumed run, as it was."""
    result = command_parser(__doc__, given_only=True)
    result.add_argument("--data", "-d", help=f"COCO folder, or `shapes` (default: {DEFAULT_ROOT})")
    result.add_argument("--preset", choices=MODELS, help="network (default: ssd300-r34)")
    result.add_argument("--backbone", type=Path, help="ImageNet weights of the trunk, e.g. resnet34-333f7ec4.pth")
    result.add_argument("--checkpoint", type=Path, help="begin with these weights, ours or published ones")
    result.add_argument("--out", type=Path, help="results folder (default: runs/last)")
    result.add_argument("--overwrite", action="store_true", help="even if it holds another run")
    result.add_argument(
        "--resume", metavar="auto|FILE", help="continue a run by its own command; `auto` finds it in --out"
    )
    result.add_argument("--eval-only", action="store_true", help="score --checkpoint and stop")
    result.add_argument("--performance", action="store_true", help="one epoch for speed: no validation, no checkpoint")

    add_device_flags(result)
    add_seed_flags(result, training=True)

    recipe = result.add_argument_group("recipe (each flag overrides one of its numbers)")
    recipe.add_argument("--recipe", choices=RECIPES, help="default: mlperf-256")
    recipe.add_argument("--epochs", "-e", type=float)
    recipe.add_argument("--max-steps", type=positive, metavar="N", help="stop after this many steps")
    recipe.add_argument("--batch-size", "-b", type=positive, metavar="N", help="images a device and forward pass")
    recipe.add_argument("--accumulate", type=positive, metavar="N", help="forward passes averaged for one update")
    recipe.add_argument("--lr", type=float, help="learning rate for 32 images; it grows with the global batch")
    recipe.add_argument("--lr-decay-epochs", type=float, nargs="*", metavar="E")
    recipe.add_argument("--warmup-epochs", type=float)
    recipe.add_argument("--wd", type=float, help="weight decay")
    recipe.add_argument("--no-decay-bias-bn", action="store_true", help="none of it on biases and batch norm")
    recipe.add_argument("--loss-scale", type=loss_scale, help="of fp16: a number, or `dynamic`")
    recipe.add_argument("--ema", type=float, metavar="DECAY", help="score and export a moving average of the weights")
    recipe.add_argument("--crop-attempts", type=int, choices=(1, 50), help="before the crop's IoU is drawn again")
    recipe.add_argument("--no-augment", action="store_true", help="train on whole, unchanged images")
    recipe.add_argument("--evaluation", type=float, nargs="*", metavar="E", help="epochs after which to validate")
    recipe.add_argument("--validate-every", type=float, metavar="EPOCHS", help="the same at regular intervals")
    recipe.add_argument("--threshold", "-t", type=float, help="AP that ends the run; 1 for none")
    recipe.add_argument("--patience", type=positive, metavar="N", help="validations without a better AP that end it")
    recipe.add_argument(
        "--freeze", choices=get_args(Freeze), help="keep the trunk's weights up to this stage (default: none)"
    )
    recipe.add_argument("--seed", "-s", type=int, help="fixes weights, order, augmentation (default: 1)")

    switch = argparse.BooleanOptionalAction
    loop = result.add_argument_group("loop")
    loop.add_argument(
        "--workers",
        "--num-workers",
        type=not_negative,
        metavar="N",
        help="decoding processes of a device (default: by cores)",
    )
    loop.add_argument("--upright", action=switch, help="turn images as their EXIF tag says")
    loop.add_argument("--empty-images", choices=("drop", "keep"), help="those without boxes (default: drop)")
    loop.add_argument("--on-bad-image", choices=("error", "skip"), help="default: error")
    loop.add_argument("--cache", metavar="ram|DIR", help="keep decoded training images in memory or there")
    loop.add_argument("--print-every", "--print-interval", type=positive, metavar="N", help="steps (default: 20)")
    loop.add_argument("--save-every", type=positive, metavar="N", help="steps (default: each epoch)")
    loop.add_argument("--keep", type=positive, metavar="N", help="newest checkpoints to keep (default: 3)")
    loop.add_argument("--max-skipped", type=positive, metavar="N", help="non-finite steps in a row (default: 50)")
    loop.add_argument("--max-restarts", type=not_negative, metavar="N", help="after a process died (default: 3)")
    loop.add_argument("--deterministic", action=switch, help="have GPUs repeat their bits, at some speed")
    loop.add_argument("--tensorboard", action=switch, help="write event files too")
    loop.add_argument("--mlperf-log", type=log_file, metavar="FILE", help="write :::MLLOG lines; `none` ends them")
    return result


def options_of(given: Mapping[str, Any], before: TrainOptions | None = None) -> TrainOptions:
    """The run that the given flags ask for, all else being as in the run `before` that goes on, if any."""
    options = given_options(given, TrainOptions)
    if before is None:
        before = TrainOptions()
        options.setdefault("workers", default_workers(options.get("devices", "cpu"), options.get("num_devices", 1)))
    elif options.get("devices", before.devices) != before.devices:
        before = replace(before, amp=None, backend=None)  # the device's choice
    recipe = RECIPES[given["recipe"]] if "recipe" in given else before.recipe
    return replace(before, **{"resume": None, **options, "recipe": _recipe_of(given, recipe)})


def _recipe_of(given: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe with the numbers that flags override."""
    augment = NO_AUGMENT if "no_augment" in given else recipe.augment
    if "crop_attempts" in given:
        augment = replace(augment, crop_attempts=given["crop_attempts"])
    names = {"lr": "learning_rate", "lr_decay_epochs": "decay_epochs", "wd": "weight_decay", "ema": "ema_decay"}
    names |= {"evaluation": "evaluation_epochs", "lr_decay_factor": "decay_factor"}
    same = ("epochs", "batch_size", "accumulate", "warmup_epochs", "loss_scale", "threshold", "patience", "freeze")
    names |= {name: name for name in same}
    changes = {name: given[flag] for flag, name in names.items() if flag in given}
    for name in ("decay_epochs", "evaluation_epochs"):
        if name in changes:
            changes[name] = tuple(changes[name])
    if "performance" in given:
        changes.setdefault("epochs", 1.0)
    if "no_decay_bias_bn" in given:
        changes["decay_bias_bn"] = False
    if "loss_scale" in changes:
        changes["dynamic_loss_scale"] = dynamic = changes["loss_scale"] == "dynamic"
        if dynamic:
            changes["loss_scale"] = 65536.0  # where torch.amp.GradScaler begins
    recipe = replace(recipe, augment=augment, **changes)
    if "validate_every" not in given or not recipe.epochs <= MOST_EPOCHS:  # TrainOptions refuses the latter
        return recipe
    if not given["validate_every"] > recipe.epochs / MOST_EPOCHS:
        raise InputError(f"--validate-every {given['validate_every']}: give more, such as 1 for every epoch")
    return replace(recipe, evaluation_epochs=epochs_every(given["validate_every"], recipe.epochs))


@command
def main() -> None:
    die_with_launcher()
    given = vars(parser().parse_args())
    if num_restarts() and given.get("resume", "auto") != "auto":
        out = given.get("out", Path(given["resume"]).parent)
        if has_begun(out):  # and that file may no longer be the newest, nor there
            given |= {"out": out, "resume": "auto"}
    notes = translate(given, sys.argv[1:], training=True)
    if "eval_only" in given:
        if "checkpoint" not in given:
            raise InputError("--eval-only: name the checkpoint to score with --checkpoint")
        from ssd_graph.training.graph_eval import GraphEvalOptions, print_scores

        to_score = GraphEvalOptions(**given_options(given, GraphEvalOptions))
        say(notes, to_score.num_devices)
        print_scores(to_score)
        return
    # These import torch, which --help need not wait for.
    from ssd_graph.training.plan import run_to_resume
    from ssd_graph.training.train import train

    before = None
    if "resume" in given:
        before, given["out"] = run_to_resume(given["resume"], given.get("out"))
    if before is None and "checkpoint" in given and "preset" not in given:
        from ssd_graph.checkpoints.convert import read_any

        given["preset"] = read_any(given["checkpoint"]).model.preset
    options = options_of(given, before)
    say(notes, options.num_devices)
    train(options, command=True)
