"""Lower the training step or the inference graph for an Ascend NPU, on a machine that has none.

    python tools/lower_npu.py                                     # SSD300-ResNet34, fp16, one Atlas A2
    python tools/lower_npu.py --world-size 8 --soc 950            # one of eight Ascend 950
    python tools/lower_npu.py --graph predict --amp off --out graph.txt
    python tools/lower_npu.py --cann /usr/local/Ascend/ascend-toolkit/latest     # by the kernels of this CANN
    python tools/lower_npu.py --json - | jq .tasks

Needs `pip install -e .[npu]` and a C compiler, but neither CANN nor an NPU. torchair's real compiler makes
the graph, and published tables say which kernels it would take; nothing runs on an NPU. The exit code is 1 when
an operation does not lower or has no kernel, or there is more than one graph.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_graph.cli import command, command_parser, positive
from ssd_graph.config import MODELS
from ssd_graph.files import print_result


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser(__doc__)
    result.add_argument("--graph", choices=("step", "predict"), default="step", help="default: %(default)s")
    result.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="network (default: %(default)s)")
    result.add_argument("--batch-size", type=positive, default=32, help="images a device (default: %(default)s)")
    result.add_argument("--amp", choices=("off", "bf16", "fp16"), default="fp16", help="default: %(default)s")
    result.add_argument("--world-size", type=positive, default=1, help="NPUs of the run (default: %(default)s)")
    result.add_argument(
        "--soc",
        choices=("a2", "950"),
        default="a2",
        help="Atlas A2 and A3, or Ascend 950 (default: %(default)s)",
    )
    result.add_argument(
        "--cann", type=Path, metavar="DIR", help="hold the graph against the kernel tables of the toolkit in DIR"
    )
    result.add_argument("--out", type=Path, metavar="FILE", help="write the GE graph as text")
    result.add_argument("--sources", action="store_true", help="also list by line: GE ops, casts, conversions")
    result.add_argument(
        "--json", metavar="FILE", help="write the numbers as JSON; `-` prints them instead of the table"
    )
    return result


@command
def main() -> int:
    """Read the flags, lower, report."""
    args = parser().parse_args()
    from ssd_graph.npu.engine.cann import installed_facts
    from ssd_graph.npu.lower import lower_predict, lower_step  # imports torch, which --help need not wait for

    facts = installed_facts(args.cann, args.soc) if args.cann else None
    what = ((args.soc,), args.preset, args.batch_size, args.amp)
    if args.graph == "predict":
        lowered = lower_predict(*what, facts=facts)
    else:
        lowered = lower_step(*what, args.world_size, facts=facts)
    lowering = lowered[args.soc]
    if args.out:
        lowering.dump(args.out)
    options = {name: getattr(args, name) for name in ("graph", "preset", "batch_size", "amp", "world_size")}
    print_result({**options, **lowering.to_json()}, lowering.table(sources=args.sources), args.json)
    return 0 if lowering.runs else 1
