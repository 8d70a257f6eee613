"""Mends inductor where its kernels would move more memory than a training step needs.

On a GPU all but convolutions waits for memory: a map of 128 images has tens of megabytes, and what is computed of it
costs nothing beside reading it. `tools/lower_gpu.py` counts 249.8 MB an image, with `--plain` 318.9 (ssd300-r34, bf16,
128 images, torch 2.13.0). What each change gave at 247.1, the others staying:

change                                               MB an image  bits
max pooling's gradient is gathered, not scattered          -24.4  one order of sums, where atomics have none
  ... by the offsets that windows kept                       0.0  the same; 45 instructions an element, not 220
a map is written where that moves fewer bytes              -47.7  a map in 16 bits is rounded where it is written
ReLU's gradient is masked by ReLU's input                  -16.1  the same
a map is widened by each reader                            -20.0  the same
what is gathered is written                                 +0.1  the same; without it Triton refuses a kernel

Tested with torch 2.11.0, 2.13.0 and 2.14.0.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from math import ceil, prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._prims_common import suggest_memory_format
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ssd_graph.cli import say_once

CHECKED_TORCH = ("2.11", "2.13", "2.14")
"""With others nothing is changed: this file reaches into private names."""

MAP_BYTES = 5_000_000
"""What is smaller an H100 moves in the time that it takes to start a kernel."""

OPERATION_BYTES = 3 / 67
"""What it moves in the time of one operation of float32: 3 TB in a second, in which it could do 67e12."""

_ONE_KERNEL = "ssd_graph_one_kernel"
"""In a node's meta: its result is not written, however much has come together in it."""

InductorBox = Any
"""torch._inductor.ir.StorageBox: a tensor of the graph, which has memory or is computed where it is read."""


