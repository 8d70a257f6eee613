"""A model file that is damaged, foreign or hostile is refused in one line, whatever is wrong with it."""

import json
import os
from unittest.mock import Mock

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_graph.cli import InputError
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.export import sample_images


def refused(model, tmp_path, words):
    """Save the model and expect it to be refused in a line that contains `words` and the file's name."""
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(InputError, match=words) as caught:
        OnnxDetector(path)
    assert "hostile.onnx" in str(caught.value)
    assert len(str(caught.value)) < 700


def external(model, location, length=None):
    """Move the first weight's data to the file `location`."""
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return model


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "{}/secret.bin", "link.bin", "beside.bin", "/proc/self/mem"]
)
def test_weights_outside_the_file_are_never_read(model, tmp_path, monkeypatch, location):
    """Not even beside it: the file's fingerprint would say nothing of them."""
    (tmp_path / "sub").mkdir()
    for name in ("secret.bin", "sub/beside.bin"):
        (tmp_path / name).write_bytes(bytes(10**7))
    (tmp_path / "sub" / "link.bin").symlink_to("../secret.bin")
    monkeypatch.chdir(tmp_path / "sub")
    refused(external(model, location.format(tmp_path)), tmp_path / "sub", "External data path")


def test_a_claim_of_ten_gigabytes_is_refused_before_any_memory_is_taken(model, tmp_path):
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.dims[:] = [50_000, 50_000]
    refused(model, tmp_path, "10000000000 bytes|size")


def test_a_claim_of_ten_gigabytes_elsewhere_is_refused(model, tmp_path):
    refused(external(model, "huge.bin", length=10**10), tmp_path, "not an ONNX model that onnxruntime can load")


def test_a_file_of_ten_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "hostile.onnx", "wb") as file:
        file.truncate(10**10)
    with pytest.raises(InputError, match=r"hostile\.onnx is larger than 2 GiB"):
        OnnxDetector(tmp_path / "hostile.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 1000, b"PK\x03\x04"])
def test_what_is_no_onnx_model_is_refused(content, tmp_path):
    refused(content, tmp_path, "is not an ONNX model|was not made by export/to_onnx.py")


def test_a_truncated_model_is_refused(trained, tmp_path):
    content = (trained / "model.onnx").read_bytes()
    refused(content[: len(content) // 2], tmp_path, "not an ONNX model")


def test_a_foreign_model_is_refused(tmp_path):
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    foreign = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    refused(foreign, tmp_path, "was not made by export/to_onnx.py")


def test_wrong_input_names_are_refused(model, tmp_path):
    for node in model.graph.node:
        node.input[:] = ["pictures" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pictures"
    refused(model, tmp_path, "has inputs .*pictures")


def set_metadata(model, key, value):
    kept = [p for p in model.metadata_props if p.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if value is not None:
        model.metadata_props.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", None, "format is ''"),
        ("format", "ssd_graph detections 99", "format is 'ssd_graph detections 99'"),
        ("format", "ssd_graph raw 1", "has inputs"),
        ("category_ids", None, "damaged metadata"),
        ("category_ids", "[1, 2", "damaged metadata"),
        ("category_ids", "[" * 100_000, "damaged metadata"),
        ("category_ids", "7", "damaged metadata"),
        ("category_names", '["disc"]', "6 category ids and 1 names"),
        ("score_threshold", '"high"', "damaged metadata"),
        ("preset", None, "damaged metadata"),
    ],
)
def test_damaged_metadata_is_refused(model, tmp_path, key, value, words):
    refused(set_metadata(model, key, value), tmp_path, words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("category_ids", "[1, 1, 2, 3, 4, 5]"),
        ("category_ids", "[1, 2, 3, 4, 5, 9223372036854775808]"),
        ("category_ids", "[1, 2, 3, 4, 5, 1e400]"),
        ("score_threshold", "NaN"),
        ("iou_threshold", "7"),
        ("candidates_per_class", "0"),
        ("detections_per_image", "1000000000000"),
        *(("thresholds", t) for t in ("", "[]", "{}", '{"overall": 2, "per_class": {}}')),
        ("thresholds", '{"overall": NaN, "per_class": {}}'),
    ],
)
def test_numbers_that_make_no_sense_are_refused(model, tmp_path, key, value):
    refused(set_metadata(model, key, value), tmp_path, "damaged metadata")


def detected(model, tmp_path):
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    return OnnxDetector(path, threads=1)(sample_images(None, 1))


def test_a_layout_of_onnxruntimes_own_that_it_cannot_run_has_a_way_round(trained, monkeypatch):
    said = "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Failed to find kernel for com.ms.internal.nhwc.MaxPool(11)"
    monkeypatch.setattr("onnxruntime.InferenceSession", Mock(side_effect=RuntimeError(said)))
    with pytest.raises(InputError, match="give --optimization extended"):
        OnnxDetector(trained / "model.onnx")


def test_a_model_that_fails_while_it_runs_is_refused(model, tmp_path):
    """Its shapes are dynamic, so onnxruntime finds out no sooner."""
    boxes = next(node for node in model.graph.node if "boxes" in node.output)
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, -1, 4]), "wrong"))
    boxes.output[0] = "right"
    model.graph.node.append(helper.make_node("Reshape", ["right", "wrong"], ["boxes"]))
    with pytest.raises(InputError, match=r"hostile\.onnx does not run .*; export the checkpoint again"):
        detected(model, tmp_path)


def replaced(model, name, operator):
    """The model with `operator` behind its output `name`."""
    node = next(node for node in model.graph.node if name in node.output)
    inner = f"{name} before {operator}"
    node.output[list(node.output).index(name)] = inner
    for n in model.graph.node:
        n.input[:] = [inner if i == name else i for i in n.input]
    model.graph.node.append(helper.make_node(operator, [inner], [name]))
    return model


def test_detections_of_another_shape_are_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"hostile\.onnx gives outputs"):
        detected(replaced(model, "scores", "Transpose"), tmp_path)


def test_categories_without_a_name_are_refused(model, tmp_path):
    set_metadata(model, "category_ids", "[91, 92, 93, 94, 95, 96]")
    with pytest.raises(InputError, match="detects categories that it does not name"):
        detected(model, tmp_path)


def test_scores_that_are_no_numbers_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="gives boxes or scores that are no numbers"):
        detected(replaced(replaced(model, "scores", "Neg"), "scores", "Log"), tmp_path)


@pytest.mark.parametrize("number", [-1, 201])
def test_a_number_of_detections_that_cannot_be_is_refused(trained, number):
    detector = OnnxDetector(trained / "model.onnx")
    outputs = detector(sample_images(None, 1))
    with pytest.raises(InputError, match="gives a number of detections outside 0 to 200"):
        detector.detections_of((np.array([number]), *outputs[1:]), 1)


def test_the_description_names_file_and_checkpoint(trained, model):
    described = OnnxDetector(trained / "model.onnx").describe()
    values = {p.key: p.value for p in model.metadata_props}
    assert described["checkpoint_sha256"] == values["checkpoint_sha256"]
    assert (described["form"], described["precision"]) == ("detections", "fp32")
    assert json.loads(json.dumps(described)) == described


def test_threads_default_to_all_cores(trained):
    assert OnnxDetector(trained / "model.onnx").threads == os.cpu_count()
    detector = OnnxDetector(trained / "model.onnx", threads=1)
    assert detector.threads == 1
    assert [o.dtype for o in detector(sample_images(None, 1))] == [np.int64, np.float32, np.float32, np.int64]
