"""A repeated evaluation is told from a recorded one: the same bits, the same numbers, or different and where."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
from ssd_graph.onnx_model.reproduce import _line, compare, first_difference, load_recorded
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.detections_file import detections_json, sha256_of
from ssd_graph.scoring.summary import write_summary


@pytest.fixture(scope="module")
def result(trained, tiny_coco):
    settings = RunSettings(threads=1, batch_size=2, optimization="extended")
    return evaluate_onnx(trained / "model.onnx", load_split(tiny_coco, "val"), settings)


@pytest.fixture
def recorded(result, tmp_path):
    write_summary(tmp_path, result.summary, result.rows)
    return load_recorded(tmp_path / "summary.json")


def changed(result, field, row, value, **stats):
    """The result with one number of one detection changed, and with other scores."""
    columns = {name: column.copy() for name, column in result.rows._asdict().items()}
    columns[field][row] = value
    rows = DetectionRows(**columns)
    summary = json.loads(json.dumps(result.summary))
    summary["detections_sha256"] = sha256_of(detections_json(rows))
    summary["stats"].update(stats)
    return replace(result, matches=replace(result.matches, rows=rows), summary=summary)


def test_a_summary_gives_back_the_settings_it_was_made_with(recorded):
    assert recorded.settings() == RunSettings(threads=1, batch_size=2, optimization="extended", upright=False)


def test_an_older_summary_is_of_a_model_that_was_run(recorded):
    for name in ("upright", "empty_images", "outputs"):
        del recorded.summary["run"][name]
    assert recorded.settings() == RunSettings(threads=1, batch_size=2, optimization="extended")


def test_the_same_run_gives_the_same_bits(recorded, result):
    assert compare(recorded, result) == (True, ["detections: the same bits"])


def test_a_changed_last_bit_is_named_by_image_and_line(recorded, result):
    score = np.nextafter(result.rows.scores[3], 1)
    same, lines = compare(recorded, changed(result, "scores", 3, score))
    assert same
    assert lines[0] == "detections: the same numbers (within 0.0e+00), other bits"
    assert f"1 of {len(result.rows)} lines differ, first number 4: image {result.rows.image_ids[3]} " in lines[1]


def test_other_numbers_are_different(recorded, result):
    ap = result.summary["stats"]["AP"]
    same, lines = compare(recorded, changed(result, "boxes_xywh", 0, 9.0, AP=ap + 0.01))
    assert not same
    assert lines[0] == "detections: different: the twelve numbers move by up to 0.010000, AP by +0.010000"


def test_the_same_detections_may_have_other_numbers(recorded, result):
    other = changed(result, "scores", 0, result.rows.scores[0], AP=result.summary["stats"]["AP"] + 0.01)
    other.summary["annotations"]["sha256"], other.summary["run"]["scorer"] = "0", "pycocotools"
    assert compare(recorded, other) == (
        False,
        [
            *("not the recorded annotations", "not the recorded scorer"),
            "detections: the same, other numbers: the twelve numbers move by up to 0.010000, AP by +0.010000",
        ],
    )


def test_nothing_found_is_different_too(recorded, result):
    nothing = DetectionRows(*(column[:0] for column in result.rows))
    assert first_difference(recorded.rows, nothing).startswith(f"{len(result.rows)} of {len(result.rows)} lines differ")
    assert first_difference(nothing, result.rows).endswith(f"now {_line(result.rows, 0)}")
    assert first_difference(nothing, nothing) == "the two lists hold the same detections"


def test_another_model_or_other_pixels_are_named_first(recorded, result):
    other = changed(result, "scores", 0, 0.5)
    other.summary["model"]["sha256"] = other.summary["pixels_sha256"] = "0"
    _, lines = compare(recorded, other)
    assert lines[:2] == ["not the recorded model", "not the recorded pixels: images, decoder or resizing differ"]


@pytest.mark.parametrize("others", [None, "[]"])
def test_without_its_own_detections_file_the_verdict_stands_alone(recorded, result, tmp_path, others):
    (tmp_path / "detections.json").unlink()
    if others:
        (tmp_path / "detections.json").write_text(others)
    _, lines = compare(load_recorded(tmp_path / "summary.json"), changed(result, "scores", 0, 0.5))
    assert lines[1].startswith("no detections.json of it beside the summary")


def test_a_missing_detection_at_the_end_is_found(result):
    shorter = DetectionRows(*(column[:-1] for column in result.rows))
    line = first_difference(result.rows, shorter)
    assert line.startswith(f"1 of {len(result.rows)} lines differ, first number {len(result.rows)}: image")
    assert line.endswith("now nothing")


@pytest.mark.parametrize(
    "run",
    [
        *({"provider": "magic"}, {"threads": 0}, {"threads": 10**9}, {"batch_size": "8"}, {"scorer": []}),
        *({"limit": True}, {"outputs": 7}),
    ],
)
def test_a_summary_of_an_impossible_run_is_refused_by_name(recorded, tmp_path, run):
    summary = {**recorded.summary, "run": {**recorded.summary["run"], **run}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"summary\.json is not a summary"):
        load_recorded(tmp_path / "summary.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stats": {}}', '{"run": {"provider": "cpu"}}'])
def test_what_is_no_summary_is_refused_by_name(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"summary\.json is not a summary"):
        load_recorded(tmp_path / "summary.json")
