"""Quantising touches the network only, is deterministic, and follows its configuration."""

import numpy as np
import onnx
import onnxruntime
import pytest

from ssd_graph.onnx_model.export import sample_images
from ssd_graph.onnx_model.graph import network_outputs, tapped
from ssd_graph.onnx_model.quantize import QuantConfig, quantise
from ssd_graph.scoring.parity import signal_to_noise

IMAGES = sample_images(None, 3)


@pytest.fixture(scope="module")
def model(trained):
    return onnx.load(trained / "model.onnx")


def quantised(model, **config):
    return quantise(model, [image[None] for image in IMAGES], QuantConfig(**config))


@pytest.fixture(scope="module")
def int8(model):
    return quantised(model)


def noise(model, other):
    """Signal to noise of `other`'s network outputs against `model`'s, the worse of the two."""
    outputs = []
    for m in (model, other):
        content = tapped(m, network_outputs(model)).SerializeToString()
        outputs.append(
            onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": IMAGES})
        )
    return min(signal_to_noise(*pair) for pair in zip(*outputs, strict=True))


def producers(model):
    return {name: node for node in model.graph.node for name in node.output}


def in_float(model):
    """Weights of the convolutions that are not quantised."""
    made_by = producers(model)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 31
    return {n.input[1] for n in convolutions if n.input[1] not in made_by}


def test_every_convolution_but_the_class_heads_is_quantised_with_its_input(int8):
    assert in_float(int8) == {f"network.class_head.{i}.weight" for i in range(6)}
    made_by = producers(int8)
    inputs = {n.input[0] for n in int8.graph.node if n.op_type == "Conv"}
    assert all(made_by[name].op_type == "DequantizeLinear" for name in inputs)


def test_postprocessing_stays_in_float(model, int8):
    made_by, behind = producers(int8), set(network_outputs(model))
    for node in int8.graph.node:
        if behind & set(node.input):
            assert node.op_type not in ("QuantizeLinear", "DequantizeLinear"), node.name
            behind |= set(node.output)
    assert {"num_detections", "boxes", "scores", "labels"} <= behind
    assert made_by["scores"].op_type == "TopK"


def test_quantising_again_gives_the_same_bytes_and_leaves_the_model_alone(model, int8):
    before = model.SerializeToString(deterministic=True)
    assert quantised(model).SerializeToString(deterministic=True) == int8.SerializeToString(deterministic=True)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_have_a_scale_a_channel_and_seven_bits(int8):
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in int8.graph.initializer}
    weight = tensors["network.box_head.0.weight_quantized"]
    assert weight.dtype == np.int8
    assert 60 <= np.abs(weight.astype(int)).max() <= 64
    assert tensors["network.box_head.0.weight_scale"].shape == (weight.shape[0],)


def test_other_convolutions_can_be_chosen_to_stay_in_float(model):
    assert in_float(quantised(model, float_weights=())) == set()
    mixed = quantised(model, float_weights=("network.box_head", "network.trunk.conv1"))
    assert in_float(mixed) == {"network.trunk.conv1.weight", *(f"network.box_head.{i}.weight" for i in range(6))}


def test_ranges_of_a_brighter_world_make_a_worse_model(model, int8):
    """The check that calibration images matter at all: black ones leave no range for anything else."""
    blind = quantise(model, [np.zeros_like(IMAGES[:1])], QuantConfig())
    assert noise(model, int8) > noise(model, blind) + 3
