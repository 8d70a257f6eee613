"""Quantising touches the network only, and is deterministic."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as F

from ssd_graph.cli import InputError
from ssd_graph.onnx_model import quantize
from ssd_graph.onnx_model.export import sample_images
from ssd_graph.onnx_model.graph import network_outputs, tapped
from ssd_graph.onnx_model.quantize import quantise
from ssd_graph.scoring.parity import signal_to_noise

IMAGES = sample_images(None, 3)


@pytest.fixture(scope="module")
def model(trained):
    return onnx.load(trained / "model.onnx")


def quantised(model):
    return quantise(model, [image[None] for image in IMAGES])


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


def products(model):
    """Convolutions and products of matrices of the network."""
    return {kind: [n for n in model.graph.node if n.op_type == kind] for kind in ("Conv", "MatMul")}


def run(model, outputs):
    """Values inside the model for IMAGES."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": IMAGES})


def test_both_factors_of_every_product_are_in_8_bits(int8):
    made_by = producers(int8)
    found = products(int8)
    assert {kind: len(nodes) for kind, nodes in found.items()} == {"Conv": 19, "MatMul": 12}
    for node in (*found["Conv"], *found["MatMul"]):
        assert all(made_by[name].op_type == "DequantizeLinear" for name in node.input[:2])


def test_only_the_heads_put_out_floats(model, int8, monkeypatch):
    readers = {name: node.op_type for node in int8.graph.node for name in node.input}
    assert {readers[n.output[0]] for n in products(int8)["Conv"]} <= {"QuantizeLinear", "Relu"}
    assert {readers[n.output[0]] for n in products(int8)["MatMul"]} == {"Add"}
    monkeypatch.setattr(quantize, "_FLOAT_OUTPUTS", ("network.class_head",))
    assert len(products(quantised(model))["MatMul"]) == 6


def test_a_head_is_the_convolution_of_its_bytes(model, int8):
    """In float64: what the product of matrices says is what a convolution of the same 8-bit numbers would say."""
    tensors = {t.name: numpy_helper.to_array(t) for t in int8.graph.initializer}
    whole = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    convolutions = {n.input[1]: n.name for n in model.graph.node if n.op_type == "Conv"}
    made_by = producers(int8)
    for head in (f"network.{kind}_head.{level}" for kind in ("class", "box") for level in range(6)):
        name = convolutions[f"{head}.weight"]
        (bytes_in,) = (n.input[0] for n in int8.graph.node if n.name == f"{name}_cells")
        scale, zero_point = (tensors[made_by[f"{name}_values"].input[i]] for i in (1, 2))
        (found,) = (n.output[0] for n in int8.graph.node if n.name == name)
        levels, logits = run(int8, (bytes_in, found))
        x = torch.from_numpy((levels.astype(np.float64) - zero_point) * scale)
        steps = tensors[f"{name}_weight_scale"].astype(np.float64)
        weight = (tensors[f"{name}_weight_quantized"] * steps).T.reshape(len(steps), 3, 3, -1).transpose(0, 3, 1, 2)
        exact = whole[f"{head}.weight"]
        assert np.abs(weight - exact).max() <= steps.max() / 2 * (1 + 1e-6)
        assert np.abs(tensors[f"{name}_weight_quantized"].astype(int)).max(0).tolist() == [63] * len(steps)
        bias = torch.tensor(whole[f"{head}.bias"], dtype=torch.float64)
        expected = F.conv2d(x, torch.from_numpy(weight), bias, padding=1)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_onnxruntime_multiplies_and_pools_bytes(int8, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as_run.onnx"), 3
    onnxruntime.InferenceSession(int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "as_run.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["MatMulIntegerToFloat"]) == (19, 12)
    assert kinds["Conv"] == kinds["MatMul"] == kinds["Relu"] == 0
    assert kinds["MaxPool"] + kinds["NhwcMaxPool"] == 1
    assert kinds["DequantizeLinear"] == 0


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


def test_ranges_are_the_same_whatever_the_order_of_the_images(model, int8):
    other = quantise(model, [image[None] for image in IMAGES[::-1]])
    for one, two in zip(int8.graph.initializer, other.graph.initializer, strict=True):
        np.testing.assert_allclose(numpy_helper.to_array(one), numpy_helper.to_array(two), rtol=1e-6, err_msg=one.name)


def histograms(*scales):
    """Of normal activations behind a ReLU, an image a scale."""
    values = np.linspace(0, np.array(scales) * 5, 500, axis=1)
    return np.exp(-((values / np.array(scales)[:, None]) ** 2) / 2), values


def test_an_image_with_huge_activations_leaves_the_range_to_the_others():
    low, usual = quantize._best_range(*histograms(1, 1.1, 1.2, 1.3, 1))
    assert low == 0
    assert quantize._best_range(*histograms(1, 1.1, 1.2, 1.3, 60))[1] < 1.3 * usual
    assert quantize._best_range(*histograms(60, 60, 60, 60, 1))[1] > 40 * usual


@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_of_one_image_has_the_least_squared_error(sign):
    counts, values = histograms(1)
    low, high = quantize._best_range(counts, sign * values)

    def error(end):
        levels = np.rint(np.minimum(values, end) * 255 / end) * end / 255
        return (counts * (levels - values) ** 2).sum()

    assert (low, high)[sign > 0] * (low, high)[sign < 0] == 0
    assert error(max(high, -low)) < 1.02 * min(error(end) for end in np.linspace(1, 5, 100))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_makes_no_numbers_is_refused(model, value):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    bias = next(t for t in broken.graph.initializer if t.name == "network.extra.0.0.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), value, np.float32), bias.name))
    with pytest.raises(InputError, match="makes no numbers of a calibration image; train it with a lower --lr"):
        quantised(broken)


def test_activations_that_are_all_zero_have_a_range():
    assert quantize._best_range(np.ones((2, 9)), np.zeros((2, 9))) == (0, 0)


def test_weights_have_a_scale_a_channel_and_seven_bits(int8):
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in int8.graph.initializer}
    weight = tensors["network.extra.0.0.weight_quantized"]
    assert weight.dtype == np.int8
    assert 60 <= np.abs(weight.astype(int)).max() <= 64
    assert tensors["network.extra.0.0.weight_scale"].shape == (weight.shape[0],)


def test_ranges_of_a_brighter_world_make_a_worse_model(model, int8):
    """The check that calibration images matter at all: black ones leave no range for anything else."""
    blind = quantise(model, [np.zeros_like(IMAGES[:1])])
    assert noise(model, int8) > noise(model, blind) + 3
