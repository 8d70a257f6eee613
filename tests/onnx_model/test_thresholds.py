"""The thresholds that an evaluation finds go into the model, and decide what is shown of its detections."""

import json
import shutil
import sys
from unittest.mock import Mock

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import Categories, load_split
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.evaluate import evaluate_onnx
from ssd_graph.onnx_model.thresholds import ShownFrom, write_thresholds
from tests.run import exit_code


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copy(trained / "model.onnx", tmp_path / "model.onnx")


def test_an_evaluation_writes_them_and_still_repeats(model, known_coco, tmp_path):
    before = evaluate_onnx(model, load_split(known_coco, "val"))
    assert exit_code("tools/eval_onnx.py", model, "--data", known_coco, "--write-thresholds") == 0
    detector = OnnxDetector(model)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert detector.shown_from.overall == summary["thresholds"]["overall"]["score"] != 0.4
    assert summary["model"]["sha256"] == detector.sha256
    assert summary["detections_sha256"] == before.summary["detections_sha256"]
    assert exit_code("tools/eval_onnx.py", model, "--verify", tmp_path / "summary.json") == 0
    assert exit_code("tools/eval_onnx.py", model, "--data", known_coco, "--write-thresholds") == 0
    assert OnnxDetector(model).sha256 == detector.sha256


def test_a_class_without_a_threshold_has_the_overall_one(model):
    categories = OnnxDetector(model).categories
    best = {"score": 0.75, "f1": 0.5}
    per_class = dict.fromkeys(categories.names) | {categories.names[1]: {"score": 0.25, "f1": 1.0}}
    write_thresholds(model, {"overall": best, "per_class": per_class}, categories)
    shown_from = OnnxDetector(model).shown_from
    assert shown_from == ShownFrom(0.75, {categories.ids[1]: 0.25})
    labels = np.array([categories.ids[0], categories.ids[1], categories.ids[1]])
    assert shown_from.shows(np.array([0.74, 0.25, 0.24]), labels).tolist() == [False, True, False]
    assert shown_from.describe() == "0.25 to 0.75, by class"


def test_they_are_kept_by_id_whatever_the_order_and_the_names(model):
    per_class = {"disc": {"score": 0.5}, "disc (5)": None, "disc (7)": {"score": 0.25}}
    write_thresholds(model, {"overall": {"score": 0.5}, "per_class": per_class}, Categories((7, 2, 5), ("disc",) * 3))
    assert OnnxDetector(model).shown_from == ShownFrom(0.5, {2: 0.5, 7: 0.25})


def test_predictions_follow_the_model_unless_a_score_is_given(monkeypatch, capsys, model, tiny_coco, tmp_path):
    monkeypatch.chdir(tmp_path)
    categories = OnnxDetector(model).categories
    nothing = dict.fromkeys(categories.names)
    write_thresholds(model, {"overall": {"score": 1.0, "f1": 0.1}, "per_class": nothing}, categories)
    assert exit_code("tools/predict_onnx.py", model, tiny_coco / "val2017") == 0
    out = capsys.readouterr().out
    assert "0 objects in 6 images (shown from a score of 1.00: the model's thresholds)" in out
    assert "the highest score seen is 0." in out
    assert json.loads((tmp_path / "predictions" / "predictions.json").read_text())["least_score"] == 1.0
    assert exit_code("tools/predict_onnx.py", model, tiny_coco / "val2017", "--score", "0.06") == 0
    assert "shown from a score of 0.06: --score" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--write-thresholds",), ("--report",), ("--out", "scores")])
def test_verifying_writes_nothing(capsys, model, words):
    assert exit_code("tools/eval_onnx.py", model, "--verify", "summary.json", *words) == 2
    assert f"--verify writes nothing; leave out {words[0]}" in capsys.readouterr().err


def test_what_writing_them_needs_is_asked_for_before_the_evaluation(monkeypatch, capsys, model, tiny_coco):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert exit_code("tools/eval_onnx.py", model, "--data", tiny_coco, "--write-thresholds") == 2
    assert capsys.readouterr() == ("", "eval_onnx.py: onnx is not installed; run `pip install onnx`\n")


def test_a_model_that_cannot_be_changed_loses_no_score(monkeypatch, model, tiny_coco, tmp_path):
    monkeypatch.setattr("ssd_graph.onnx_model.thresholds.write_whole", Mock(side_effect=InputError("the disk is full")))
    words = ("--data", tiny_coco, "--write-thresholds", "--out", tmp_path / "out")
    assert exit_code("tools/eval_onnx.py", model, *words) == 2
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["model"]["sha256"] == OnnxDetector(model).sha256


def test_the_recorded_split_is_verified(capsys, model, tiny_coco, tmp_path):
    assert exit_code("tools/eval_onnx.py", model, "--data", tiny_coco, "--split", "train", "--limit", "2") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    capsys.readouterr()
    for split in ({"split": "train"}, {}):  # an older summary does not say it
        summary["annotations"] = {k: v for k, v in summary["annotations"].items() if k != "split"} | split
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        assert exit_code("tools/eval_onnx.py", model, "--verify", tmp_path / "summary.json") == 0
        assert "not the recorded" not in capsys.readouterr().out
