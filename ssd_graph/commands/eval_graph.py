"""Score a checkpoint on COCO with the compiled graph, sharded over devices.

python tools/eval_graph.py ckpt.pth --npus 8                     # ./coco on eight Ascend NPUs
python tools/eval_graph.py runs/last/best.pth --data /data/coco --gpus 1
python tools/eval_graph.py demo/last.pth --data shapes --cpus 2

For the numbers of the exported model, without torch, see tools/eval_onnx.py.
"""

import sys
from argparse import SUPPRESS, BooleanOptionalAction
from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser, positive
from ssd_graph.commands.devices import add_device_flags, given_options
from ssd_graph.commands.seed_flags import add_seed_flags, say, translate
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.training.launch import die_with_launcher


@command
def main() -> None:
    die_with_launcher()
    parser = command_parser(__doc__, given_only=True)
    parser.add_argument("checkpoint", nargs="?", help="checkpoint that tools/train_graph.py wrote, or a published one")
    parser.add_argument("--checkpoint", help=SUPPRESS)
    parser.add_argument("--data", "-d", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    parser.add_argument("--split", choices=("val", "train"), help="default: val")
    parser.add_argument("--batch-size", "-b", type=positive, help="images a device (default: 32)")
    parser.add_argument("--workers", "--num-workers", type=positive, help="decoding threads a device (default: 2)")
    parser.add_argument(
        "--upright",
        action=BooleanOptionalAction,
        help="turn images as their EXIF orientation says (default: as in training)",
    )
    parser.add_argument("--empty-images", choices=("drop", "keep"), help="those without boxes (default: drop)")
    parser.add_argument("--out", type=Path, help="results folder (default: scores-CHECKPOINT beside the checkpoint)")
    add_device_flags(parser)
    add_seed_flags(parser, training=False)
    given = vars(parser.parse_args())
    notes = translate(given, sys.argv[1:], training=False)
    if "checkpoint" not in given:
        raise InputError("name the checkpoint to score, e.g. runs/last/best.pth")
    given["checkpoint"] = Path(given["checkpoint"])
    from ssd_graph.training.graph_eval import GraphEvalOptions, print_scores

    options = GraphEvalOptions(**given_options(given, GraphEvalOptions))
    say(notes, options.num_devices)
    print_scores(options)
