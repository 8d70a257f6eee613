"""Changes to an exported graph: traces removed, an older opset declared, the network halved, outputs tapped."""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ssd_graph.cli import InputError

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16

_ATTRIBUTE_SINCE = {("Reshape", "allowzero"): 14}
"""The opset that brought an attribute which this network's use of it does not need."""


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which quote local paths and source lines, and the shapes in between.

    Every runtime infers those shapes from the inputs, and they would be wrong once the network is halved.
    """
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        del graph.value_info[:]
        graph.doc_string = ""
        values = (*graph.node, *getattr(graph, "input", ()), *getattr(graph, "output", ()))
        for value in (*values, *getattr(graph, "initializer", ())):
            if not isinstance(value, str):
                del value.metadata_props[:]
                value.doc_string = ""


def network_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes from the first convolution to the two that join the heads: what may lose precision."""
    nodes = list(model.graph.node)
    first = next(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    joins = [i for i, node in enumerate(nodes) if node.op_type == "Concat" and i > first]
    return nodes[first : joins[1] + 1]


def network_outputs(model: onnx.ModelProto) -> tuple[str, str]:
    """Names of the box regression [N, 4, A] and the class logits [N, C, A], which postprocessing starts from."""
    boxes, classes = network_nodes(model)[-2:]
    return boxes.output[0], classes.output[0]


def lower_opset(model: onnx.ModelProto, opset: int) -> None:
    """Declare `opset`, and the oldest file version that may hold it, for nodes that mean the same there.

    The exporter writes opset 18 and newer only; onnx's own converter gives up at `Split`.

    Raises:
        InputError: a node is not valid in `opset`. Whether a node means something else there is left to the
            comparison with torch.
    """
    for node in model.graph.node:
        kept = [a for a in node.attribute if _ATTRIBUTE_SINCE.get((node.op_type, a.name), 0) <= opset]
        del node.attribute[:]
        node.attribute.extend(kept)
    model.opset_import[0].version = opset
    try:
        model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise InputError(f"--opset {opset} cannot express this graph ({error}); give a newer one") from error


def halve(model: onnx.ModelProto) -> None:
    """Compute the network in float16; normalisation and postprocessing stay float32."""
    nodes, graph = network_nodes(model), model.graph
    outputs = network_outputs(model)
    for tensor in graph.initializer:
        if tensor.data_type == _FLOAT and any(tensor.name in node.input for node in nodes):
            halved = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    entry = nodes[0].input[0]
    nodes[0].input[0] = f"{entry}_half"
    for node, name in zip(nodes[-2:], outputs, strict=True):
        node.output[0] = f"{name}_half"
    casts = [helper.make_node("Cast", [f"{n}_half"], [n], name=f"{n}_to_float", to=_FLOAT) for n in outputs]
    at = list(graph.node).index(nodes[0])
    graph.node.insert(at, helper.make_node("Cast", [entry], [f"{entry}_half"], name=f"{entry}_to_half", to=_HALF))
    for offset, cast in enumerate(casts, start=at + 1 + len(nodes)):
        graph.node.insert(offset, cast)


def tapped(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy whose outputs are only the values `names`, of float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, _FLOAT, None) for name in names)
    return copy
