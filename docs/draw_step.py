"""Draw docs/pictures/step.svg from the training step that torch.compile captures: `python docs/draw_step.py`.

Takes half a minute and no data: the step of ssd300-r34 for 32 images, in fp16, as one of eight ranks, on
tensors without memory. What is counted are operations of torch's aten set.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd

from ssd_graph.compilers.tracing import stage, traceable_step

PICTURE = Path(__file__).parent / "pictures" / "step.svg"
BATCH_SIZE, WORLD_SIZE = 32, 8

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1c2733 }
.title { font-weight: 600 }
.note { font-size: 11.5px; fill: #46566a }
.count { font-weight: 600; fill: #4351b8; text-anchor: end }
.host { fill: #fff6e5; stroke: #d9a441 }
.state { fill: #eaf6ec; stroke: #4f9b5f }
.graph { fill: #eef1fc; stroke: #5b6bd0; stroke-width: 1.5 }
.stage { fill: #fff; stroke: #a9b3e6 }
path { fill: none; stroke: #46566a; stroke-width: 1.3; marker-end: url(#head) }
"""


class Captured(NamedTuple):
    """What there is to draw."""

    counts: Counter[str]
    """Operations by stage."""
    num_parameters: int
    num_statistics: int


def capture() -> Captured:
    """The one graph of the step, counted."""
    graphs: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, _: object) -> fx.GraphModule:
        graphs.append(module)
        return module

    with traceable_step("ssd300-r34", BATCH_SIZE, "fp16", WORLD_SIZE) as (step, arguments):
        compiled = torch.compile(step, backend=aot_autograd(fw_compiler=keep), fullgraph=True, dynamic=False)
        compiled(*arguments)
    (graph,) = graphs
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    return Captured(Counter(map(stage, nodes)), arguments[0].parameters.numel(), arguments[0].bn_statistics.numel())


def box(kind: str, x: int, y: int, width: int, *lines: str, count: int | None = None) -> str:
    """A rounded box with a title, notes below it and a count at the right."""
    height = 14 + 17 * len(lines)
    texts = "".join(
        f'<text class="{"note" if i else "title"}" x="{x + 9}" y="{y + 20 + 17 * i}">{line}</text>'
        for i, line in enumerate(lines)
    )
    number = "" if count is None else f'<text class="count" x="{x + width - 9}" y="{y + 20}">{count:,}</text>'
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>{texts}{number}\n'


def draw(captured: Captured) -> str:
    """The picture as SVG, 420 wide, so that it can be read on a phone without being enlarged."""
    counts = captured.counts
    state = ("State, flat", "parameters", f"[{captured.num_parameters:,}]", "momentum", "the same size")
    state = (*state, "BN statistics", f"[{captured.num_statistics:,}]", "loss scale", "counters", "", "overwritten")
    update = ("step.py: SGD; a gradient that is", "not finite changes nothing")
    return "".join(
        (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 730" role="img">',
            "<title>The training step of ssd300-r34 as one graph, with the operations of each part</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><polygon points="0,0 8,4 0,8" fill="#46566a"/></marker></defs>\n',
            '<rect width="420" height="730" fill="#fff"/>\n',
            box("host", 136, 8, 276, "Loader, on the host", "loader.py: decode, crop, resize"),
            '<text class="note" x="136" y="76">images uint8 [N, 300, 300, 3], boxes,</text>',
            '<text class="note" x="136" y="93">labels, random numbers; learning rate</text>\n',
            '<rect class="graph" x="128" y="106" width="288" height="548" rx="10"/>',
            f'<text class="title" x="140" y="129">One graph of {counts.total():,} operations</text>',
            '<path d="M 390 56 V 138"/>\n',
            box("stage", 140, 142, 126, "Unpack", "state.py", "tensors by name", count=counts["unpack"]),
            box("stage", 278, 142, 126, "Augment", "augment.py", "[N, 3, 300, 300]", count=counts["augment"]),
            '<path d="M 203 207 V 237"/><path d="M 300 207 V 222 H 240 V 237"/><path d="M 341 207 V 237"/>',
            box(
                "stage", 140, 241, 126, "Network", "model.py", "[N, 4, 8732]", "[N, 81, 8732]", count=counts["network"]
            ),
            box("stage", 278, 241, 126, "Match", "matcher.py", "[N, 4, 8732]", "[N, 8732]", count=counts["match"]),
            '<path d="M 203 323 V 347"/><path d="M 341 323 V 347"/>',
            box("stage", 140, 351, 264, "Loss", "loss.py: MultiBox, hard negatives", count=counts["loss"]),
            '<path d="M 272 399 V 423"/>',
            box("stage", 140, 427, 264, "Backward pass", "one gradient, flat", count=counts["backward"]),
            '<path d="M 272 475 V 499"/>',
            box("stage", 140, 503, 264, "All-reduce", "gradient and BN statistics together", count=counts["reduce"]),
            '<path d="M 272 551 V 575"/>',
            box("stage", 140, 579, 264, "Update", *update, count=counts["update"]),
            box("state", 4, 142, 106, *state, "in place"),
            '<path d="M 110 170 H 136"/><path d="M 140 610 H 57 V 364"/>',
            '<path d="M 272 654 V 682"/>',
            '<text class="note" x="136" y="700">four numbers, read every 20 steps:</text>',
            '<text class="note" x="136" y="717">loss, box and class loss, positives</text>',
            "</svg>\n",
        )
    )


def main() -> None:
    """Capture, draw and write."""
    PICTURE.write_text(draw(capture()))
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
