"""The exported file is self-contained, deterministic, and gives torch's detections."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from ssd_graph.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.coco import load_split
from ssd_graph.config import EvalConfig
from ssd_graph.evaluate import load_detections
from ssd_graph.onnx_eval import OnnxDetector, evaluate_onnx, write_result
from ssd_graph.onnx_export import export_onnx, sample_images
from ssd_graph.parity import largest_difference


@pytest.fixture(scope="module")
def model(trained):
    return onnx.load(trained / "model.onnx")


def test_one_suppression_and_no_function_of_its_own(model):
    assert sum(node.op_type == "NonMaxSuppression" for node in model.graph.node) == 1
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert model.opset_import[0].version == 18


def test_inputs_and_outputs_are_the_contract(model):
    def signature(values):
        return {
            v.name: (
                v.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        }

    types = onnx.TensorProto
    assert signature(model.graph.input) == {"images": (types.UINT8, ["N", 300, 300, 3])}
    assert signature(model.graph.output) == {
        "num_detections": (types.INT64, ["N"]),
        "boxes": (types.FLOAT, ["N", 200, 4]),
        "scores": (types.FLOAT, ["N", 200]),
        "labels": (types.INT64, ["N", 200]),
    }


def test_metadata_describes_the_model(model, trained):
    values = {p.key: p.value for p in model.metadata_props}
    assert json.loads(values["category_ids"]) == [2, 3, 5, 7, 11, 13]
    assert json.loads(values["category_names"])[0] == "disc"
    assert values["checkpoint_sha256"] == load_checkpoint(trained / "last.pth").sha256
    assert json.loads(values["default_boxes"])["scales"] == [21, 45, 99, 153, 207, 261, 315]
    assert json.loads(values["score_threshold"]) == 0.05


def test_no_local_path_or_source_line_is_inside(trained):
    content = (trained / "model.onnx").read_bytes()
    for text in (b".py", b"/ssd_graph/", b"site-packages", b"stack_trace", str(trained).encode()):
        assert text not in content


def test_exporting_twice_gives_the_same_bytes(trained, tmp_path):
    export_onnx(load_checkpoint(trained / "last.pth"), tmp_path / "again.onnx", sample_images(None, 1), EvalConfig())
    assert (tmp_path / "again.onnx").read_bytes() == (trained / "model.onnx").read_bytes()


def test_any_batch_gives_the_detections_of_single_images(trained):
    detector, images = OnnxDetector(trained / "model.onnx"), sample_images(None, 3)
    together = detector(images)
    for i in range(3):
        assert largest_difference([o[i : i + 1] for o in together], detector(images[i : i + 1]), 0.05, 1e-6) < 1e-6


def test_a_model_that_differs_from_torch_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_graph.onnx_export.PARITY", -1.0)
    with pytest.raises(InputError, match="nothing written"):
        export_onnx(load_checkpoint(trained / "last.pth"), tmp_path / "a.onnx", sample_images(None, 1), EvalConfig())
    assert not list(tmp_path.iterdir())


def test_evaluation_writes_a_summary_that_the_detections_file_confirms(trained, tiny_coco, tmp_path):
    split = load_split(tiny_coco, "val")
    result = evaluate_onnx(trained / "model.onnx", split, batch_size=4)
    write_result(result, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["stats"]) == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "ARs",
        "ARm",
        "ARl",
    ]
    assert summary["images_per_second"] > 0
    digest = subprocess.run(["sha256sum", tmp_path / "detections.json"], capture_output=True, text=True, check=True)
    assert digest.stdout.split()[0] == summary["detections_sha256"]
    assert len(load_detections(tmp_path / "detections.json")) == summary["num_detections"] > 0


def test_evaluation_after_training_gives_the_numbers_of_validation_in_training(trained, tiny_coco):
    from ssd_graph.metrics import read_records

    last = read_records(trained / "metrics.jsonl", "validation")[-1]
    stats = evaluate_onnx(trained / "model.onnx", load_split(tiny_coco, "val")).scores.stats
    assert stats == pytest.approx({name: last[name] for name in stats}, abs=1e-6)


def test_batch_size_and_limit_do_not_change_the_detections(trained, tiny_coco):
    split = load_split(tiny_coco, "val")
    rows = [evaluate_onnx(trained / "model.onnx", split, batch_size=b, limit=4).rows for b in (1, 3, 8)]
    assert all(np.array_equal(rows[0].scores, other.scores) for other in rows[1:])
    assert set(rows[0].image_ids) <= set(split.image_ids[:4])


def test_evaluating_does_not_import_torch(trained, tiny_coco, tmp_path):
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    command = [
        "tools/eval_onnx.py",
        trained / "model.onnx",
        "--data",
        tiny_coco,
        "--out",
        tmp_path,
        "--report",
    ]
    subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)
    assert {f.name for f in tmp_path.iterdir()} == {"detections.json", "summary.json", "report.html"}
