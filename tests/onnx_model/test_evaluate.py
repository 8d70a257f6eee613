"""Evaluation of an exported model: the summary is true, and no way of running it changes the detections."""

import json
import platform
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode
from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
from ssd_graph.onnx_model.export import ExportOptions, export_onnx, sample_images
from ssd_graph.scoring.detections_file import load_detections
from ssd_graph.scoring.evaluate import STAT_NAMES
from ssd_graph.scoring.summary import write_summary
from ssd_graph.training.metrics import read_records
from tests.conftest import train_tiny
from tests.run import exit_code


@pytest.fixture(scope="module")
def raw_model(trained, tmp_path_factory):
    """The raw form of `trained`'s model, of batches of four."""
    path = tmp_path_factory.mktemp("raw") / "raw.onnx"
    options = ExportOptions(raw=True, batch=4)
    export_onnx(load_checkpoint(trained / "last.pth"), path, sample_images(None, 1), options)
    return path


def run(trained, split, **settings):
    return evaluate_onnx(trained / "model.onnx", split, RunSettings(**settings))


def test_the_detections_file_confirms_the_summary(trained, split, tmp_path):
    result = run(trained, split, batch_size=4)
    write_summary(tmp_path, result.summary, result.rows)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["stats"]) == list(STAT_NAMES)
    assert summary["images_per_second"] > 0
    digest = subprocess.run(["sha256sum", tmp_path / "detections.json"], capture_output=True, text=True, check=True)
    assert digest.stdout.split()[0] == summary["detections_sha256"]
    assert len(load_detections(tmp_path / "detections.json")) == summary["num_detections"] > 0


def test_the_summary_names_all_that_decides_the_detections(trained, split):
    summary = run(trained, split, threads=1).summary
    assert summary["run"]["provider"] == "cpu"
    assert summary["run"]["num_nodes"]["CPUExecutionProvider"] > 50
    assert (summary["run"]["threads"], summary["run"]["batch_size"]) == (1, 8)
    assert (summary["run"]["optimization"], summary["run"]["scorer"]) == ("all", "hotcoco")
    assert len({summary["model"]["sha256"], summary["annotations"]["sha256"], summary["pixels_sha256"]}) == 3
    assert {"onnxruntime", "pillow", "numpy"} <= set(summary["versions"])


def test_evaluation_after_training_gives_the_numbers_of_validation_in_training(known_coco, tmp_path):
    """What `trained` finds is true there, and the training is the same."""
    train_tiny(known_coco, tmp_path, max_steps=6)
    export_onnx(load_checkpoint(tmp_path / "last.pth"), tmp_path / "model.onnx", sample_images(None, 1))
    last = read_records(tmp_path / "metrics.jsonl", "validation")[-1]
    stats = run(tmp_path, load_split(known_coco, "val")).scores.stats
    assert 0.01 < stats["AP"] < 0.99
    assert stats == pytest.approx({name: last[name] for name in stats}, abs=1e-6)


def digests(trained, split, threads, optimization):
    return {
        run(trained, split, threads=threads, batch_size=b, optimization=optimization).summary["detections_sha256"]
        for b in (8, 8, 1, 3)
    }


@pytest.mark.parametrize("optimization", ["extended", "all"])
def test_with_one_thread_neither_repeating_nor_batch_size_change_a_bit(trained, split, optimization):
    assert len(digests(trained, split, 1, optimization)) == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="measured on x86-64")
def test_with_every_optimisation_the_number_of_threads_does_not_change_a_bit(trained, split):
    assert len(digests(trained, split, 1, "all") | digests(trained, split, 2, "all")) == 1


def test_a_limit_scores_the_first_images_only(trained, split):
    result = run(trained, split, limit=4)
    assert set(result.rows.image_ids) <= set(split.image_ids[:4])
    assert result.summary["num_images"] == 4


def test_a_score_that_does_not_repeat_is_said_by_the_exit_code(trained, split, tmp_path):
    result = run(trained, split)
    for change, code in ((0, 0), (0.1, 1)):
        result.summary["stats"]["AP"] += change
        write_summary(tmp_path, result.summary, result.rows)
        assert exit_code("tools/eval_onnx.py", trained / "model.onnx", "--verify", tmp_path / "summary.json") == code


def test_a_raw_model_finds_what_the_whole_one_finds(trained, raw_model, known_coco):
    split = load_split(known_coco, "val")
    whole, raw = run(trained, split), evaluate_onnx(raw_model, split)
    assert 0.01 < whole.scores.stats["AP"] < 0.99
    assert (raw.summary["model"]["form"], raw.summary["run"]["batch_size"]) == ("raw", 4)
    assert raw.scores.stats == pytest.approx(whole.scores.stats, abs=1e-6)
    assert np.array_equal(raw.rows.image_ids, whole.rows.image_ids)
    np.testing.assert_allclose(raw.rows.scores, whole.rows.scores, atol=1e-5)


def test_another_batch_size_than_the_models_is_refused(raw_model, split):
    with pytest.raises(InputError, match="takes batches of 4, not 3; give --batch-size 4"):
        evaluate_onnx(raw_model, split, RunSettings(batch_size=3))


def test_other_categories_than_the_models_are_refused(trained, split):
    categories = replace(split.categories, ids=(1, *split.categories.ids[1:]))
    with pytest.raises(InputError, match=r"category 2 is .* and not there in"):
        run(trained, replace(split, categories=categories))


def test_the_reproducible_mode_is_one_thread_of_the_cpu():
    assert RunSettings(threads=3, optimization="basic", limit=2).reproducible() == RunSettings(threads=1, limit=2)
    with pytest.raises(InputError, match="--reproducible is for --provider cpu"):
        RunSettings(provider="cuda").reproducible()


@pytest.fixture
def turned(split, tmp_path):
    """The data set with its first photo lying on its side, as cameras store it; the annotations are upright."""
    copy = replace(split, image_dir=tmp_path)
    for i in range(len(split)):
        image = decode(split.path(i))
        if i:
            image.save(copy.path(i), "PNG")
        else:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(copy.path(i), "PNG", exif=exif)
    return copy


def test_a_photo_that_lies_on_its_side_is_never_scored_as_if_it_stood(trained, turned):
    with pytest.raises(InputError, match=r"EXIF orientation 6\), --upright turns it"):
        evaluate_onnx(trained / "model.onnx", turned)


def test_turning_it_gives_the_score_of_the_upright_photo(trained, split, turned, tmp_path):
    plain = replace(split, image_dir=tmp_path / "plain")
    plain.image_dir.mkdir()
    for i in range(len(split)):
        decode(split.path(i)).save(plain.path(i), "PNG")
    expected = evaluate_onnx(trained / "model.onnx", plain)
    found = evaluate_onnx(trained / "model.onnx", turned, RunSettings(upright=True))
    assert found.summary["detections_sha256"] == expected.summary["detections_sha256"]
    assert (found.summary["run"]["upright"], expected.summary["run"]["upright"]) == (True, False)
