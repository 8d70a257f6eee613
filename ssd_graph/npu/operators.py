"""What the operators of a GE graph compute, in torch on the CPU; see replay.py.

Each function is written from its operator's definition (torchair's `REG_OP` declarations, CANN's pages on its
operators), not from the aten operation it came from. Convolutions, batch normalisation and pooling are in layers.py.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ssd_graph.npu.node import DTYPES, Node, Operator, Result, UnknownOperator, integers, widened


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator on two inputs that are broadcast; torchair makes their types agree beforehand."""

    def compute(node: Node, x1: Tensor, x2: Tensor) -> Tensor:
        _agree(node, x1, x2)
        return function(x1, x2)

    return compute


def _agree(node: Node, *inputs: Tensor) -> None:
    if len({x.dtype for x in inputs}) != 1:
        raise UnknownOperator(f"{node} has inputs of types {', '.join(str(x.dtype) for x in inputs)}")


def _addcmul(node: Node, data: Tensor, x1: Tensor, x2: Tensor, value: Tensor) -> Tensor:
    _agree(node, data, x1, x2, value)
    return torch.addcmul(data, x1, x2, value=value.item())


def _arg_max_with_value(node: Node, x: Tensor) -> Result:
    # numpy promises the first of equal values, torch promises nothing.
    dim, keep = node.integer("dimension"), node.boolean("keep_dims", False)
    indices = torch.from_numpy(np.argmax(widened(x).numpy(), axis=dim, keepdims=True))
    values = x.gather(dim, indices)
    indices = indices.to(DTYPES[node.integer("indice_dtype", 3)])
    return (indices, values) if keep else (indices.squeeze(dim), values.squeeze(dim))


def _axpy_v2(node: Node, x1: Tensor, x2: Tensor, alpha: Tensor) -> Tensor:
    _agree(node, x1, x2)
    return x1.add(x2, alpha=alpha.item())


def _clip_by_value(node: Node, x: Tensor, minimum: Tensor, maximum: Tensor) -> Tensor:
    _agree(node, x, minimum, maximum)
    return torch.minimum(torch.maximum(x, minimum), maximum)


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    *tensors, dim = inputs
    _agree(node, *tensors)
    return torch.cat(tensors, *integers(dim))


def _log(node: Node, x: Tensor) -> Tensor:
    natural = (node.real("scale", 1.0) * x + node.real("shift", 0.0)).log()
    base = node.real("base", -1.0)  # -1 stands for e
    return natural if base == -1.0 else natural / np.log(base)


def _log_softmax_grad(node: Node, grad: Tensor, x: Tensor) -> Tensor:
    """`x` is the log-softmax, not the logits."""
    return grad - x.exp() * grad.sum(node.integers("axis", [-1]), keepdim=True)


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    _agree(node, start, limit, delta)
    if node.boolean("is_closed", False):
        raise UnknownOperator(f"{node} has its limit too")
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def compute(node: Node, x: Tensor, axes: Tensor) -> Tensor:
        dims = integers(axes)
        if not dims:  # torch would reduce all dimensions, GE by default none
            if node.boolean("noop_with_empty_axes", True):
                return x
            dims = list(range(x.ndim))
        return function(widened(x), dims, keepdim=node.boolean("keep_dims", False)).to(x.dtype)

    return compute


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    if (node.integer("axis", 0), node.integer("num_axes", -1)) != (0, -1):
        raise UnknownOperator(f"{node} reshapes a part of the dimensions")
    return x.reshape(integers(shape))


