"""The kernels of a graph that inductor has scheduled: how many, what they read and write, and where they are from."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

from ssd_graph.compilers.inductor import accessed_bytes
from ssd_graph.compilers.tracing import flops, stage
from ssd_graph.gpu.stand_in import GPU

BYTES_PER_SECOND, FLOPS = 3.0e12, 798e12
"""What an H100 80GB HBM3 was measured at: a copy on the device, read and write counted; a product of bf16 matrices
of 8192 x 8192."""

InductorGraph = Any
"""torch._inductor.graph.GraphLowering."""


class Kernel(NamedTuple):
    """A launch, or a call of a library's function."""

    kind: str
    """`triton`, or the library function's name."""
    num_bytes: int
    """Read and written by a Triton kernel: each element once, however often it is used. 0 for a library's."""
    stage: str
    """The part of the step it belongs to, see tracing.stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """What a function became."""

    batch_size: int
    kernels: tuple[Kernel, ...]
    flops: int
    """Of convolutions, forward and backward; a multiply-add counts as two."""
    host_constants: tuple[str, ...]
    """Tensors that the graph would copy from the host in every call."""
    cuda_graph_refused: str | None
    """Why inductor would not replay it as a CUDA graph."""
    code: str
    """The Python that inductor wrote: kernels, and a function that launches them."""

    @staticmethod
    def of(
        graph: InductorGraph, code: str, batch_size: int, static_inputs: Sequence[int], host_constants: Sequence[str]
    ) -> "Lowering":
        """Count what is in a graph whose `code` is written; `static_inputs` are places of inputs that never move."""
        from torch._inductor.virtualized import V

        with V.set_graph_handler(graph):
            nodes = [node for node in graph.scheduler.nodes if not _launches_nothing(node)]
            return Lowering(
                batch_size=batch_size,
                kernels=tuple(Kernel(_kind(node), _num_bytes(graph, node), _stage(node)) for node in nodes),
                flops=flops(graph.module),
                host_constants=tuple(host_constants),
                cuda_graph_refused=_refusal(graph, static_inputs),
                code=code,
            )

    @property
    def num_bytes(self) -> int:
        """Read and written by all Triton kernels."""
        return sum(kernel.num_bytes for kernel in self.kernels)

    @property
    def roofline(self) -> float:
        """Images a second if kernels move their bytes and convolutions compute at the card's measured ceilings.

        Convolutions are taken to be limited by arithmetic and kernels by memory, one after the other.
        """
        return self.batch_size / (self.num_bytes / BYTES_PER_SECOND + self.flops / FLOPS)

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON takes them."""
        return {
            "gpu": GPU,
            "batch_size": self.batch_size,
            "kernels": dict(Counter(kernel.kind for kernel in self.kernels).most_common()),
            "megabytes_per_image": self._per_image(self.num_bytes, 1e6),
            "megabytes_per_image_by_stage": {
                name: self._per_image(num, 1e6) for name, num in self._bytes_by_stage().most_common()
            },
            "gflop_per_image": self._per_image(self.flops, 1e9),
            "roofline_images_per_second": round(self.roofline),
            "host_constants": list(self.host_constants),
            "cuda_graph_refused": self.cuda_graph_refused,
            "versions": {package: version(package) for package in ("torch", "triton")},
        }

    def table(self) -> str:
        """The numbers for people."""
        kinds = Counter(kernel.kind for kernel in self.kernels)
        rows = [
            ("compiled for", f"{GPU} by torch {version('torch')}, triton {version('triton')}; nothing ran on a GPU"),
            ("kernels", f"{kinds.pop('triton', 0):,} of Triton, {kinds.total():,} calls of libraries"),
            *((f"{count:6,}", kind) for kind, count in kinds.most_common()),
            ("CUDA graph", f"refused: {self.cuda_graph_refused}" if self.cuda_graph_refused else "possible"),
            ("host constants", str(len(self.host_constants))),
            *(("", name) for name in self.host_constants),
            ("convolutions", f"{self._per_image(self.flops, 1e9):,.1f} GFLOP an image"),
            ("Triton moves", f"{self._per_image(self.num_bytes, 1e6):,.1f} MB an image"),
            *((f"{self._per_image(num, 1e6):8,.1f}", name) for name, num in self._bytes_by_stage().most_common()),
            (
                "roofline",
                f"{self.roofline:,.0f} images/s at {BYTES_PER_SECOND / 1e12} TB/s and {FLOPS / 1e12:.0f} TFLOP/s",
            ),
        ]
        return "\n".join(f"{name:16}{text}".rstrip() for name, text in rows)

    def _bytes_by_stage(self) -> Counter[str]:
        result = Counter[str]()
        for kernel in self.kernels:
            result[kernel.stage] += kernel.num_bytes
        return result

    def _per_image(self, number: int, unit: float) -> float:
        return round(number / self.batch_size / unit, 2)


def _launches_nothing(node: Any) -> bool:
    from torch._inductor.ir import MultiOutput

    return type(node).__name__ == "NopKernelSchedulerNode" or isinstance(node.node, MultiOutput)


def _kind(node: Any) -> str:
    if not node.is_extern():
        return "triton"
    operation = node.node.op_overload
    name = operation.name().partition(".")[0] if operation else node.node.python_kernel_name
    return re.split(r"::|\.", name)[-1]


def _stage(node: Any) -> str:
    """The stage of most of the operations that a kernel computes; what the forward pass computed may be among them."""
    origins = [origin for part in node.get_nodes() if part.node is not None for origin in part.node.origins]
    stages = Counter(map(stage, origins))
    del stages["unknown"]
    if "backward" in stages:
        del stages["network"], stages["loss"]
    return stages.most_common(1)[0][0] if stages else "unknown"


def _num_bytes(graph: InductorGraph, node: Any) -> int:
    """Of the elements that a Triton kernel reads and writes, without buffers that live inside it."""
    from torch._inductor.dependencies import WeakDep

    if node.is_extern():
        return 0
    unused = graph.removed_buffers | graph.inplaced_to_remove  # fused away; the latter wait for a successor's memory
    # A WeakDep is order only.
    return sum(
        accessed_bytes(graph, (a for a in accesses if a.name not in unused and not isinstance(a, WeakDep)))
        for accesses in (node.read_writes.reads, node.read_writes.writes)
    )


def _refusal(graph: InductorGraph, static_inputs: Sequence[int]) -> str | None:
    """Inductor's reasons not to replay a graph as a CUDA graph, as cudagraph_utils has them."""
    from torch._inductor.cudagraph_utils import check_multiple_devices_or_any_cpu_nodes
    from torch._inductor.utils import get_first_incompatible_cudagraph_node

    if graph.disable_cudagraphs_reason:
        return graph.disable_cudagraphs_reason
    node = get_first_incompatible_cudagraph_node(graph.module)
    if node is not None:
        return f"{node.target} cannot be recorded"
    moved = sorted(set(graph.mutated_input_idxs) - set(static_inputs))
    if moved:
        return f"{len(moved)} of its inputs are overwritten and may be moved"
    return check_multiple_devices_or_any_cpu_nodes(graph.device_node_mapping)
