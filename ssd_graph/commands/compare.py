"""What changed between two evaluations of the same images, with bootstrap intervals over images.

    python tools/compare.py before/summary.json after/summary.json
    python tools/compare.py before after --data /elsewhere/coco --json changes.json

Each summary.json needs the detections.json that tools/eval_onnx.py wrote beside it. Images are drawn with
replacement, the same for both, and AP is computed anew from each draw: an interval that does not include 0
says that the change does not hang on which images were chosen. It does not cover the seed of a training run.
"""

from pathlib import Path

from ssd_graph.cli import between, command, command_parser, positive
from ssd_graph.files import print_result, require_output


@command
def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="summary.json of the first evaluation, or its folder")
    parser.add_argument("b", type=Path, metavar="B", help="summary.json of the second, or its folder")
    parser.add_argument("--data", help="COCO folder, or `shapes` (default: the one that A was scored on)")
    parser.add_argument(
        "--resamples", type=between(100, 10_000), default=1000, help="draws of images (default: %(default)s)"
    )
    parser.add_argument("--seed", type=between(0, 2**63 - 1), default=1, help="of the draws (default: %(default)s)")
    parser.add_argument("--classes", type=positive, default=10, help="classes to print (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write every class as JSON; `-` prints it instead of the table")
    args = parser.parse_args()
    require_output(args.json, "--json")
    from ssd_graph.data.shapes import data_root
    from ssd_graph.scoring.compare import compare, load_evaluation
    from ssd_graph.scoring.summary import data_folder

    a, b = load_evaluation(args.a), load_evaluation(args.b)
    root = data_root(args.data or data_folder(a.summary))
    comparison = compare(a, b, root, args.resamples, args.seed)
    print_result(comparison.to_json(), comparison.table(args.classes), args.json)
