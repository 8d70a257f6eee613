"""Check a COCO folder before training on it: annotations, image files, boxes, ids.

    python tools/check_coco.py coco                          # both splits, every image decoded
    python tools/check_coco.py coco --quick                  # headers only
    python tools/check_coco.py coco --split train --fix clean/annotations/instances_train2017.json

Prints the problems found with up to three examples each and what training makes of them, boxes by class, and
a verdict. --fix writes a cleaned copy of the annotations and never touches the folder; to train on the copy,
put links to the image folders beside its annotations/.

Exit codes: 0 clean; 1 problems found (also when --fix wrote a copy); 2 could not run, with one line that
says what to do.
"""

from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser, positive
from ssd_graph.data.coco import DEFAULT_ROOT, find_annotations


@command
def main() -> int:
    parser = command_parser(__doc__)
    parser.add_argument("dir", type=Path, nargs="?", default=DEFAULT_ROOT, help="COCO folder (default: %(default)s)")
    parser.add_argument("--split", choices=("train", "val"), help="check one split (default: both)")
    parser.add_argument("--quick", action="store_true", help="read only the headers of the images")
    parser.add_argument("--upright", action="store_true", help="turn images as their EXIF orientation says")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write cleaned annotations; needs --split")
    parser.add_argument("--workers", type=positive, help="threads that decode (default: one for each core)")
    args = parser.parse_args()
    from ssd_graph.data.check.folder import check_folder, refuse_input, write_cleaned
    from ssd_graph.data.check.report import fix_report, report
    from ssd_graph.files import require_output

    if args.fix and not args.split:
        raise InputError("--fix writes one file; say with --split train or --split val which to clean")
    if args.fix and (file := find_annotations(args.dir, args.split)):
        refuse_input(file, args.fix)  # before the minutes that decoding takes
        require_output(args.fix, "--fix")
    splits = (args.split,) if args.split else ("train", "val")
    checks = check_folder(args.dir, splits, quick=args.quick, workers=args.workers, upright=args.upright)
    print(report(checks))
    if args.fix:
        write_cleaned(checks[0], args.fix)
        print(f"wrote {args.fix}; {fix_report(checks[0])}")
    return 1 if any(check.problems for check in checks) else 0
