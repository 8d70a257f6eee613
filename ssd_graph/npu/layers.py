"""Convolution, batch normalisation and pooling of a GE graph, in torch on the CPU; see operators.py.

Where torch has a forward operator of the same meaning it is called as the step on the CPU calls it, so that both
round alike. Else some ReLU whose input is 0 up to rounding would pass its gradient in one of them only: between
the float32 and the float64 step on the CPU that moves the gradient of ResNet-34 by up to 5e-3. Gradients are
computed in float32, whatever their type, and rounded once.
"""

# N images, C channels, H and W rows and columns

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from ssd_graph.npu.node import Node, Operator, Result, UnknownOperator, integers, pooling_window, widened

_BATCH = (0, 2, 3)
"""Dimensions of [N, C, H, W] that batch normalisation takes its statistics over."""


def _padding(node: Node) -> tuple[int, int, int, int]:
    """(left, right, top, bottom), as torch pads, from GE's (top, bottom, left, right)."""
    top, bottom, left, right = node.integers("pads")
    return left, right, top, bottom


def _geometry(node: Node) -> tuple[Any, Any, int]:
    """Strides and dilations in [rows, columns], and groups; torch annotates some as if both had to be the same.

    Raises:
        UnknownOperator: the layout is not NCHW.
    """
    _require_nchw(node, "NHWC")
    return node.integers("strides")[2:], node.integers("dilations", [1, 1, 1, 1])[2:], node.integer("groups", 1)


def _require_nchw(node: Node, default: str) -> None:
    layout = node.text("data_format", default)
    if layout != "NCHW":
        raise UnknownOperator(f"{node} has layout {layout}")


