"""Score a checkpoint on COCO with the compiled graph, sharded over devices.

python tools/eval_graph.py ckpt.pth --npus 8                     # ./coco on eight Ascend NPUs
python tools/eval_graph.py runs/last/best.pth --data /data/coco --gpus 1
python tools/eval_graph.py demo/last.pth --data shapes --cpus 2

For the numbers of the exported model, without torch, see tools/eval_onnx.py.
"""

from __future__ import annotations

from pathlib import Path

from ssd_graph.cli import command, command_parser, positive
from ssd_graph.data.coco import DEFAULT_ROOT


@command
def main() -> None:
    """Read the flags and evaluate."""
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint that tools/train_graph.py wrote")
    parser.add_argument("--data", "-d", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    parser.add_argument("--split", choices=("val", "train"), default="val", help="default: %(default)s")
    parser.add_argument("--batch-size", "-b", type=positive, default=32, help="images a device (default: %(default)s)")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), help="default: fp16 on NPU, bf16 on GPU, off on CPU")
    parser.add_argument("--backend", help="eager, aot_eager, inductor, inductor:MODE or torchair (default: by device)")
    parser.add_argument("--workers", type=positive, default=2, help="decoding threads a device (default: 2)")
    parser.add_argument("--device_id", type=int, default=0, help="number of the first device (default: 0)")
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--npus", type=positive, metavar="N", help="Ascend NPUs of this machine")
    device.add_argument("--gpus", type=positive, metavar="N", help="CUDA GPUs of this machine")
    device.add_argument("--cpus", type=positive, metavar="N", help="CPU processes (default: 1)")
    args = parser.parse_args()
    from ssd_graph.training.graph_eval import GraphEvalOptions, print_scores

    print_scores(
        GraphEvalOptions(
            checkpoint=args.checkpoint,
            data=args.data,
            split=args.split,
            devices="npu" if args.npus is not None else "gpu" if args.gpus is not None else "cpu",
            num_devices=args.npus or args.gpus or args.cpus or 1,
            first_device=args.device_id,
            batch_size=args.batch_size,
            amp=args.amp,
            backend=args.backend,
            workers=args.workers,
        )
    )
