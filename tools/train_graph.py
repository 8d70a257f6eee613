"""Train SSD300; the whole step runs as one compiled graph.

python tools/train_graph.py --npus 8                        # ./coco on eight Ascend NPUs
python tools/train_graph.py --data /data/coco --gpus 1      # one GPU
python tools/train_graph.py --data shapes --preset ssd300-nano --recipe shapes --cpus 1   # no download, minutes
torchrun --nnodes 2 --nproc-per-node 8 ... tools/train_graph.py --npus 8                  # several machines
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ssd_graph.cli import positive, run
from ssd_graph.coco import DEFAULT_ROOT
from ssd_graph.config import MODELS, NO_AUGMENT, RECIPES


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    result.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="network (default: %(default)s)")
    result.add_argument("--backbone", type=Path, help="ImageNet weights of the trunk, e.g. resnet34-333f7ec4.pth")
    result.add_argument("--out", type=Path, default=Path("runs/last"), help="results folder (default: %(default)s)")
    result.add_argument("--resume", type=Path, help="checkpoint to continue exactly")

    device = result.add_argument_group("device").add_mutually_exclusive_group()
    device.add_argument("--npus", type=positive, metavar="N", help="Ascend NPUs of this machine")
    device.add_argument("--gpus", type=positive, metavar="N", help="CUDA GPUs of this machine")
    device.add_argument("--cpus", type=positive, metavar="N", help="CPU processes (default: 1)")
    device = result.add_argument_group("graph")
    device.add_argument("--amp", choices=("off", "bf16", "fp16"), help="default: fp16 on NPU, bf16 on GPU, off on CPU")
    device.add_argument("--backend", help="eager, aot_eager, inductor or torchair (default: by device)")

    recipe = result.add_argument_group("recipe (each flag overrides one of its numbers)")
    recipe.add_argument("--recipe", choices=RECIPES, default="mlperf-256", help="default: %(default)s")
    recipe.add_argument("--epochs", type=float)
    recipe.add_argument("--max-steps", type=positive, help="stop after this many steps")
    recipe.add_argument("--batch-size", type=positive, help="images a device and step")
    recipe.add_argument("--lr", type=float, help="learning rate for 32 images; it grows with the global batch")
    recipe.add_argument("--no-augment", action="store_true", help="train on whole, unchanged images")
    recipe.add_argument("--seed", type=int, default=1, help="fixes weights, order and augmentation (default: 1)")

    loop = result.add_argument_group("loop")
    loop.add_argument("--workers", type=int, default=2, help="decoding threads a device (default: %(default)s)")
    loop.add_argument("--print-every", type=positive, default=20, help="steps (default: %(default)s)")
    loop.add_argument("--validate-every", type=float, help="epochs")
    loop.add_argument("--save-every", type=positive, help="steps (default: after each validation)")
    return result


def main() -> None:
    """Read the flags and train."""
    args = parser().parse_args()
    from ssd_graph.train import TrainOptions, train  # imports torch, which --help need not wait for

    changes = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.lr,
        "validate_every": args.validate_every,
        "augment": NO_AUGMENT if args.no_augment else None,
    }
    recipe = replace(RECIPES[args.recipe], **{k: v for k, v in changes.items() if v is not None})
    devices = "npu" if args.npus is not None else "gpu" if args.gpus is not None else "cpu"
    train(
        TrainOptions(
            data=args.data,
            preset=args.preset,
            recipe=recipe,
            devices=devices,
            num_devices=next((n for n in (args.npus, args.gpus, args.cpus) if n is not None), 1),
            max_steps=args.max_steps,
            seed=args.seed,
            workers=args.workers,
            amp=args.amp,
            backend=args.backend,
            out=args.out,
            print_every=args.print_every,
            save_every=args.save_every,
            resume=args.resume,
            backbone=args.backbone,
        )
    )


if __name__ == "__main__":
    run(main)
