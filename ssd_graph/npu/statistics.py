"""What a captured graph holds: operations, parameters, bytes, floating-point operations, collectives."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ssd_graph.compilers.tracing import flops
from ssd_graph.files import write_whole
from ssd_graph.npu.capture import SOC_NAMES, CapturedGraph, Collective, Soc, UnsupportedOp, num_bytes
from ssd_graph.npu.engine.bound import MATRIX_FLOPS, Bound, bound
from ssd_graph.npu.engine.check import VERDICTS, Finding, Verdict, check
from ssd_graph.npu.engine.facts import Facts
from ssd_graph.npu.engine.formats import Conversion, propagate
from ssd_graph.npu.engine.graph import TypedGraph

NOT_COMPUTE = frozenset({"Const", "Data", "Shape", "Reshape", "NetOutput"})
"""Kinds of GE nodes that move no data and launch no kernel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """What a function became for one SoC."""

    soc: Soc
    graph_breaks: tuple[str, ...]
    """Why torch.compile could not take the function as one graph; empty if it did."""
    unsupported: tuple[UnsupportedOp, ...]
    collectives: tuple[Collective, ...]
    num_fx_nodes: int
    ge_ops: Counter[str]
    """GE nodes by kind."""
    sources: Counter[tuple[str, str]]
    """GE nodes by kind and source line."""
    num_parameters: int
    weight_bytes: int
    """Of the parameters as they are kept between steps."""
    activation_bytes: int
    """The most bytes alive at once, besides the inputs, when the FX graph runs in its order."""
    flops: int
    """Floating-point operations of convolutions, forward and backward; a multiply-add counts as two."""
    graphs: tuple[Any, ...]
    """GE's protobuf GraphDefs."""
    findings: Counter[Finding]
    """What the engine would refuse, cast, rewrite or run on the AI CPU."""
    tasks: int
    """GE nodes that become a task of the device, before the engine fuses any; see engine.graph.TypedGraph.tasks."""
    conversions: tuple[Conversion, ...]
    """Of memory formats, that the engine inserts."""
    bound: Bound | None
    """Of Atlas A2 in 16 bits only."""

    @staticmethod
    def of(
        graphs: Sequence[CapturedGraph], breaks: Sequence[str], soc: Soc, weights: Tensor | None, facts: Facts
    ) -> "Lowering":
        """Count what is in `graphs`; `weights` is the tensor that counts as parameters."""
        lowered = [graph.ge[soc] for graph in graphs]
        operations = [operation for ge in lowered for operation in ge.concrete.graph.op]
        sources = {name: source for ge in lowered for name, source in ge.sources.items()}
        typed = [TypedGraph(ge.concrete.graph, soc, facts, ge.sources) for ge in lowered]
        formats = [propagate(graph) for graph in typed]
        return Lowering(
            soc=soc,
            graph_breaks=tuple(breaks),
            unsupported=tuple(op for ge in lowered for op in ge.unsupported),
            collectives=tuple(collective for ge in lowered for collective in ge.collectives),
            num_fx_nodes=sum(len(graph.module.graph.nodes) for graph in graphs),
            ge_ops=Counter(operation.type for operation in operations),
            sources=Counter((op.type, sources.get(op.name, "inputs and outputs")) for op in operations),
            num_parameters=0 if weights is None else weights.numel(),
            weight_bytes=num_bytes(weights),
            activation_bytes=max((activation_bytes(graph.module) for graph in graphs), default=0),
            flops=sum(flops(graph.module) for graph in graphs),
            graphs=tuple(ge.concrete.graph for ge in lowered),
            findings=sum(map(check, typed), Counter[Finding]()),
            tasks=sum(1 for graph in typed for _ in graph.tasks()),
            conversions=tuple(conversion for each in formats for conversion in each.conversions.values()),
            bound=bound(typed[0], formats[0]) if len(typed) == 1 else None,
        )

    @property
    def compute_ops(self) -> int:
        """GE nodes that are not of NOT_COMPUTE."""
        return sum(count for kind, count in self.ge_ops.items() if kind not in NOT_COMPUTE)

    @property
    def lowers(self) -> bool:
        """Whether everything lowers, to one graph."""
        return len(self.graphs) == 1 and not self.unsupported and not self.graph_breaks

    def found(self, verdict: Verdict) -> Counter[Finding]:
        """The findings of one kind."""
        return Counter({finding: num for finding, num in self.findings.items() if finding.verdict == verdict})

    @property
    def runs(self) -> bool:
        """Whether it lowers, and the tables have a kernel for each node that takes its values as they are."""
        return self.lowers and not self.found("refused") and not self.found("lossy")

    def dump(self, path: Path) -> None:
        """Write the GE graphs as text.

        Raises:
            InputError: the folder cannot be written.
        """
        write_whole(path, "\n".join(str(graph) for graph in self.graphs))

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON takes them."""
        return {
            "lowers": self.lowers,
            "graphs": len(self.graphs),
            "graph_breaks": list(self.graph_breaks),
            "unsupported": [op._asdict() for op in self.unsupported],
            "fx_nodes": self.num_fx_nodes,
            "compute_ops": self.compute_ops,
            "tasks": self.tasks,
            "kernels": {
                verdict: [{**finding._asdict(), "count": num} for finding, num in self.found(verdict).most_common()]
                for verdict in VERDICTS
            },
            "conversions": self._conversions(),
            "bound": None if self.bound is None else asdict(self.bound),
            "ge_ops": dict(self.ge_ops.most_common()),
            "collectives": [collective._asdict() for collective in self.collectives],
            "parameters": self.num_parameters,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "flops": self.flops,
            "soc": self.soc,
            "versions": {package: version(package) for package in ("torch", "torch_npu")},
        }

    def table(self, *, sources: bool = False) -> str:
        """The numbers for people; `sources` adds the source lines that GE operations come from."""
        versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "torch_npu"))
        rows = [
            ("lowered for", f"{SOC_NAMES[self.soc]} by {versions}; nothing ran on an NPU"),
            ("graphs", str(len(self.graphs))),
            *(("graph break", reason) for reason in self.graph_breaks),
            ("unsupported", str(len(self.unsupported))),
            *(("", f"{op.op} at {op.source}: {op.reason}") for op in self.unsupported),
            ("FX nodes", f"{self.num_fx_nodes:,}"),
            ("GE ops", f"{self.ge_ops.total():,}, of which {self.compute_ops:,} compute, as {self.tasks:,} tasks"),
            ("collectives", str(len(self.collectives))),
            *(("", f"{c.kind}, {_megabytes(c.num_bytes)}") for c in self.collectives),
            ("parameters", f"{self.num_parameters:,}, {_megabytes(self.weight_bytes)}"),
            ("activations", f"{_megabytes(self.activation_bytes)} at once (estimate)"),
            ("convolutions", f"{self.flops / 1e9:,.1f} GFLOP"),
            *self._kernel_rows(sources),
            ("GE ops by kind", ""),
            *((f"{count:6,}", kind) for kind, count in self.ge_ops.most_common()),
        ]
        if sources:
            rows.append(("GE ops by line", ""))
            rows += [(f"{n:6,}", f"{kind:24} {line}") for (kind, line), n in self.sources.most_common()]
        return "\n".join(f"{name:16}{text}".rstrip() for name, text in rows)

    def _kernel_rows(self, every: bool) -> Iterator[tuple[str, str]]:
        """Of the table: what keeps a step from running or slows it down, line by line; of the rest numbers only."""
        yield "kernels", ", ".join(f"{self.found(v).total()} {v.replace('_', ' ')}" for v in VERDICTS)
        for verdict, meaning in VERDICTS.items():
            found = self.found(verdict)
            if found and (every or verdict in ("refused", "lossy", "ai_cpu", "experimental")):
                yield "", f"{verdict.replace('_', ' ')}: {meaning}"
                yield from ((f"{num:6,}", f"{f.kind}: {f.what} at {f.source}") for f, num in found.most_common())
        if lines := self._conversions():
            moved = sum(line["bytes"] for line in lines)
            yield "conversions", f"{sum(line['count'] for line in lines)} of memory format, {_megabytes(moved)}"
            shown = lines if every else []
            yield from ((f"{line['count']:6,}", f"{_megabytes(line['bytes'])} at {line['source']}") for line in shown)
        if self.bound:
            moved, matrices = sum(self.bound.num_bytes.values()), 1e3 * self.bound.flops / MATRIX_FLOPS
            total = f"{1e3 * self.bound.total_seconds:.1f} ms: {_megabytes(moved)} moved"
            text = f"{total}, {matrices:.1f} ms of multiplications"
            yield "bound", f"{text}; computed, not measured"

    def _conversions(self) -> list[dict[str, Any]]:
        """Number and bytes by line, most bytes first."""
        counts, moved = Counter(c.source for c in self.conversions), Counter[str]()
        for conversion in self.conversions:
            moved[conversion.source] += conversion.num_bytes
        return [{"source": source, "count": counts[source], "bytes": size} for source, size in moved.most_common()]


def activation_bytes(module: fx.GraphModule) -> int:
    """The most bytes of intermediate results alive at once when an FX graph runs in its order.

    A tensor lives from the node that makes it to the last that uses it or a view of it. Inputs do not count.
    """
    nodes = list(module.graph.nodes)
    born: dict[int, int] = {}
    dies: dict[int, int] = {}
    size: dict[int, int] = {}
    for position, node in enumerate(nodes):
        for storage in _storages(node):
            key = storage._cdata
            born.setdefault(key, position)
            size[key] = 0 if nodes[born[key]].op == "placeholder" else storage.nbytes()
        for used in (node, *node.all_input_nodes):
            dies.update((storage._cdata, position) for storage in _storages(used))
    changes = Counter[int]()
    for key, num in size.items():
        changes[born[key]] += num
        changes[dies[key] + 1] -= num
    return max(accumulate(changes[position] for position in range(len(nodes))), default=0)


def _storages(node: fx.Node) -> list[torch.UntypedStorage]:
    """Of the tensors that a node makes or takes a view of."""
    values = pytree.tree_leaves(node.meta.get("val"))
    return [value.untyped_storage() for value in values if isinstance(value, Tensor)]


def _megabytes(num: int) -> str:
    return f"{num / 1e6:,.1f} MB"
