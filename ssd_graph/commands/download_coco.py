"""Fetch COCO 2017 from its official server, check it and unpack it.

    python tools/download_coco.py coco                # 20.4 GB to fetch, 43 GB free to begin with
    python tools/download_coco.py coco --val-only     # 1.1 GB to fetch, for scoring
    python tools/download_coco.py coco --mirror http://intranet/coco

An interrupted run goes on where it stopped when it is run again. Every zip must have the published SHA-256,
whatever server it came from. A zip that lies in DIR already is used and kept, so a machine without a network
needs only the three zips.

Exit codes: 0 done; 2 with one line that says what to do.
"""

import shlex
from pathlib import Path

from ssd_graph.cli import command, command_parser
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.data.download.coco import ANNOTATIONS, MIRROR, TRAIN, VAL, download_coco


@command
def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("dir", type=Path, nargs="?", default=DEFAULT_ROOT, help="COCO folder (default: %(default)s)")
    parser.add_argument("--val-only", action="store_true", help="leave out train2017.zip")
    parser.add_argument(
        "--mirror", default=MIRROR, metavar="URL", help="has zips/ and annotations/ (default: %(default)s)"
    )
    args = parser.parse_args()
    archives = (ANNOTATIONS, VAL) if args.val_only else (ANNOTATIONS, VAL, TRAIN)
    download_coco(args.dir, archives, mirror=args.mirror)
    split = " --split val" if args.val_only else ""
    print(f"check it with `python tools/check_coco.py {shlex.quote(str(args.dir))}{split}`")
