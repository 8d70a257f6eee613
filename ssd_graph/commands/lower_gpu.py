"""Show what inductor makes of the training step for an NVIDIA H100, on a machine that has no GPU.

    python tools/lower_gpu.py                                          # SSD300-ResNet34, bf16, 128 images
    python tools/lower_gpu.py --preset ssd300-nano --batch-size 8 --out kernels.py
    python tools/lower_gpu.py --world-size 8                           # one of eight GPUs
    python tools/lower_gpu.py --assemble                               # and kernels to machine code, two minutes
    python tools/lower_gpu.py --memory-format contiguous --json - | jq .megabytes_per_image

Needs `pip install -e .[gpu]`, but neither CUDA nor a GPU. Inductor chooses layouts, fuses operations and writes
Triton kernels, which Triton compiles for the card's instruction set; nothing runs on a GPU. The roofline is a bound
and no measurement. The exit code is 1 when the step could not be replayed as a CUDA graph, or copies constants
from the host.
"""

from pathlib import Path

from ssd_graph.cli import command, command_parser, positive
from ssd_graph.config import MODELS
from ssd_graph.files import print_result, require_output, write_whole


@command
def main() -> int:
    parser = command_parser(__doc__)
    parser.add_argument("--preset", choices=MODELS, default="ssd300-r34", help="network (default: %(default)s)")
    parser.add_argument("--batch-size", "-b", type=positive, default=128, help="images a GPU (default: %(default)s)")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), default="bf16", help="default: %(default)s")
    parser.add_argument("--world-size", type=positive, default=1, help="GPUs of the run (default: %(default)s)")
    parser.add_argument(
        "--memory-format",
        choices=("channels_last", "contiguous"),
        default="channels_last",
        help="of the images (default: %(default)s)",
    )
    parser.add_argument("--plain", action="store_true", help="without the changes of compilers/inductor.py")
    parser.add_argument("--assemble", action="store_true", help="also compile the kernels to machine code")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the Python and Triton code of inductor")
    parser.add_argument(
        "--json", metavar="FILE", help="write the numbers as JSON; `-` prints them instead of the table"
    )
    args = parser.parse_args()
    require_output(args.out, "--out")
    require_output(args.json, "--json")
    from ssd_graph.bench.step import MEMORY_FORMATS  # imports torch, which --help need not wait for
    from ssd_graph.gpu.lower import lower_step
    from ssd_graph.gpu.machine_code import assemble

    memory_format = MEMORY_FORMATS[args.memory_format]
    lowering = lower_step(args.preset, args.batch_size, args.amp, args.world_size, memory_format, mended=not args.plain)
    if args.out:
        write_whole(args.out, lowering.code)
    options = {name: getattr(args, name) for name in ("preset", "amp", "world_size", "memory_format", "plain")}
    numbers, table = lowering.to_json(), lowering.table()
    if args.assemble:
        machine_code = assemble(lowering.code)
        numbers["machine_code"] = machine_code.to_json()
        table = f"{table}\n{machine_code.table()}"
    print_result({**options, **numbers}, table, args.json)
    return 1 if lowering.cuda_graph_refused or lowering.host_constants else 0