def _conv2d(node: Node, x: Tensor, filter: Tensor, bias: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
    if offset is not None or node.integer("offset_x", 0):
        raise UnknownOperator(f"{node} is quantised")
    stride, dilation, groups = _geometry(node)
    left, right, top, bottom = padding = _padding(node)
    if (left, top) == (right, bottom):
        return F.conv2d(x, filter, bias, stride, (top, left), dilation, groups)
    return F.conv2d(F.pad(x, padding), filter, bias, stride, 0, dilation, groups)


def _conv2d_input(node: Node, input_size: Tensor, filter: Tensor, gradient: Tensor) -> Tensor:
    num, channels, height, width = integers(input_size)
    left, right, top, bottom = _padding(node)
    padded = (num, channels, top + height + bottom, left + width + right)
    stride, dilation, groups = _geometry(node)
    y = conv2d_input(padded, widened(filter), widened(gradient), stride, 0, dilation, groups)
    return y[:, :, top : top + height, left : left + width].to(gradient.dtype).contiguous()


def _conv2d_filter(node: Node, x: Tensor, filter_size: Tensor, gradient: Tensor) -> Tensor:
    """float32 for low precision too: the sum over the batch is not rounded before torchair's own Cast."""
    padded = F.pad(widened(x), _padding(node))
    size = torch.Size(integers(filter_size))
    stride, dilation, groups = _geometry(node)
    return conv2d_weight(padded, size, widened(gradient), stride, 0, dilation, groups)


def _per_channel(x: Tensor) -> Tensor:
    """[C] as [1, C, 1, 1]."""
    return x[None, :, None, None]


def _normalised(x: Tensor, mean: Tensor, deviation_reciprocal: Tensor) -> Tensor:
    return (widened(x) - _per_channel(mean)) * _per_channel(deviation_reciprocal)


def _batch_norm(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> Result:
    """Outputs y, running_mean, running_var, save_mean, save_rstd; in training it overwrites the running ones.

    CANN's page (ops-nn, norm/batch_norm_v3) on save_rstd: on A2 and A3 it holds the batch's biased variance,
    on Ascend 950 the reciprocal of its deviation; in inference the saved outputs have no value.
    """
    epsilon, momentum = node.real("epsilon", 1e-5), node.real("momentum", 0.1)
    statistics = (running_mean, running_var)
    training = node.boolean("is_training", True)
    y = F.batch_norm(x, *statistics, weight, bias, training, momentum, epsilon)
    if not training:
        return y, *statistics, None, None
    variance, mean = torch.var_mean(widened(x), _BATCH, correction=0)
    return y, *statistics, mean, variance if node.soc == "a2" else (variance + epsilon).rsqrt()


def _bn_reduce(node: Node, x: Tensor) -> Result:
    """Sums of x and of its squares [C]."""
    wide = widened(x)
    return wide.sum(_BATCH), wide.square().sum(_BATCH)


def _bn_update(node: Node, x: Tensor, total: Tensor, square_total: Tensor, scale: Tensor, offset: Tensor) -> Result:
    """Outputs y, the mean, the unbiased variance, the mean again and the biased variance.

    The sums say what the statistics are, but are only compared with x's own: y is to round as the step on the CPU.
    """
    num = x.numel() // x.shape[1]
    variance, mean = torch.var_mean(widened(x), _BATCH, correction=0)
    for given, own in ((total, mean), (square_total, variance + mean.square())):
        if not torch.allclose(given / num, own, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise UnknownOperator(f"{node} has the sums of another tensor")
    batch_mean, batch_variance = torch.zeros_like(mean), torch.ones_like(variance)
    y = F.batch_norm(x, batch_mean, batch_variance, scale, offset, True, 1.0, node.real("epsilon"))
    return y, batch_mean, batch_variance, mean, variance


def _bn_update_grad(node: Node, gradient: Tensor, x: Tensor, mean: Tensor, variance: Tensor) -> Result:
    """Gradients of scale and offset [C]."""
    reciprocal = (variance + node.real("epsilon", 1e-4)).rsqrt()
    return _parameter_gradients(gradient, _normalised(x, mean, reciprocal))


def _bn_reduce_grad(
    node: Node,
    gradient: Tensor,
    x: Tensor,
    diff_scale: Tensor,
    diff_offset: Tensor,
    scale: Tensor,
    mean: Tensor,
    variance: Tensor,
) -> Tensor:
    """Gradient of x, from those of scale and offset."""
    reciprocal = (variance + node.real("epsilon", 1e-4)).rsqrt()
    normalised = _normalised(x, mean, reciprocal)
    return _input_gradient(gradient, normalised, diff_scale, diff_offset, scale * reciprocal)


def _batch_norm_grad(
    node: Node,
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    save_mean: Tensor,
    save_rstd: Tensor,
) -> Result:
    """Gradients of x, weight and bias; reads save_rstd as the reciprocal of a deviation."""
    if not node.boolean("is_training", True):
        raise UnknownOperator(f"{node} is a gradient of inference")
    normalised = _normalised(x, save_mean, save_rstd)
    diff_weight, diff_bias = _parameter_gradients(gradient, normalised)
    diff_x = _input_gradient(gradient, normalised, diff_weight, diff_bias, widened(weight) * save_rstd)
    return diff_x, diff_weight.to(weight.dtype), diff_bias.to(weight.dtype)


def _parameter_gradients(gradient: Tensor, normalised: Tensor) -> tuple[Tensor, Tensor]:
    wide = widened(gradient)
    return (wide * normalised).sum(_BATCH), wide.sum(_BATCH)


def _input_gradient(
    gradient: Tensor, normalised: Tensor, diff_scale: Tensor, diff_offset: Tensor, factor: Tensor
) -> Tensor:
    """Batch normalisation's gradient (Ioffe and Szegedy, arXiv 1502.03167, section 3) in `gradient`'s type."""
    num = gradient.numel() // gradient.shape[1]
    mean = _per_channel(diff_offset / num) + normalised * _per_channel(diff_scale / num)
    return (_per_channel(factor) * (widened(gradient) - mean)).to(gradient.dtype)


def _max_pool(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima, and the index of each in its H x W plane."""
    _require_nchw(node, "NCHW")
    size, stride, padding, dilation = pooling_window(node)
    return F.max_pool2d_with_indices(x, size, stride, padding, dilation, node.boolean("ceil_mode", False))


def _max_pool_grad(node: Node, x: Tensor, gradient: Tensor, indices: Tensor) -> Tensor:
    _, own = _max_pool(node, x)
    if not torch.equal(own, indices):
        raise UnknownOperator(f"{node} has the indices of another pooling")
    planes = torch.zeros(x.shape, dtype=widened(gradient).dtype).flatten(2)
    planes.scatter_add_(2, indices.flatten(2), widened(gradient).flatten(2))
    return planes.view(x.shape).to(gradient.dtype)


LAYERS: Mapping[str, Operator] = {
    "BNInfer": lambda node, x, scale, offset, mean, variance: F.batch_norm(
        x, mean, variance, scale, offset, eps=node.real("epsilon")
    ),
    "BNTrainingReduce": _bn_reduce,
    "BNTrainingReduceGrad": _bn_reduce_grad,
    "BNTrainingUpdateGrad": _bn_update_grad,
    "BNTrainingUpdateV3": _bn_update,
    "BatchNormGradV3": _batch_norm_grad,
    "BatchNormV3": _batch_norm,
    "Conv2D": _conv2d,
    "Conv2DBackpropFilter": _conv2d_filter,
    "Conv2DBackpropInput": _conv2d_input,
    "MaxPoolGradWithArgmaxV1": _max_pool_grad,
    "MaxPoolGradWithArgmaxV3": _max_pool_grad,
    # V1's indices are in a form of the device's own, which only V1's gradient reads.
    "MaxPoolWithArgmaxV1": _max_pool,
    "MaxPoolWithArgmaxV3": _max_pool,
}
"""By GE's name of the kind."""
