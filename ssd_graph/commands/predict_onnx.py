"""Draw an exported model's detections on images; torch is not needed.

    python tools/predict_onnx.py model.onnx street.jpg kitchen.png
    python tools/predict_onnx.py model.onnx photos/ --out found --score 0.5
    python tools/predict_onnx.py model.onnx 'photos/**/*.jpg'

Writes a JPEG for each image and predictions.json with every detection drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ssd_graph.cli import command, command_parser, positive


@command
def main() -> int:
    """Read the flags, detect and draw."""
    parser = command_parser(__doc__)
    parser.add_argument("model", type=Path, help="model that export/to_onnx.py wrote")
    parser.add_argument("images", nargs="+", help="image files, folders or globs")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="folder (default: %(default)s)")
    parser.add_argument("--score", type=float, help="least score of what is shown (default: the model's, else 0.4)")
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt", "openvino", "cann", "auto"), default="cpu")
    parser.add_argument("--threads", type=positive, help="onnxruntime's threads (default: all cores)")
    args = parser.parse_args()
    from ssd_graph.data.image_files import find_images
    from ssd_graph.onnx_model.api import Detector
    from ssd_graph.onnx_model.predict import predict
    from ssd_graph.onnx_model.thresholds import ShownFrom

    detector = Detector(args.model, provider=args.provider, threads=args.threads)
    shown_from = detector.shown_from if args.score is None else ShownFrom(args.score)
    origin = "the model's thresholds" if detector.network.shown_from else "the default"
    origin = origin if args.score is None else "--score"
    found = predict(detector, find_images(args.images, args.out), args.out, shown_from)
    print(
        f"{found.num_objects} objects in {len(found.records)} images with a score from {shown_from.describe()} "
        f"({origin}), by provider {detector.network.session.provider}, results in {args.out}"
    )
    if not found.num_objects and found.highest_score:
        print(f"the highest score seen is {found.highest_score:.2f}; --score shows more")
    for fault in found.faults:
        sys.stderr.write(f"left out: {fault}\n")
    return 1 if found.faults else 0
