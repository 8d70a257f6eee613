"""Static 8-bit quantisation of an exported network by onnxruntime's own quantiser (QDQ form)."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from ssd_graph.onnx_model.graph import network_nodes, strip_traces

_QUANTISED_OPERATORS = ("Conv", "Relu", "Add", "MaxPool")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantConfig:
    """What is quantised and how finely; docs/export.md has the measurements behind the defaults.

    Activations' ranges are the least and greatest values met: entropy and percentiles take up to twice as long and
    were no better.
    """

    float_weights: tuple[str, ...] = ("network.class_head",)
    """Convolutions whose weight's name begins with one of these stay in float32.

    Class logits range so far that a 256th of it is too coarse a step for a softmax.
    """
    per_channel: bool = True
    """A scale for each output channel of a convolution."""
    reduce_range: bool = True
    """7 bits for weights: the 8-bit kernel of CPUs with AVX2 and no VNNI saturates its 16-bit sums otherwise."""


def quantise(model: onnx.ModelProto, batches: Sequence[np.ndarray], config: QuantConfig) -> onnx.ModelProto:
    """`model` with its convolutions and what lies between them in 8 bits; postprocessing stays in float32.

    Args:
        model: in float32, opset 13 or newer.
        batches: the network's inputs, as the model takes them, to measure activations' ranges on.
    """
    nodes = [node for node in network_nodes(model) if node.op_type in _QUANTISED_OPERATORS]
    chosen = [n.name for n in nodes if not (n.op_type == "Conv" and n.input[1].startswith(config.float_weights))]
    with tempfile.TemporaryDirectory() as folder, _silence():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)  # given the model itself, the quantiser would move its weights out of it
        quantize_static(
            source,
            target,
            _Reader(model.graph.input[0].name, batches),
            nodes_to_quantize=chosen,
            per_channel=config.per_channel,
            reduce_range=config.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibStridedMinMax": 1},  # else it keeps every activation of every image in memory
        )
        quantised = onnx.load(target)
    strip_traces(quantised)
    quantised.ir_version = model.ir_version
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    return quantised


class _Reader(CalibrationDataReader):
    """Hands batches to the quantiser, which asks for them one range after the other."""

    def __init__(self, name: str, batches: Sequence[np.ndarray]) -> None:
        self._name, self._batches = name, batches
        self.set_range(0, len(batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left: Iterator[np.ndarray] = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        batch = next(self._left, None)
        return None if batch is None else {self._name: batch}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps from the user the quantiser's call for a preparation that the exporter has done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
