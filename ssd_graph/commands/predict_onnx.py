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
    parser.add_argument("--score", type=float, default=0.4, help="least score of what is shown (default: %(default)s)")
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt", "openvino", "cann", "auto"), default="cpu")
    parser.add_argument("--threads", type=positive, help="onnxruntime's threads (default: all cores)")
    args = parser.parse_args()
    from ssd_graph.data.image_files import find_images
    from ssd_graph.onnx_model.detector import OnnxDetector
    from ssd_graph.onnx_model.predict import predict

    detector = OnnxDetector(args.model, provider=args.provider, threads=args.threads)
    records, faults = predict(detector, find_images(args.images, args.out), args.out, least_score=args.score)
    count = sum(len(record["objects"]) for record in records)
    print(f"{count} objects in {len(records)} images by provider {detector.session.provider}, results in {args.out}")
    for fault in faults:
        sys.stderr.write(f"left out: {fault}\n")
    return 1 if faults else 0
