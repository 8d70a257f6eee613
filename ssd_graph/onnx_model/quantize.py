"""Static 8-bit quantisation of an exported network by onnxruntime's own quantiser (QDQ form)."""

# M calibration batches

import logging
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from ssd_graph.cli import InputError
from ssd_graph.onnx_model.graph import network_nodes, strip_traces, tapped

_QUANTISED_OPERATORS = ("Conv", "Relu", "Add", "MaxPool")
_NUM_BINS = 2048
_SHARES = np.geomspace(0.01, 1.0, 60)
"""Of the widest range, the ranges that are tried."""

_FLOAT_OUTPUTS = ("network.class_head", "network.box_head")
"""Heads whose weight's name begins with one of these multiply in 8 bits, and what they put out stays float32.

Class logits range so far that a 256th of it is too coarse a step for a softmax, and so is a 256th for a box that is to
overlap by 0.9.
"""


def quantise(model: onnx.ModelProto, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """`model` with its network in 8 bits, but for what heads put out; postprocessing stays in float32.

    Weights have 7 bits: the 8-bit kernel of CPUs with AVX2 and no VNNI saturates its 16-bit sums otherwise. An
    activation's range is that of `_best_range`. docs/export.md has the measurements.

    Args:
        model: in float32, opset 13 or newer.
        batches: the network's inputs, as the model takes them and of one image each, to measure ranges on.

    Raises:
        InputError: the network computes infinities or what is no number.
    """
    batches = list(batches)
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    _put_relu_before_pooling(prepared)
    nodes = [node for node in network_nodes(prepared) if node.op_type in _QUANTISED_OPERATORS]
    heads = [n.name for n in nodes if n.op_type == "Conv" and n.input[1].startswith(_FLOAT_OUTPUTS)]
    chosen = [node.name for node in nodes if node.name not in heads]
    weights = {tensor.name for tensor in prepared.graph.initializer}
    # A ReLU is part of the convolution or addition before it.
    activations = {name for node in nodes if node.op_type != "Relu" for name in node.input} - weights
    ranges = _ranges(prepared, sorted(activations), batches)
    # On the root logger the quantiser calls for a preparation that the exporter has done.
    with tempfile.TemporaryDirectory() as folder, patch.object(logging.getLogger(), "disabled", True):
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)  # given the model itself, the quantiser would move its weights out of it
        quantize_static(
            source,
            target,
            _Reader(model.graph.input[0].name, batches[:1]),  # it asks for some, though all ranges are given
            nodes_to_quantize=chosen,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": ranges},
        )
        quantised = onnx.load(target)
    for head in heads:
        _multiply_matrices(quantised.graph, head)
    read = {name for node in quantised.graph.node for name in node.input}
    for node in [n for n in quantised.graph.node if n.op_type == "DequantizeLinear" and n.output[0] not in read]:
        quantised.graph.node.remove(node)  # of the last map, which only heads read
    strip_traces(quantised)
    quantised.ir_version = model.ir_version
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    return quantised


def _ranges(model: onnx.ModelProto, names: Collection[str], batches: Iterable[np.ndarray]) -> dict[str, list[Any]]:
    """The range of each of the model's values `names`, as the quantiser takes it."""
    session = onnxruntime.InferenceSession(tapped(model, names).SerializeToString(), providers=["CPUExecutionProvider"])
    found = defaultdict[str, list[tuple[np.ndarray, np.ndarray]]](list)
    for batch in batches:
        arrays: Any = session.run(None, {model.graph.input[0].name: batch})
        for name, array in zip(names, arrays, strict=True):
            ends = array.min(), array.max()
            if not np.isfinite(ends).all():
                raise InputError("the network makes no numbers of a calibration image; train it with a lower --lr")
            edges = np.linspace(*ends, _NUM_BINS + 1)
            counts = torch.histc(torch.from_numpy(array), _NUM_BINS).numpy()
            found[name].append((counts, (edges[1:] + edges[:-1]) / 2))
    best = {name: _best_range(*map(np.stack, zip(*pairs, strict=True))) for name, pairs in found.items()}
    return {name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in best.items()}


