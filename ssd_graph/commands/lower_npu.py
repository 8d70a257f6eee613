"""Lower the training step or the inference graph for an Ascend NPU, on a machine that has none.

    python tools/lower_npu.py                                     # SSD300-ResNet34, fp16, one Atlas A2
    python tools/lower_npu.py --world-size 8 --soc 950            # one of eight Ascend 950
    python tools/lower_npu.py --graph predict --amp off --out graph.txt
    python tools/lower_npu.py --cann /usr/local/Ascend/ascend-toolkit/latest     # by the kernels of this CANN
    python tools/lower_npu.py --json - | jq .tasks

Needs `pip install -e .[npu]` and a C compiler, but neither CANN nor an NPU. torchair's real compiler makes
the graph, and published tables say which kernels it would take; nothing runs on an NPU. The exit code is 1 when
an operation does not lower, has no kernel or loses values in a conversion, or there is more than one graph.
"""

from pathlib import Path

from ssd_graph.cli import command, command_parser, positive
from ssd_graph.config import MODELS
from ssd_graph.files import print_result, require_output


@command
def main() -> int:
    flags = command_parser(__doc__)
    flags.add_argument("--graph", choices=("step", "predict"), default="step", help="default: %(default)s")
    flags.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="network (default: %(default)s)")
    flags.add_argument("--batch-size", type=positive, default=32, help="images a device (default: %(default)s)")
    flags.add_argument("--amp", choices=("off", "bf16", "fp16"), default="fp16", help="default: %(default)s")
    flags.add_argument("--world-size", type=positive, help="NPUs of the run that the step is of (default: 1)")
    flags.add_argument(
        "--soc",
        choices=("a2", "a3", "950"),
        default="a2",
        help="Atlas A2 or A3, or Ascend 950; the published tables of A2 are taken for A3 (default: %(default)s)",
    )
    flags.add_argument(
        "--cann", type=Path, metavar="DIR", help="hold the graph against the kernel tables of the toolkit in DIR"
    )
    flags.add_argument("--out", type=Path, metavar="FILE", help="write the GE graph as text")
    flags.add_argument("--sources", action="store_true", help="also list by line: GE ops, casts, conversions")
    flags.add_argument("--json", metavar="FILE", help="write the numbers as JSON; `-` prints them instead of the table")
    args = flags.parse_args()
    if args.graph == "predict" and args.world_size:
        flags.error("--world-size is the step's; inference runs on one NPU")
    require_output(args.out, "--out")
    require_output(args.json, "--json")
    from ssd_graph.npu.engine.cann import SOC_OF, installed_facts, tables_of
    from ssd_graph.npu.lower import lower_predict, lower_step  # imports torch, which --help need not wait for

    soc = SOC_OF[args.soc]
    tables = str(tables_of(args.cann, args.soc)) if args.cann else "published"
    facts = installed_facts(args.cann, args.soc) if args.cann else None
    what = (args.preset, args.batch_size, args.amp)
    if args.graph == "predict":
        lowering = lower_predict((soc,), *what, facts=facts)[soc]
    else:
        lowering = lower_step((soc,), *what, args.world_size or 1, facts=facts)[soc]
    if args.out:
        lowering.dump(args.out)
    options = {name: getattr(args, name) for name in ("graph", "preset", "batch_size", "amp")}
    options |= {"world_size": args.world_size or 1, "tables": tables}
    table = f"kernel tables   {tables}\n{lowering.table(sources=args.sources)}"
    print_result({**options, **lowering.to_json(), "soc": args.soc}, table, args.json)
    return 0 if lowering.runs else 1
