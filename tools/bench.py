"""Measure how fast the parts of ssd_graph are on this machine.

python tools/bench.py input --data /data/coco            # the input pipeline, by stage and number of workers
python tools/bench.py input --data /data/coco --workers 1 2 4 8 --json -
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssd_graph.cli import atomic_write, positive, run
from ssd_graph.coco import DEFAULT_ROOT


def parser() -> argparse.ArgumentParser:
    """The sub-commands and their flags."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(title="what to measure", required=True)
    command = commands.add_parser("input", help="reading, decoding, cropping, resizing, collating, copying")
    command.set_defaults(measure=measure_input)
    command.add_argument("--data", default=DEFAULT_ROOT, help="COCO folder, or `shapes` (default: %(default)s)")
    command.add_argument("--split", choices=("train", "val"), default="train", help="default: %(default)s")
    command.add_argument("--images", type=positive, default=200, help="the first N (default: %(default)s)")
    command.add_argument("--rounds", type=positive, default=5, help="the best counts (default: %(default)s)")
    command.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="default: 1 2")
    command.add_argument("--device", default="cpu", help="where batches are copied (default: %(default)s)")
    command.add_argument("--json", metavar="FILE", help="write one json object, `-` to standard output")
    return result


def measure_input(args: argparse.Namespace) -> Any:
    """Speeds of the input pipeline."""
    from ssd_graph.bench_input import measure_input
    from ssd_graph.coco import load_split
    from ssd_graph.shapes import data_root

    split = load_split(data_root(args.data), args.split)
    return measure_input(split, num_images=args.images, rounds=args.rounds, workers=args.workers, device=args.device)


def main() -> None:
    """Measure, and print or write the result."""
    args = parser().parse_args()
    result = args.measure(args)
    text = json.dumps(asdict(result), indent=2) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    if args.json:
        with atomic_write(Path(args.json)) as temporary:
            temporary.write_text(text)
    print(result.table())


if __name__ == "__main__":
    run(main)
