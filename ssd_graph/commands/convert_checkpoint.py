"""Convert a published SSD-ResNet34 checkpoint to ssd_graph's format, or back.

python tools/convert_checkpoint.py iter_183250.pt --out ckpt.pth               # of Ascend, NVIDIA or MLPerf
python tools/convert_checkpoint.py mine.pt --data /data/coco --out ckpt.pth    # of other categories than COCO's
python tools/convert_checkpoint.py ckpt.pth --to asc --out iter_1.pt           # Ascend's and NVIDIA's layout
python tools/convert_checkpoint.py ckpt.pth --to ref --out iter_1.pt           # the MLPerf reference's layout
"""

from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser


@command
def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="file to convert")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--to", choices=("ssd_graph", "asc", "ref"), default="ssd_graph", help="default: %(default)s")
    parser.add_argument("--data", help="COCO folder that names the categories (default: COCO's 80)")
    args = parser.parse_args()
    if args.out.resolve() == args.checkpoint.resolve():
        raise InputError(f"{args.out} is the checkpoint itself; name another file with --out")
    from ssd_graph.checkpoints.convert import export_published, import_published

    if args.to == "ssd_graph":
        model = import_published(args.checkpoint, args.out, args.data).model
        print(f"{args.out}: {model.preset} with {model.num_classes} classes")
    else:
        export_published(args.checkpoint, args.out, args.to)
        print(f"{args.out}: layout {args.to}")
