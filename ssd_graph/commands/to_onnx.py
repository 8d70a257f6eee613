"""Export a checkpoint to one self-describing .onnx file, checked against torch.

    python export/to_onnx.py ckpt.pth                                        # ckpt.onnx, the detector
    python export/to_onnx.py ckpt.pth --half                                 # ckpt.fp16.onnx
    python export/to_onnx.py ckpt.pth --int8 --calibration coco/train2017    # ckpt.int8.onnx
    python export/to_onnx.py ckpt.pth --raw --batch 8                        # ckpt.raw.onnx, for Ascend's ATC:
    atc --framework=5 --model=ckpt.raw.onnx --output=ckpt --input_format=NCHW \\
        --input_shape="image:8,3,300,300" --soc_version=Ascend310P3

docs/export.md says what each form is for, and what was measured.
"""

from functools import partial
from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser, positive
from ssd_graph.files import require_output


@command
def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint that tools/train_graph.py wrote")
    parser.add_argument("--out", type=Path, help="file to write (default: beside the checkpoint)")
    parser.add_argument("--images", type=Path, help="folder of images to compare torch and onnxruntime on")

    form = parser.add_argument_group("form")
    form.add_argument("--raw", action="store_true", help="the network alone: image -> ploc, plabel")
    form.add_argument("--batch", type=positive, metavar="N", help="images a call takes (default: any number)")
    form.add_argument("--opset", type=positive, metavar="N", help="default: 18; with --raw 11, or 13 in 8 bits")

    precision = parser.add_argument_group("precision (default: float32)").add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="the network in float16")
    precision.add_argument("--int8", action="store_true", help="the network in 8 bits; needs --calibration")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="images like those to come, for --int8")
    parser.add_argument("--calibration-images", type=positive, metavar="N", default=64, help="default: %(default)s")
    args = parser.parse_args()
    from ssd_graph.checkpoints.checkpoint import load_checkpoint
    from ssd_graph.onnx_model.export import ExportOptions, export_onnx, sample_images

    precision = "int8" if args.int8 else "fp16" if args.half else "fp32"
    options = ExportOptions(raw=args.raw, batch=args.batch, opset=args.opset, precision=precision)
    out = args.out or options.path_beside(args.checkpoint)
    if out.resolve() == args.checkpoint.resolve():
        raise InputError(f"{out} is the checkpoint itself; name another file with --out")
    require_output(out, "--out")
    checkpoint = load_checkpoint(args.checkpoint)
    sample = partial(sample_images, upright=bool(checkpoint.run.get("upright")))
    samples = sample(args.images or args.calibration)
    calibration = sample(args.calibration, args.calibration_images) if args.calibration else None
    result = export_onnx(checkpoint, out, samples, options, calibration)
    print(f"{out}: {out.stat().st_size:,} bytes, {precision}; {result.describe()}")
