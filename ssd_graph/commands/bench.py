"""Measure how fast the parts of ssd_graph are on this machine.

python tools/bench.py step --gpus                                  # the training step against eager PyTorch
python tools/bench.py step --preset ssd300-nano --batch-size 4     # the same, on a CPU
python tools/bench.py train --gpus --data /data/coco               # the loop with its loader, against the step
python tools/bench.py input --data /data/coco                      # the input pipeline, by stage and workers
python tools/bench.py export ckpt.pth --data /data/coco            # what each exported form costs and keeps

`--json -` prints one object, `--json FILE` writes it.
"""

from ssd_graph.cli import command, command_parser
from ssd_graph.files import print_result, require_output


@command
def main() -> None:
    from ssd_graph.bench import export, pipeline, step, train

    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, benchmark, summary in (
        ("step", step, "the training step alone, on batches that lie on the device"),
        ("train", train, "the whole loop on a data set's images, against the step alone"),
        ("input", pipeline, "reading, decoding, cropping, resizing, collating, copying"),
        ("export", export, "what each exported form costs and keeps"),
    ):
        what = commands.add_parser(name, help=summary)
        benchmark.add_flags(what)
        what.add_argument("--json", metavar="FILE", help="write one object there; - prints it")
        what.set_defaults(benchmark=benchmark)
    args = parser.parse_args()
    require_output(args.json, "--json")
    result = args.benchmark.run(args)
    print_result(result, args.benchmark.table(result), args.json)
