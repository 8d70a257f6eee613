"""Draw an exported model's detections on images or a video; torch is not needed.

    python tools/predict_onnx.py model.onnx street.jpg kitchen.png
    python tools/predict_onnx.py model.onnx photos/ --out found --score 0.5
    python tools/predict_onnx.py model.onnx 'photos/**/*.jpg'
    python tools/predict_onnx.py model.onnx clip.mp4
    python tools/predict_onnx.py model.onnx --camera 0 --seconds 10

Writes a JPEG for each image and predictions.json with every detection drawn; of a video an .mp4, and a .jsonl with a
line for each frame. Ctrl-C ends a video, and what there is of it is kept.
"""

import os
import sys
from glob import has_magic
from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser, positive


@command
def main() -> int:
    parser = command_parser(__doc__)
    parser.add_argument("model", type=Path, help="model that export/to_onnx.py wrote")
    parser.add_argument("images", nargs="*", help="image files, folders or globs, or one video")
    parser.add_argument("--camera", type=int, metavar="N", help="the camera of this number instead")
    parser.add_argument("--seconds", type=float, help="how much of a video or camera is used (default: all)")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="folder (default: %(default)s)")
    parser.add_argument("--score", type=float, help="least score of what is shown (default: the model's, else 0.4)")
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt", "openvino", "cann", "auto"), default="cpu")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of OpenVINO's arithmetic (default: float32); fp32 forbids CUDA to round factors",
    )
    parser.add_argument("--threads", type=positive, help="onnxruntime's threads (default: all cores)")
    args = parser.parse_args()
    if bool(args.images) == (args.camera is not None):
        parser.error("give images, a video, or --camera")
    if args.seconds is not None and not args.seconds > 0:
        parser.error("--seconds is more than 0")
    from ssd_graph.data.image_files import find_images
    from ssd_graph.data.video_file import find_video
    from ssd_graph.onnx_model.api import Detector
    from ssd_graph.onnx_model.predict import predict
    from ssd_graph.onnx_model.thresholds import ShownFrom
    from ssd_graph.onnx_model.video import VideoPredictions, predict_video

    given = None if args.score is None else ShownFrom(args.score)
    # Files by name are taken wherever they lie.
    many = [i for i in args.images if os.path.isdir(i) or (has_magic(i) and not os.path.isfile(i))]
    inside = [i for i in many if Path(i).resolve().is_relative_to(args.out.resolve())]
    if inside:
        raise InputError(f"the images of '{inside[0]}' lie inside --out {args.out}; choose another folder with --out")
    detector = Detector(args.model, provider=args.provider, threads=args.threads, precision=args.precision)
    shown_from = given or detector.shown_from
    origin = "--score" if given else "the model's thresholds" if detector.network.shown_from else "the default"
    how = f"(shown from a score of {shown_from.describe()}: {origin}) by provider {detector.network.session.provider}"
    source = find_video(args.images) if args.camera is None else args.camera
    if source is None and args.seconds:
        parser.error("--seconds is for a video or --camera")
    if source is None:
        found = predict(detector, find_images(args.images, args.out), args.out, shown_from)
        print(f"{found.num_objects} objects in {len(found.records)} images {how}, results in {args.out}")
    else:
        found = predict_video(detector, source, args.out, shown_from, args.seconds)
        print(f"{found.num_objects} objects in {found.num_frames} frames {how}, results in {found.video} and .jsonl")
        print(f"{found.num_frames / found.seconds:.1f} images/s")
    if not found.num_objects and found.highest_score:
        print(f"the highest score seen is {found.highest_score:.2f}; --score shows more")
    for fault in found.faults:
        sys.stderr.write(f"left out: {fault}\n")
    if isinstance(found, VideoPredictions) and found.interrupted:
        sys.stderr.write("interrupted; what there is so far is kept\n")
        return 130
    return 1 if found.faults else 0