def _select(node: Node, condition: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    _agree(node, then, otherwise)
    return torch.where(condition, then, otherwise)


def _sort(node: Node, x: Tensor) -> Result:
    descending, stable = node.boolean("descending", False), node.boolean("stable", False)
    values, indices = x.sort(dim=node.integer("axis", -1), descending=descending, stable=stable)
    return values, indices.to(DTYPES[node.integer("y2_dtype", 3)])


def _split(node: Node, x: Tensor, sizes: Tensor, dim: Tensor) -> Result:
    # Contiguous pieces are views, as the engine may make them: whoever overwrites one has to copy it first.
    pieces = x.split(integers(sizes), *integers(dim))
    assert len(pieces) == node.integer("num_split"), str(node)
    return tuple(piece.contiguous() for piece in pieces)


def _strided_slice(
    node: Node, x: Tensor, begin: Tensor, end: Tensor, axes: Tensor | None = None, strides: Tensor | None = None
) -> Tensor:
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    if any(node.integer(mask, 0) for mask in masks):
        raise UnknownOperator(f"{node} slices with a mask")
    starts, ends = integers(begin), integers(end)
    dims = integers(axes) if axes is not None else range(len(starts))
    steps = integers(strides) if strides is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for dim, *piece in zip(dims, starts, ends, steps, strict=True):
        index[dim] = slice(*piece)
    return x[tuple(index)].contiguous()


def _unsqueeze(node: Node, x: Tensor) -> Tensor:
    for dim in sorted(node.integers("axes", [])):
        x = x.unsqueeze(dim)
    return x


def _all_reduce(node: Node, x: Tensor) -> Tensor:
    if node.text("reduction") != "sum":
        raise UnknownOperator(f"{node} reduces by {node.text('reduction')}")
    if node.all_reduce is not None:
        return node.all_reduce(x)
    ranks = node.text("group").rpartition("rank_list=")[2].split(",")
    return x * len(ranks)


OPERATORS: Mapping[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "Addcmul": _addcmul,
    "ArgMaxWithValue": _arg_max_with_value,
    "AxpyV2": _axpy_v2,
    "BroadcastTo": lambda node, x, shape: x.expand(integers(shape)).contiguous(),
    "Cast": lambda node, x: x.to(DTYPES[node.integer("dst_type")]),
    "ClipByValueV2": _clip_by_value,
    "ConcatV2": _concat,
    "Const": Node.constant,
    "Equal": _binary(torch.eq),
    "Fill": lambda node, dims, value: torch.full(integers(dims), value.item(), dtype=value.dtype),
    "FlattenV2": lambda node, x: x.flatten(node.integer("axis", 1), node.integer("end_axis", -1)),
    "Floor": _unary(torch.floor),
    "FloorMod": _binary(torch.remainder),
    "GatherElements": lambda node, x, index: x.gather(node.integer("dim", 0), index.long()),
    "Greater": _binary(torch.gt),
    "HcomAllReduce": _all_reduce,
    "Identity": _unary(torch.clone),
    "Less": _binary(torch.lt),
    "Log": _log,
    "LogSoftmaxGrad": _log_softmax_grad,
    "LogSoftmaxV2": lambda node, logits: logits.log_softmax(*node.integers("axes", [-1])),
    "LogicalNot": _unary(torch.logical_not),
    "Maximum": _binary(torch.maximum),
    "Minimum": _binary(torch.minimum),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "OnesLike": _unary(torch.ones_like),
    "Range": _range,
    "RealDiv": _binary(torch.true_divide),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _unary(torch.relu),
    "ReluGrad": lambda node, gradients, features: torch.where(features > 0, gradients, 0),
    "Reshape": _reshape,
    "ReverseV2": lambda node, x, axis: x.flip(integers(axis)),
    "SelectV2": _select,
    "Shape": lambda node, x: torch.tensor(x.shape, dtype=DTYPES[node.integer("dtype", 3)]),
    "Sign": _unary(torch.sign),
    "Sort": _sort,
    "SplitV": _split,
    "StridedSliceV2": _strided_slice,
    "Sub": _binary(torch.sub),
    "Transpose": lambda node, x, permutation: x.permute(integers(permutation)).contiguous(),
    "Unsqueeze": _unsqueeze,
}
"""By GE's name of the kind."""