@contextmanager
def mended_inductor() -> Iterator[None]:
    """Have inductor make the changes of the table above in what is compiled meanwhile; it says so where it does not."""
    release = torch.__version__.split("+")[0].rpartition(".")[0]
    if release not in CHECKED_TORCH:
        say_once(
            f"inductor of torch {torch.__version__} is left as it is: its kernels were checked with torch "
            f"{', '.join(CHECKED_TORCH)} only"
        )
        yield
        return
    from torch._inductor import config, ir
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V

    storage_box: Any = ir.StorageBox
    count_reads, exceeds = storage_box.should_realize_on_reuse, storage_box.has_exceeded_max_reads

    def should_realize_on_reuse(box: InductorBox, users: int, **options: Any) -> bool:
        if users < 2 or not isinstance(box.data, ir.Pointwise) or ir.is_cpu(box.data):
            return count_reads(box, users, **options)
        if _is_gathered(box):
            return True
        return pays_to_write(box) if _num_bytes(box) > MAP_BYTES else count_reads(box, users, **options)

    def has_exceeded_max_reads(box: InductorBox) -> bool:
        return not V.graph.current_node.meta.get(_ONE_KERNEL) and exceeds(box)

    class GraphChanges(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            gather_pooling_gradients(graph)
            mask_by_input(graph)
            widen_when_read(graph)

        def uuid(self) -> object:
            return get_hash_for_files((__file__,))

    with (
        patch.object(storage_box, "should_realize_on_reuse", should_realize_on_reuse),
        patch.object(storage_box, "has_exceeded_max_reads", has_exceeded_max_reads),
        patch.dict(select_decomp_table()),
        config.patch(post_grad_custom_post_pass=GraphChanges()),
    ):
        # Without this the operation stays whole, for `gather_pooling_gradients`.
        select_decomp_table().pop(torch.ops.aten.max_pool2d_with_indices_backward.default, None)
        yield


def pays_to_write(box: InductorBox) -> bool:
    """Whether the map that inductor is at is better written once and read than computed again by each reader.

    Inductor would count: it writes what is computed from more than four tensors, vectors of a few channels among
    them, or by more than 30 operations.
    """
    from torch._inductor.virtualized import V

    compute = accessed_bytes(V.graph, box.data.get_reads())
    compute += box.data.inner_fn_opcount().num_ops * prod(map(int, box.data.get_size())) * OPERATION_BYTES
    readers = _num_readers(V.graph.current_node)
    return compute + (1 + readers) * _num_bytes(box) < readers * compute


def accessed_bytes(graph: Any, accesses: Iterable[Any]) -> int:
    """Of what inductor's accesses name, each element of a buffer once."""
    elements = Counter[str]()
    for access in accesses:
        elements[access.name] += int(access.get_numel())
    return sum(min(num, int(graph.get_numel(name))) * graph.get_dtype(name).itemsize for name, num in elements.items())


def _num_readers(node: fx.Node) -> int:
    """How many kernels will read a node's result: one for each user, but all sums share one."""
    sums = sum(_is_summed(user) for user in node.users)
    return len(node.users) - max(0, sums - 1)


def _is_summed(node: fx.Node, steps: int = 2) -> bool:
    """Whether a node is a sum, or a factor of one."""
    if node.target == torch.ops.aten.sum.dim_IntList:
        return True
    return steps > 0 and len(node.users) == 1 and any(_is_summed(user, steps - 1) for user in node.users)


def _is_gathered(box: InductorBox) -> bool:
    """Whether a result is read from where an index says.

    torch 2.13 may read it in one of a kernel's loops and use it in the next, where Triton does not know it.
    """
    return any(access.is_indirect() for access in box.data.get_reads())


def _num_bytes(box: InductorBox) -> int:
    return prod(map(int, box.data.get_size())) * box.data.get_dtype().itemsize


def gather_pooling_gradients(graph: fx.Graph) -> None:
    """Let each element ask the windows that it is in whether it was their maximum.

    torch 2.11 does so too, but computes for every window where in the map its maximum was: 220 instructions of an
    H100 an element where this takes 45, and eight times as long as the bytes take.
    """
    from torch._inductor.decomposition import select_decomp_table

    by_offset = torch.ops.prims._low_memory_max_pool_offsets_to_indices.default
    whole = torch.ops.aten.max_pool2d_with_indices_backward.default
    for node in graph.find_nodes(op="call_function", target=whole):
        gradient, input, _, _, _, dilation, _, indices = node.args
        if not node.meta["val"].is_cuda or indices.target != by_offset or max(dilation) > 1:
            continue
        offsets, like = indices.args[0], input.meta["val"]
        gather = partial(_pooling_gradient_like, like=like, window=node.args[2:5])
        with like.fake_mode:
            traced = make_fx(gather, select_decomp_table())(gradient.meta["val"], offsets.meta["val"]).graph
        for new in traced.nodes:
            new.stack_trace = node.stack_trace
            new.meta[_ONE_KERNEL] = True
        with graph.inserting_before(node):
            arguments = dict(zip(traced.find_nodes(op="placeholder"), (gradient, offsets), strict=True))
            node.replace_all_uses_with(graph.graph_copy(traced, arguments))
        graph.erase_node(node)


def pooling_gradient(
    gradient: Tensor,
    offsets: Tensor,
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """The gradient [N, C, H, W] of max pooling's input of `size` (H, W).

    Args:
        gradient: of the maxima, [N, C, H', W'].
        offsets: int8 [N, C, H', W'], where in its window each maximum was: row * kernel_size[1] + column.
    """
    axes = range(2)
    # An element is in the last window that begins no later than it, and in up to so many earlier ones.
    earlier = [ceil(kernel_size[i] / stride[i]) - 1 for i in axes]
    missing = [max(0, ceil((padding[i] + size[i]) / stride[i]) - gradient.shape[2 + i]) for i in axes]
    around = (earlier[1], missing[1], earlier[0], missing[0])

    def spread(windows: Tensor, back: Sequence[int], outside: int) -> Tensor:
        """What the window so many before an element's last one has, for each element."""
        windows = F.pad(windows, around, value=outside)
        for i in axes:
            first = padding[i] + stride[i] * (earlier[i] - back[i])
            windows = windows.repeat_interleave(stride[i], 2 + i).narrow(2 + i, first, size[i])
        return windows

    parts = list[Tensor]()
    for back in product(*(range(num + 1) for num in earlier)):
        row, column = (
            (torch.arange(size[i], device=gradient.device) + padding[i]) % stride[i] + back[i] * stride[i] for i in axes
        )
        place = torch.where(column < kernel_size[1], row.unsqueeze(1) * kernel_size[1] + column, prod(kernel_size))
        parts.append(torch.where(spread(offsets, back, -1) == place, spread(gradient, back, 0), 0))
    return sum(parts[1:], parts[0])


def _pooling_gradient_like(gradient: Tensor, offsets: Tensor, like: Tensor, window: Sequence[Any]) -> Tensor:
    """The gradient in memory as its input; what as_strided is called on is written so, or inductor may turn the map."""
    result = pooling_gradient(gradient, offsets, like.shape[2:], *window)
    return result.to(memory_format=suggest_memory_format(like)).as_strided(like.shape, like.stride())


def mask_by_input(graph: fx.Graph) -> None:
    """Let ReLU's gradient be masked by what went into ReLU where that is computed from one map, as by normalisation.

    The mask is the same. But ReLU's result would be read for the mask alone, while the backward pass of
    normalisation reads that map anyway.
    """
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.le.Scalar):
        relu, bound = node.args
        if bound == 0 and relu.target == aten.relu.default and relu.meta["val"].is_cuda:
            (input,) = relu.args
            if len(_maps_behind(input)) == 1:
                node.args = (input, 0)


def _maps_behind(node: fx.Node) -> set[fx.Node]:
    """The tensors of a node's size from which it is computed element by element; none if it is itself no such."""
    found, todo = set[fx.Node](), [node]
    while todo:
        current = todo.pop()
        if torch.Tag.pointwise not in getattr(current.target, "tags", ()):
            continue
        for input in current.all_input_nodes:
            if input.meta["val"].numel() == node.meta["val"].numel():
                if len(input.users) > 1:
                    found.add(input)
                else:
                    todo.append(input)
    return found


def widen_when_read(graph: fx.Graph) -> None:
    """Convert a map to a wider type for each reader anew, so that what is kept for them is the narrow one."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.prims.convert_element_type.default):
        (input, dtype) = node.args
        if node.meta["val"].is_cuda and dtype.itemsize > input.meta["val"].dtype.itemsize:
            for user in list(node.users)[1:]:
                with graph.inserting_before(node):
                    user.replace_input_with(node, graph.node_copy(node))
