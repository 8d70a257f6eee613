"""Export a checkpoint to one self-describing .onnx file, postprocessing included.

python export/to_onnx.py ckpt.pth                       # writes ckpt.onnx beside it
python export/to_onnx.py runs/last/best.pth --out model.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_graph.cli import InputError, run


def main() -> None:
    """Read the flags and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint that tools/train_graph.py wrote")
    parser.add_argument("--out", type=Path, help="file to write (default: the checkpoint's name with .onnx)")
    parser.add_argument("--images", type=Path, help="folder of images to compare torch and onnxruntime on")
    args = parser.parse_args()
    from ssd_graph.checkpoint import load_checkpoint
    from ssd_graph.config import EvalConfig
    from ssd_graph.onnx_export import export_onnx, sample_images

    out = args.out or args.checkpoint.with_suffix(".onnx")
    if out == args.checkpoint:
        raise InputError(f"{out} is the checkpoint itself; name another file with --out")
    samples = sample_images(args.images)
    difference = export_onnx(load_checkpoint(args.checkpoint), out, samples, EvalConfig())
    print(f"{out}: {out.stat().st_size:,} bytes; onnxruntime and torch differ by at most {difference:.1e}")


if __name__ == "__main__":
    run(main)
