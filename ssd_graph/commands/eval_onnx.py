"""Score an exported model on COCO with onnxruntime; torch is not needed.

    python tools/eval_onnx.py model.onnx                     # ./coco, results into the model's folder
    python tools/eval_onnx.py model.onnx --data /data/coco --out scores --report
    python tools/eval_onnx.py model.onnx --provider cuda     # or tensorrt, openvino, cann, auto
    python tools/eval_onnx.py model.onnx --reproducible      # the same bits whatever the batch size
    python tools/eval_onnx.py model.onnx --verify scores/summary.json
    python tools/eval_onnx.py model.raw.onnx --outputs folder    # what an NPU computed, see docs/outputs.md

Writes summary.json (the twelve COCO numbers, AP by class, fingerprints, versions, speed), detections.json in
COCO's result format and, with --report, report.html. --verify writes nothing and exits with 1 where the
numbers differ.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser, positive
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.files import require_writable


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser(__doc__)
    result.add_argument("model", type=Path, help="model that export/to_onnx.py wrote, --raw ones included")
    result.add_argument(
        "--data", help=f"COCO folder, or `shapes` (default: {DEFAULT_ROOT}; with --verify the recorded one)"
    )
    result.add_argument("--split", choices=("val", "train"), help="default: val; with --verify the recorded one")
    result.add_argument("--limit", type=positive, help="score only the first images")
    result.add_argument("--empty-images", choices=("drop", "keep"), help="those without boxes (default: drop)")
    result.add_argument("--scorer", choices=("hotcoco", "pycocotools", "faster"), help="default: hotcoco")

    how = result.add_argument_group("how it runs (default with --verify: as recorded)")
    how.add_argument("--provider", choices=("cpu", "cuda", "tensorrt", "openvino", "cann", "auto"), help="default: cpu")
    how.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of OpenVINO's arithmetic (default: float32); fp32 forbids CUDA to round factors",
    )
    how.add_argument("--batch-size", type=positive, help="default: the model's, or 8")
    how.add_argument("--threads", type=positive, help="onnxruntime's threads (default: all cores)")
    how.add_argument("--optimization", choices=("basic", "extended", "all"), help="of the graph (default: all)")
    how.add_argument(
        "--upright",
        action=argparse.BooleanOptionalAction,
        help="turn images as their EXIF orientation says (default: as in training)",
    )
    how.add_argument(
        "--outputs", metavar="DIR", help="score what another program computed with the raw model; none is run"
    )
    how.add_argument("--reproducible", action="store_true", help="one CPU thread, every optimisation")

    output = result.add_argument_group("output")
    output.add_argument("--out", type=Path, help="results folder (default: the model's)")
    output.add_argument("--report", action="store_true", help="also write report.html")
    output.add_argument(
        "--write-thresholds", action="store_true", help="put the score thresholds of the best F1 into the model"
    )
    output.add_argument("--verify", type=Path, metavar="SUMMARY", help="repeat that evaluation and compare")
    return result


@command
def main() -> int:
    args = parser().parse_args()
    from ssd_graph.data.coco import load_split
    from ssd_graph.data.shapes import data_root
    from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
    from ssd_graph.onnx_model.reproduce import compare, load_recorded
    from ssd_graph.onnx_model.thresholds import write_thresholds
    from ssd_graph.scoring.summary import data_folder, split_name, write_summary

    writing = [f"--{name.replace('_', '-')}" for name in ("out", "report", "write_thresholds") if getattr(args, name)]
    if args.verify and writing:
        raise InputError(f"--verify writes nothing; leave out {writing[0]}")
    if args.write_thresholds:
        import onnx  # noqa: F401  what is missing is said before the evaluation, not after it

        require_writable(args.model.parent, "place for the model")
    out = args.out or args.model.parent
    if not args.verify:
        require_writable(out, "--out")
    recorded = load_recorded(args.verify) if args.verify else None
    settings = recorded.settings() if recorded else RunSettings()
    if args.provider not in (None, settings.provider):
        settings = replace(settings, precision=None)  # was the recorded provider's
    given = {name: getattr(args, name) for name in RunSettings.__slots__}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    computing = ("provider", "precision", "batch_size", "threads", "optimization", "reproducible")
    useless = [f"--{name.replace('_', '-')}" for name in computing if getattr(args, name)]
    if settings.outputs:
        if useless:
            raise InputError(f"{useless[0]} is for a model that is run; with --outputs none is")
        settings = replace(settings, outputs=str(Path(settings.outputs).resolve()))
    if args.reproducible:
        settings = settings.reproducible()
    data = args.data or (data_folder(recorded.summary) if recorded else DEFAULT_ROOT)
    name = args.split or (split_name(recorded.summary) if recorded else "val")
    split = load_split(data_root(data), name, empty_images=settings.empty_images)
    result = evaluate_onnx(args.model, split, settings)
    print("\n".join((result.describe(), *split.remarks())))
    if recorded:
        same, lines = compare(recorded, result)
        print("\n".join(lines))
        return 0 if same else 1
    write_summary(out, result.summary, result.rows)
    if args.write_thresholds:
        result.summary["model"]["sha256"] = write_thresholds(args.model, result.summary["thresholds"], split.categories)
        write_summary(out, result.summary, result.rows)  # again, of the file as it is now
    if args.report:
        from ssd_graph.report.page import write_report

        write_report(out / "report.html", result, split, args.model.parent / "metrics.jsonl")
    print(f"results in {out}" + "; look at report.html" * args.report)
    if args.write_thresholds:
        best = {name: found["score"] for name, found in result.summary["thresholds"]["per_class"].items() if found}
        told = ", ".join(f"{name} {score:.2f}" for name, score in list(best.items())[:10])
        print(f"{args.model} now shows detections from these scores: {told}" + ", ..." * (len(best) > 10))
    return 0
