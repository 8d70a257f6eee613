"""A summary is read whole, or refused by its name and by what is wrong with it."""

import json

import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import DEFAULT_ROOT
from ssd_graph.scoring.evaluate import STAT_NAMES
from ssd_graph.scoring.summary import data_folder, read_summary

SUMMARY = {
    "stats": dict.fromkeys(STAT_NAMES, 0.5),
    "per_class": {"cat": 0.25, "dog": None},
    "num_images": 3,
    "detections_sha256": "d",
    "pixels_sha256": "p",
    "model": {"sha256": "m"},
    "annotations": {"file": "instances_val2017.json", "sha256": "a"},
}


def test_a_summary_is_read(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    assert read_summary(tmp_path / "summary.json") == SUMMARY


def test_a_summary_without_its_data_sets_folder_means_the_usual_one():
    assert data_folder(SUMMARY) == DEFAULT_ROOT
    assert data_folder({**SUMMARY, "annotations": {**SUMMARY["annotations"], "folder": "/data"}}) == "/data"


@pytest.mark.parametrize(
    "change",
    [
        {"stats": {**SUMMARY["stats"], "AP": "0.5"}},
        {"stats": {**SUMMARY["stats"], "AP": float("nan")}},
        {"stats": {**SUMMARY["stats"], "AP": 10**400}},
        {"stats": None},
        {"per_class": [0.25]},
        {"per_class": {"cat": "x"}},
        {"num_images": 0},
        {"num_images": "3"},
        {"detections_sha256": 7},
        {"model": "m"},
        {"annotations": {"file": None, "sha256": "a"}},
    ],
)
def test_other_entries_are_refused(tmp_path, change):
    (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, **change}))
    with pytest.raises(InputError, match=r"summary\.json is not a summary\.json of an evaluation"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", "[]", "7", ""])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"summary\.json is not a summary\.json"):
        read_summary(tmp_path / "summary.json")
