"""The exported file is self-contained, deterministic, and gives torch's detections, in every form and precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.export import LEAST_SIGNAL_TO_NOISE, ExportOptions, export_onnx, sample_images
from ssd_graph.onnx_model.export import _ratio as ratio
from ssd_graph.onnx_model.export import _run as run
from ssd_graph.onnx_model.raw import network_input
from ssd_graph.onnx_model.translate import TorchDetector
from tests import REPOSITORY
from tests.scoring.agreement import largest_difference


@pytest.fixture(scope="module")
def checkpoint(trained):
    return load_checkpoint(trained / "last.pth")


def export(checkpoint, path, calibration=None, **options):
    return export_onnx(checkpoint, path, sample_images(None, 2), ExportOptions(**options), calibration)


def signature(values):
    """(element type, shape) of graph inputs or outputs by name."""
    return {
        v.name: (v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    }


def metadata(model):
    return {p.key: p.value for p in model.metadata_props}


def test_one_suppression_and_no_function_of_its_own(model):
    assert sum(node.op_type == "NonMaxSuppression" for node in model.graph.node) == 1
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert model.opset_import[0].version == 18


def test_inputs_and_outputs_are_the_contract(model):
    types = onnx.TensorProto
    assert signature(model.graph.input) == {"images": (types.UINT8, ["N", 300, 300, 3])}
    assert signature(model.graph.output) == {
        "num_detections": (types.INT64, ["N"]),
        "boxes": (types.FLOAT, ["N", 200, 4]),
        "scores": (types.FLOAT, ["N", 200]),
        "labels": (types.INT64, ["N", 200]),
    }


def test_metadata_describes_the_model(model, checkpoint):
    values = metadata(model)
    assert json.loads(values["category_ids"]) == [2, 3, 5, 7, 11, 13]
    assert json.loads(values["category_names"])[0] == "disc"
    assert values["checkpoint_sha256"] == checkpoint.sha256
    assert json.loads(values["default_boxes"])["scales"] == [21, 45, 99, 153, 207, 261, 315]
    assert json.loads(values["score_threshold"]) == 0.05
    assert values["precision"] == "fp32"


def test_no_local_path_or_source_line_is_inside(trained):
    model = onnx.load(trained / "model.onnx")
    for weight in model.graph.initializer:
        weight.ClearField("raw_data")  # among millions of bytes any three letters turn up
    content = model.SerializeToString()
    assert len(content) < 200_000
    for text in (b".py", b"/ssd_graph/", b"site-packages", b"stack_trace", str(trained).encode()):
        assert text not in content


def test_exporting_twice_gives_the_same_bytes(trained, checkpoint, tmp_path):
    export_onnx(checkpoint, tmp_path / "again.onnx", sample_images(None, 1))
    assert (tmp_path / "again.onnx").read_bytes() == (trained / "model.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--raw", "--half", "--batch", "2"), ("--int8", "--calibration", "IMAGES")])
def test_another_process_with_another_hash_seed_gives_the_same_bytes(trained, tiny_coco, tmp_path, flags):
    flags = [str(tiny_coco / "train2017") if f == "IMAGES" else f for f in flags]
    script = REPOSITORY / "export/to_onnx.py"
    for seed in ("1", "2"):
        command = [sys.executable, script, trained / "last.pth", "--out", tmp_path / seed, *flags]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_any_batch_gives_the_detections_of_single_images(trained):
    detector, images = OnnxDetector(trained / "model.onnx"), sample_images(None, 3)
    together = detector(images)
    for i in range(3):
        assert largest_difference([o[i : i + 1] for o in together], detector(images[i : i + 1]), 0.05, 1e-6) < 1e-6


def test_the_raw_form_is_the_seeds_interface_and_gives_torchs_outputs(checkpoint, tmp_path):
    verification = export(checkpoint, tmp_path / "raw.onnx", raw=True)
    assert verification.signal_to_noise > 100
    assert verification.difference is None
    model, types = onnx.load(tmp_path / "raw.onnx"), onnx.TensorProto
    assert (model.opset_import[0].version, model.ir_version) == (11, 6)
    assert signature(model.graph.input) == {"image": (types.FLOAT, ["N", 3, 300, 300])}
    assert signature(model.graph.output) == {
        "ploc": (types.FLOAT, ["N", 4, 8732]),
        "plabel": (types.FLOAT, ["N", 7, 8732]),
    }
    images = sample_images(None, 3)
    with torch.no_grad():
        expected = TorchDetector(checkpoint).predict(torch.from_numpy(images))
    session = onnxruntime.InferenceSession(tmp_path / "raw.onnx", providers=["CPUExecutionProvider"])
    for e, f in zip(expected, session.run(None, {"image": network_input(images)}), strict=True):
        np.testing.assert_allclose(f, e.numpy(), rtol=1e-4, atol=1e-4)


def test_eight_bits_with_a_fixed_batch_keep_their_promises(checkpoint, trained, tmp_path):
    calibration = sample_images(None, 3)
    verification = export(checkpoint, tmp_path / "a.onnx", calibration, precision="int8", batch=2)
    assert 15 < verification.signal_to_noise < 80
    assert verification.difference < 1e-5
    model = onnx.load(tmp_path / "a.onnx")
    assert signature(model.graph.input)["images"][1] == [2, 300, 300, 3]
    assert metadata(model)["precision"] == "int8"
    assert json.loads(metadata(model)["quantisation"])["num_images"] == 3
    # The class heads, a large part of the smallest preset, stay in float.
    assert (tmp_path / "a.onnx").stat().st_size < 0.55 * (trained / "model.onnx").stat().st_size
    found = OnnxDetector(tmp_path / "a.onnx")(calibration[:1])
    assert [len(o) for o in found] == [1, 1, 1, 1]


def test_half_precision_takes_half_the_space_and_stays_close(checkpoint, trained, tmp_path):
    verification = export(checkpoint, tmp_path / "half.onnx", raw=True, precision="fp16")
    assert 45 < verification.signal_to_noise < 100
    assert (tmp_path / "half.onnx").stat().st_size < 0.52 * (trained / "model.onnx").stat().st_size


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "best.onnx"),
        ({"raw": True}, "best.raw.onnx"),
        ({"precision": "int8"}, "best.int8.onnx"),
        ({"raw": True, "precision": "fp16", "batch": 2}, "best.raw.fp16.onnx"),
    ],
)
def test_no_form_overwrites_another(options, name):
    assert ExportOptions(**options).path_beside(Path("runs/best.pth")) == Path("runs") / name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "belong together"),
        ({"precision": "int8", "raw": True, "opset": 11}, "needs opset 13"),
        ({"opset": 10**6}, "--opset 1000000: the installed onnx knows those up to"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(checkpoint, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        export(checkpoint, tmp_path / "a.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_eight_bits_may_cut_off_what_is_huge_in_one_image_and_in_most_they_may_not():
    outputs = np.random.default_rng(0).normal(size=(4, 99)) * [[90], [1], [1], [1]]
    found = outputs * 0.95
    found[0] *= 0.01
    assert ratio(outputs, found, "fp16") < 1
    assert ratio(outputs, found, "int8") > 15
    found[1:3] *= 0.01
    assert ratio(outputs, found, "int8") < LEAST_SIGNAL_TO_NOISE["int8"]


def test_an_output_that_is_no_number_is_not_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ssd_graph.onnx_model.export._run", lambda *args: [run(*args)[0], np.full_like(run(*args)[1], np.nan)]
    )
    with pytest.raises(InputError, match="only nan dB above"):
        export(checkpoint, tmp_path / "a.onnx", raw=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["PARITY", "LEAST_SIGNAL_TO_NOISE"])
def test_a_model_that_differs_from_torch_is_not_written(checkpoint, tmp_path, monkeypatch, limit):
    values = {"PARITY": -1.0, "LEAST_SIGNAL_TO_NOISE": {"fp32": 1e3}}
    monkeypatch.setattr(f"ssd_graph.onnx_model.export.{limit}", values[limit])
    with pytest.raises(InputError, match="nothing written"):
        export(checkpoint, tmp_path / "a.onnx", raw=limit != "PARITY")
    assert not list(tmp_path.iterdir())
