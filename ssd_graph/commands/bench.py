"""Measure.

python tools/bench.py step --gpus                                  # the training step against eager PyTorch
python tools/bench.py step --preset ssd300-nano --batch-size 4     # the same, on a CPU
python tools/bench.py export ckpt.pth --data /data/coco            # what each exported form costs and keeps

`--json -` prints one object, `--json FILE` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssd_graph.cli import atomic_write, command, command_parser, positive
from ssd_graph.config import MODELS


@command
def main() -> None:
    """Read the flags, measure and print."""
    from ssd_graph import bench_export, bench_step

    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    step = commands.add_parser("step", help="the training step alone, on batches that lie on the device")
    step.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="default: %(default)s")
    step.add_argument("--batch-size", "-b", type=positive, default=32, help="default: %(default)s")
    step.add_argument("--steps", type=positive, default=30, help="default: %(default)s")
    step.add_argument("--amp", choices=("off", "bf16", "fp16"), help="default: by device")
    step.add_argument("--backend", help="eager, aot_eager, inductor or torchair (default: by device)")
    step.add_argument("--gpus", action="store_const", const="gpu", default="cpu", dest="devices", help="on one GPU")
    export = commands.add_parser("export", help="what each exported form costs and keeps")
    bench_export.add_flags(export)
    for what in (step, export):
        what.add_argument("--json", metavar="FILE", help="write one object there; - prints it")
    args = parser.parse_args()
    if args.what == "export":
        result = bench_export.run(args)
        write(result, json.dumps(result, indent=2), args.json)
        return
    result = bench_step.bench_step(
        bench_step.StepOptions(
            preset=args.preset,
            batch_size=args.batch_size,
            num_steps=args.steps,
            amp=args.amp,
            backend=args.backend,
            devices=args.devices,
        )
    )
    write(result, bench_step.table(result), args.json)


def write(result: dict[str, Any], text: str, file: str | None) -> None:
    """Print the table, or the object to where `--json` says."""
    if file == "-":
        print(json.dumps(result))
        return
    print(text)
    if file:
        with atomic_write(Path(file)) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")
