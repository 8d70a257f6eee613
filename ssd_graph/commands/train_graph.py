"""Train SSD300; the whole step runs as one compiled graph.

python tools/train_graph.py --npus 8                        # ./coco on eight Ascend NPUs
python tools/train_graph.py --data /data/coco --gpus 1      # one GPU
python tools/train_graph.py --data shapes --preset ssd300-nano --recipe shapes --cpus 1   # no download, minutes
python tools/train_graph.py --npus 8 --resume auto          # go on where the last run was cut off
torchrun --nnodes 2 --nproc-per-node 8 ... tools/train_graph.py --npus 8                  # several machines
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser, positive
from ssd_graph.commands.devices import add_device_flags, device_options
from ssd_graph.config import MODELS, NO_AUGMENT, RECIPES, Recipe, epochs_every
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.training.options import TrainOptions, default_workers


def loss_scale(text: str) -> float | str:
    """An argparse type: a number or `dynamic`."""
    return text if text == "dynamic" else float(text)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser(__doc__)
    result.add_argument("--data", "-d", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    result.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="network (default: %(default)s)")
    result.add_argument("--backbone", type=Path, help="ImageNet weights of the trunk, e.g. resnet34-333f7ec4.pth")
    result.add_argument("--checkpoint", type=Path, help="begin with these weights, ours or published ones")
    result.add_argument("--out", type=Path, default=Path("runs/last"), help="results folder (default: %(default)s)")
    result.add_argument("--overwrite", action="store_true", help="even if it holds another run")
    result.add_argument("--resume", metavar="auto|FILE", help="continue a run exactly; `auto` finds its checkpoint")
    result.add_argument("--eval-only", action="store_true", help="score --checkpoint and stop")
    result.add_argument("--performance", action="store_true", help="one epoch for speed: no validation, no checkpoint")

    add_device_flags(result)

    recipe = result.add_argument_group("recipe (each flag overrides one of its numbers)")
    recipe.add_argument("--recipe", choices=RECIPES, default="mlperf-256", help="default: %(default)s")
    recipe.add_argument("--epochs", "-e", type=float)
    recipe.add_argument("--max-steps", type=positive, help="stop after this many steps")
    recipe.add_argument("--batch-size", "-b", type=positive, help="images a device and forward pass")
    recipe.add_argument("--accumulate", type=positive, help="forward passes averaged for one update")
    recipe.add_argument("--lr", type=float, help="learning rate for 32 images; it grows with the global batch")
    recipe.add_argument("--lr-decay-epochs", type=float, nargs="*", metavar="E")
    recipe.add_argument("--warmup-epochs", type=float)
    recipe.add_argument("--wd", type=float, help="weight decay")
    recipe.add_argument("--no-decay-bias-bn", action="store_true", help="none of it on biases and batch norm")
    recipe.add_argument("--loss_scale", "--loss-scale", type=loss_scale, help="of fp16: a number, or `dynamic`")
    recipe.add_argument("--ema", type=float, metavar="DECAY", help="score and export a moving average of the weights")
    recipe.add_argument("--crop-attempts", type=int, choices=(1, 50), help="before the crop's IoU is drawn again")
    recipe.add_argument("--no-augment", action="store_true", help="train on whole, unchanged images")
    recipe.add_argument("--evaluation", type=float, nargs="*", metavar="E", help="epochs after which to validate")
    recipe.add_argument("--validate-every", type=float, metavar="EPOCHS", help="the same at regular intervals")
    recipe.add_argument("--threshold", "-t", type=float, help="AP that ends the run; 1 for none")
    recipe.add_argument("--seed", "-s", type=int, default=1, help="fixes weights, order, augmentation (default: 1)")

    loop = result.add_argument_group("loop")
    loop.add_argument("--workers", "--num-workers", type=int, help="decoding processes of a device (default: by cores)")
    loop.add_argument("--upright", action="store_true", help="turn images as their EXIF orientation says")
    loop.add_argument("--on-bad-image", choices=("error", "skip"), default="error", help="default: %(default)s")
    loop.add_argument("--cache", metavar="ram|DIR", help="keep the decoded training images in memory or in a folder")
    loop.add_argument("--print-every", "--print-interval", type=positive, default=20, help="steps (default: 20)")
    loop.add_argument("--save-every", type=positive, help="steps (default: at each validation)")
    loop.add_argument("--keep", type=positive, default=3, help="newest checkpoints to keep (default: %(default)s)")
    loop.add_argument("--max-skipped", type=positive, default=50, help="non-finite steps in a row (default: 50)")
    loop.add_argument("--max-restarts", type=int, default=3, help="after a process died (default: %(default)s)")
    loop.add_argument("--tensorboard", action="store_true", help="write event files too")
    loop.add_argument("--mlperf-log", type=Path, metavar="FILE", help="write :::MLLOG lines")
    return result


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe with the numbers that flags override."""
    recipe = RECIPES[args.recipe]
    dynamic = args.loss_scale == "dynamic"
    augment = NO_AUGMENT if args.no_augment else recipe.augment
    if args.crop_attempts is not None:
        augment = replace(augment, crop_attempts=args.crop_attempts)
    changes = {
        "epochs": 1.0 if args.performance and args.epochs is None else args.epochs,
        "batch_size": args.batch_size,
        "accumulate": args.accumulate,
        "learning_rate": args.lr,
        "decay_epochs": None if args.lr_decay_epochs is None else tuple(args.lr_decay_epochs),
        "warmup_epochs": args.warmup_epochs,
        "weight_decay": args.wd,
        "decay_bias_bn": False if args.no_decay_bias_bn else None,
        # 2**16 is where torch.amp.GradScaler begins.
        "loss_scale": 65536.0 if dynamic else args.loss_scale,
        "dynamic_loss_scale": dynamic or None,
        "ema_decay": args.ema,
        "threshold": args.threshold,
        "evaluation_epochs": None if args.evaluation is None else tuple(args.evaluation),
    }
    return replace(recipe, augment=augment, **{name: value for name, value in changes.items() if value is not None})


@command
def main() -> None:
    """Read the flags and train."""
    args = parser().parse_args()
    recipe = recipe_of(args)
    if args.validate_every is not None:
        if not args.validate_every > 0:
            raise InputError(f"--validate-every {args.validate_every}: give more than 0")
        recipe = replace(recipe, evaluation_epochs=epochs_every(args.validate_every, recipe.epochs))
    where = device_options(args)
    if args.workers is None:
        args.workers = default_workers(where["devices"], where["num_devices"])
    if args.eval_only:
        if args.checkpoint is None:
            raise InputError("--eval-only: name the checkpoint to score with --checkpoint")
        from ssd_graph.training.graph_eval import GraphEvalOptions, print_scores

        what = {"checkpoint": args.checkpoint, "data": args.data, "workers": args.workers}
        what["upright"] = args.upright or None
        print_scores(GraphEvalOptions(batch_size=recipe.batch_size, **what, **where))
        return
    given = {name: value for name, value in vars(args).items() if name in TrainOptions.__slots__}
    from ssd_graph.training.train import train  # imports torch, which --help need not wait for

    train(TrainOptions(**{**given, **where, "recipe": recipe}))
