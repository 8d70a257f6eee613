"""The benchmark's figures are of the models it was given, and its ratios follow from its speeds."""

import argparse
import json
import shutil
from dataclasses import replace

import pytest

from ssd_graph.bench import export
from ssd_graph.bench.export import FORMS, accuracy, add_flags, run, speed
from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.data.coco import load_split


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """A folder in which every form is the same detector."""
    folder = tmp_path_factory.mktemp("models")
    for name in FORMS:
        shutil.copy(trained / "model.onnx", folder / f"{name}.onnx")
    return folder


def test_the_ratios_follow_from_the_speeds(models, tiny_coco):
    figures = speed(models, load_split(tiny_coco, "val"), threads=1, rounds=2, limit=6)
    rate = {name: figures[f"{name}_images_per_second"] for name in (*FORMS, "evaluator")}
    assert figures["int8_gain"] == rate["int8"] / rate["fp32"]
    assert figures["evaluator_share"] == rate["evaluator"] / rate["fp32"]
    assert figures["postprocessing_share"] == pytest.approx(rate["raw"] / rate["fp32"] - 1)
    assert 0.3 < figures["int8_gain"] < 3


def test_torch_and_the_exported_detector_score_the_same(models, trained, known_coco):
    figures = accuracy(load_checkpoint(trained / "last.pth"), models, load_split(known_coco, "val"), threads=1)
    assert 0.01 < figures["fp32"]["AP"] == pytest.approx(figures["torch"]["AP"], abs=1e-6)
    assert figures["fp32"]["detections"] == figures["torch"]["detections"] > 0


def test_images_are_turned_as_in_training_and_threads_are_those_asked_for(trained, tiny_coco, monkeypatch, tmp_path):
    checkpoint, asked = load_checkpoint(trained / "last.pth"), []
    upright = replace(checkpoint, run={**checkpoint.run, "upright": True})
    monkeypatch.setattr(export, "load_checkpoint", lambda path: upright)
    monkeypatch.setattr(
        export, "sample_images", lambda folder, count, upright: asked.append((folder.name, upright)) or []
    )
    monkeypatch.setattr(export, "export_onnx", lambda *arguments: None)
    for name in ("accuracy", "speed"):
        monkeypatch.setattr(export, name, lambda *arguments, **_: asked.append(arguments[1:]) or {})
    run(argparse.Namespace(checkpoint="ckpt.pth", data=tiny_coco, models=tmp_path, threads=1, rounds=1, limit=1))
    (models, split, threads), (timed,) = asked[1:]
    assert asked[0] == ("train2017", True)
    assert (models, threads, split.upright, timed.upright) == (tmp_path, 1, True, True)


@pytest.mark.slow
def test_the_whole_benchmark_runs_from_a_checkpoint(trained, tiny_coco, tmp_path):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = [trained / "last.pth", "--data", tiny_coco, "--models", tmp_path, "--rounds", 1, "--limit", 4]
    figures = run(parser.parse_args([str(f) for f in flags]))
    assert {f.stem for f in tmp_path.iterdir()} == set(FORMS)
    assert json.loads(json.dumps(figures)) == figures
