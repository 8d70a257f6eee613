"""What of a node contradicts the shapes that torchair describes: axes, groups, windows."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ssd_graph.npu.engine.graph import TypedGraph, data_inputs
from ssd_graph.npu.node import Node, pooling_window

_AXES = {
    "ArgMaxWithValue": ("dimension",),
    "FlattenV2": ("axis", "end_axis"),
    "GatherElements": ("dim",),
    "LogSoftmaxGrad": ("axis",),
    "LogSoftmaxV2": ("axes",),
    "Reshape": ("axis",),
    "Sort": ("axis",),
}
"""Attributes that count dimensions of the first input."""

_CONVOLUTIONS = {"Conv2D": (0, 1, -1), "Conv2DBackpropFilter": (0, -1, 2), "Conv2DBackpropInput": (-1, 1, 2)}
"""Inputs that are images, weight and maps; -1 is the result."""

_POOLINGS = {
    "MaxPoolGradWithArgmaxV1": (0, 1),
    "MaxPoolGradWithArgmaxV3": (0, 1),
    "MaxPoolWithArgmaxV1": (0, -1),
    "MaxPoolWithArgmaxV3": (0, -1),
}
"""Inputs that are images and maps."""


def shape_faults(node: Any, graph: TypedGraph) -> Iterator[str]:
    """What the engine's own inference of shapes would refuse, or find other than torch did."""
    about, sources = Node(node, graph.soc), [*data_inputs(node), "", "", ""]
    rank = len(graph.shape_of(sources[0]) or [])
    for name in _AXES.get(node.type, ()) if rank else ():
        for axis in (about.integers(name) or [about.integer(name)]) if name in node.attr else ():
            if not -rank <= axis < rank:
                yield f"attribute {name} is {axis}, of {rank} dimensions"
    places = _CONVOLUTIONS.get(node.type) or _POOLINGS.get(node.type) or ()
    shapes = [graph.shape_of(f"{node.name}:0" if place < 0 else sources[place]) for place in places]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(places) or not places:
        return
    if any(len(shape) != 4 for shape in known[:-1]):
        yield f"shapes {', '.join(map(str, known[:-1]))} instead of four dimensions each"
    elif (layout := about.text("data_format", "NHWC" if node.type in _CONVOLUTIONS else "NCHW")) != "NCHW":
        yield f"attribute data_format is {layout}, in a graph of NCHW"
    elif node.type in _CONVOLUTIONS:
        yield from _convolution_faults(about, *known)
    else:
        yield from _pooling_faults(about, *known)


def _convolution_faults(
    about: Node, images: Sequence[int], weight: Sequence[int], maps: Sequence[int]
) -> Iterator[str]:
    groups = about.integer("groups", 1)
    strides, pads = about.integers("strides", []), about.integers("pads", [])
    dilations = about.integers("dilations", [1, 1, 1, 1])
    if images[1] != groups * weight[1]:
        yield f"{images[1]} channels for {groups} groups of {weight[1]}"
    if not len(strides) == len(pads) == len(dilations) == 4 or min(strides) < 1:
        return
    sides = [
        (images[2 + i] + sum(pads[2 * i : 2 * i + 2]) - dilations[2 + i] * (weight[2 + i] - 1) - 1) // strides[2 + i]
        + 1
        for i in (0, 1)
    ]
    yield from _other_maps(maps, [images[0], weight[0], *sides])


def _pooling_faults(about: Node, images: Sequence[int], maps: Sequence[int]) -> Iterator[str]:
    inner = pooling_window(about, [])
    if any(len(window) != 2 for window in inner) or min(inner[1]) < 1:
        return
    up = about.boolean("ceil_mode", False)
    sides = []
    for image, size, stride, pad, dilation in zip(images[2:], *inner, strict=True):
        side = (image + 2 * pad - dilation * (size - 1) - 1 + up * (stride - 1)) // stride + 1
        sides.append(side - int(up and (side - 1) * stride >= image + pad))  # a window begins within the image
    yield from _other_maps(maps, [*images[:2], *sides])


def _other_maps(described: Sequence[int], wanted: Sequence[int]) -> Iterator[str]:
    # Behind a Conv2D torchair describes what a view makes of its result.
    if list(described) != wanted and (len(described) == 4 or math.prod(described) != math.prod(wanted)):
        yield f"maps {list(described)}, where attributes and inputs make {wanted}"
