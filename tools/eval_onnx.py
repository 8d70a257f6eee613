"""Score an exported model on COCO with onnxruntime and pycocotools; torch is not needed.

    python tools/eval_onnx.py model.onnx                     # ./coco, results into the model's folder
    python tools/eval_onnx.py model.onnx --data /data/coco --out scores --report

Writes summary.json (the twelve COCO numbers, AP by class, detections_sha256, images_per_second),
detections.json in COCO's result format and, with --report, report.html.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_graph.cli import positive, run
from ssd_graph.coco import DEFAULT_ROOT


def main() -> None:
    """Read the flags, evaluate and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model that export/to_onnx.py wrote")
    parser.add_argument("--data", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    parser.add_argument("--split", choices=("val", "train"), default="val", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="results folder (default: the model's)")
    parser.add_argument("--batch-size", type=positive, default=8, help="default: %(default)s")
    parser.add_argument("--threads", type=positive, help="onnxruntime's threads (default: all cores)")
    parser.add_argument("--limit", type=positive, help="score only the first images")
    parser.add_argument("--report", action="store_true", help="also write report.html")
    args = parser.parse_args()
    from ssd_graph.coco import load_split
    from ssd_graph.onnx_eval import evaluate_onnx, write_result
    from ssd_graph.shapes import data_root

    out = args.out or args.model.parent
    split = load_split(data_root(args.data), args.split)
    result = evaluate_onnx(args.model, split, batch_size=args.batch_size, threads=args.threads, limit=args.limit)
    write_result(result, out)
    print(result.scores.table)
    width = max(len(name) for name in result.scores.per_class)
    for name, ap in result.scores.per_class.items():
        print(f"  {name:{width}}  " + ("no ground truth" if ap is None else f"{ap:.4f}"))
    speed, digest = result.summary["images_per_second"], result.summary["detections_sha256"]
    print(f"{len(split)} images at {speed:.1f} images/s, detections {digest[:16]}, results in {out}")
    if args.report:
        from ssd_graph.report import write_report

        write_report(out / "report.html", result, split, metrics=args.model.parent / "metrics.jsonl")


if __name__ == "__main__":
    run(main)
