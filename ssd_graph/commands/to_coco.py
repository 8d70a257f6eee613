"""Turn a data set in the layout of YOLO, Pascal VOC or Roboflow into a COCO folder to train on.

    python tools/to_coco.py my_data coco
    python tools/to_coco.py VOCdevkit/VOC2007 coco --difficult drop
    python tools/to_coco.py coco --train-annotations a.json --train-images a --val-annotations b.json --val-images b

The layout is recognised: YOLO's data.yaml, obj.data or classes.txt with boxes or polygons, VOC's XML files,
Roboflow's exports, COCO files. The folder gets links to the images, or copies with --copy, and appears when it is
whole. Polygons become the boxes around them. Prints what was left out, with examples, and what check_coco.py --quick
says of the result.

Exit codes: 0 all was converted; 1 something was left out, or the check found something; 2 nothing was written, with
one line that says what to do.
"""

import argparse
import shlex
from contextlib import suppress
from pathlib import Path

from ssd_graph.cli import InputError, command, command_parser
from ssd_graph.data.convert.coco_layouts import CocoFile, read_coco


@command
def main() -> int:
    args = _parser().parse_args()
    from ssd_graph.data.check import problems as p
    from ssd_graph.data.check.folder import check_folder
    from ssd_graph.data.check.report import problem_lines, report
    from ssd_graph.data.convert.layouts import read_folder
    from ssd_graph.data.convert.pictures import LEFT_OUT, require_boxes, settle
    from ssd_graph.data.convert.write import require_new, share_out, write_coco
    from ssd_graph.files import require_writable

    require_new(args.dst)
    require_writable(args.dst.parent, "place")
    if files := _given(args):
        data = read_coco(files, args.upright)
    else:
        data = read_folder(args.src, args.difficult, args.upright)
    data = settle(data, args.upright)
    shared = len(data.splits) == 1
    if shared:
        require_boxes(data, False)
        share_out(data, 0.1 if args.val_share is None else args.val_share, args.seed)
    elif args.val_share is not None:
        raise InputError("there are images for train and for val already; leave out --val-share")
    require_boxes(data, shared)
    write_coco(data, args.dst, copy=args.copy)
    checks = check_folder(args.dst, quick=True, upright=data.upright)
    left_out = data.findings.problems()
    upright = " --upright" if data.upright else ""
    print("\n".join([*data.notes, *problem_lines(left_out), "", report(checks)]).strip())
    flags = f"--data {shlex.quote(str(args.dst))} --recipe finetune --checkpoint FILE{upright}"
    print(f"train on it with `python tools/train_graph.py {flags}`, FILE being weights to begin with")
    found = [problem for check in checks for problem in check.problems if problem.kind is not p.TURNED]
    return 1 if found or any(problem.kind.effect.startswith(LEFT_OUT) for problem in left_out) else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("src", type=Path, nargs="?", help="folder of the data set, or its data.yaml")
    parser.add_argument("dst", type=Path, help="COCO folder to write; must not be there, or be empty")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking to them")
    parser.add_argument(
        "--val-share", type=_share, metavar="S", help="share of the images for val where it is missing (default: 0.1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number chooses other images (default: 0)")
    parser.add_argument(
        "--difficult",
        choices=("crowd", "keep", "drop"),
        default="crowd",
        help="objects that VOC calls difficult: trained on, but no fault if not found, as in VOC's own scoring "
        "(crowd, the default); objects like others (keep); none (drop)",
    )
    parser.add_argument(
        "--upright",
        action=argparse.BooleanOptionalAction,
        help="whether boxes are of pictures that are turned as their EXIF tag says (default: as the sizes in the "
        "annotations say, and without any yes)",
    )
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-annotations", type=Path, metavar="FILE", help=f"COCO file of {split}")
        parser.add_argument(f"--{split}-images", type=Path, metavar="DIR", help="its images")
    return parser


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < (value := float(text)) < 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")


def _given(args: argparse.Namespace) -> dict[str, CocoFile]:
    """The COCO files that flags name."""

    files = {}
    for split in ("train", "val"):
        annotations, images = getattr(args, f"{split}_annotations"), getattr(args, f"{split}_images")
        if (annotations is None) != (images is None):
            raise InputError(f"--{split}-annotations and --{split}-images belong together")
        if annotations:
            files[split] = CocoFile(annotations, images)
    if bool(files) == bool(args.src):
        raise InputError("give the folder to read and the one to write, or the latter with --train-annotations")
    return files