def _best_range(counts: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The range that costs a typical image the least.

    One image of ten has spots where activations grow from block to block, to many times the usual. A range that holds
    these leaves few levels to all other images, for nothing: what is said of those spots matters little. So it is not
    the error that is averaged over images, nor their greatest values, but the error's logarithm.

    Args:
        counts: how often each of `values` [M, bins] occurs in each image [M, bins].
    """
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)

    def cost(share: float) -> float:
        beyond = values - values.clip(share * low, share * high)
        rounded = (share * (high - low) / 255) ** 2 / 12
        errors = (counts * np.where(beyond == 0, rounded, beyond**2)).sum(1)
        return np.log(errors + np.finfo(np.float64).tiny).mean()

    share = min(_SHARES, key=cost)
    return share * low, share * high


def _put_relu_before_pooling(model: onnx.ModelProto) -> None:
    """The network pools first, which is quicker in float32; onnxruntime pools bytes if the range stays the same."""
    nodes = model.graph.node
    pool = next(node for node in nodes if node.op_type == "MaxPool")
    relu = next(node for node in nodes if pool.output[0] in node.input)
    pool.op_type, relu.op_type = relu.op_type, pool.op_type
    attributes = list(pool.attribute)
    del pool.attribute[:]
    relu.attribute.extend(attributes)


def _multiply_matrices(graph: onnx.GraphProto, head: str) -> None:
    """Replace a head, a 3x3 convolution of a map in 8 bits, by a product of matrices in 8 bits.

    Of sums of 8-bit products onnxruntime makes floats for matrices only, not for convolutions. So the nine neighbours
    of each cell are laid side by side, as bytes.
    """
    at = next(i for i, node in enumerate(graph.node) if node.name == head)
    convolution = graph.node.pop(at)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    kernel, bias = (tensors[name] for name in convolution.input[1:])
    (byte_map, scale, zero_point) = next(n for n in graph.node if convolution.input[0] in n.output).input
    new: list[onnx.NodeProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{head}_{name}"))
        return f"{head}_{name}"

    def add(operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        new.append(helper.make_node(operator, inputs, [f"{head}_{name}"], f"{head}_{name}", **attributes))
        return f"{head}_{name}"

    x = add("Transpose", "cells", byte_map, perm=[0, 2, 3, 1])  # [N, S, S, channels]
    x = add("Pad", "padded", x, constant("pads", np.array([0, 1, 1, 0, 0, 1, 1, 0])), zero_point)
    axes = constant("axes", np.array([1, 2]))
    places = list(np.ndindex(3, 3))
    begins = [constant(f"from_{row}{column}", np.array([row, column])) for row, column in places]
    ends = [constant(f"to_{row}{column}", np.array([_END[row], _END[column]])) for row, column in places]
    parts = [add("Slice", f"part_{i}", x, begins[i], ends[i], axes) for i in range(len(places))]
    x = add("DequantizeLinear", "values", add("Concat", "neighbours", *parts, axis=3), scale, zero_point)

    weight = numpy_helper.to_array(kernel)  # [outputs, channels, 3, 3]
    steps = (np.abs(weight).max((1, 2, 3)) / 63).astype(np.float32).clip(np.finfo(np.float32).tiny)
    whole = np.rint(weight / steps[:, None, None, None]).astype(np.int8).transpose(2, 3, 1, 0)
    weights = [
        constant("weight_quantized", whole.reshape(-1, len(weight))),
        constant("weight_scale", steps),
        constant("weight_zero_point", np.zeros(len(weight), np.int8)),
    ]
    x = add("MatMul", "products", x, add("DequantizeLinear", "weight", *weights, axis=1))
    new.append(
        helper.make_node("Transpose", [add("Add", "sums", x, bias.name)], convolution.output, head, perm=[0, 3, 1, 2])
    )
    graph.initializer.remove(kernel)
    for offset, node in enumerate(new):
        graph.node.insert(at + offset, node)


_END = (-2, -1, np.iinfo(np.int64).max)
"""Where the slices of a padded axis end that begin at 0, 1 and 2."""


class _Reader(CalibrationDataReader):
    """Hands batches to the quantiser."""

    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self._name, self._left = name, iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        batch = next(self._left, None)
        return None if batch is None else {self._name: batch}
