"""The charts show the evaluation's numbers, and what a diverged or interrupted run left behind."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from ssd_graph.data.coco import load_split
from ssd_graph.report.curves import latency_chart, precision_recall, score_charts, training_charts
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import match
from tests.report.conftest import made_detections, true_detections


def diagnosed(split, rows=None):
    scorer, rows = CocoScorer(split.annotation_file), made_detections(split) if rows is None else rows
    return scorer.score(rows, split.image_ids), match(scorer, rows, split.image_ids)


def objects_of(split, matches):
    return (matches.objects.category_ids[:, None] == np.sort(split.categories.ids)).sum(0)


def legend(text):
    return re.findall(r"<li>.*?</svg>(.*?)</li>", text)


def records(tmp_path, *lines):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "metrics.jsonl"


def train(step, loss):
    return {"event": "train", "step": step, "loss": loss, "class_loss": loss / 2, "box_loss": loss / 2}


def test_the_mean_curves_have_the_area_of_the_scores(tiny_coco):
    split = load_split(tiny_coco, "val")
    scores, matches = diagnosed(split, true_detections(split, height=0.72))
    assert [scores.stats[n] for n in ("AP50", "AP75", "AP")] == pytest.approx([1, 0, 0.5])
    text = precision_recall(scores, objects_of(split, matches))
    areas = [float(area) for area in re.findall(r"mean precision (\d\.\d+)", text)]
    assert areas == pytest.approx([scores.stats[n] for n in ("AP50", "AP75", "AP")], abs=0.0051)


def test_few_classes_are_all_shown_best_first(tiny_coco):
    split = load_split(tiny_coco, "val")
    scores, matches = diagnosed(split)
    shown = legend(precision_recall(scores, objects_of(split, matches)))[3:]
    assert {label.split()[0] for label in shown} == set(scores.per_class)
    values = [float(label.split()[1]) for label in shown]
    assert values == sorted(values, reverse=True)


def test_of_many_classes_the_best_and_worst_frequent_ones_are_shown(shared):
    split = load_split(shared / "coco_mini", "val")
    scores, matches = diagnosed(split)
    shown = legend(precision_recall(scores, objects_of(split, matches)))[3:]
    assert len(shown) == 6
    ids, counts = np.unique(matches.objects.category_ids, return_counts=True)
    content = json.loads((shared / "coco_mini/annotations/instances_val2017.json").read_text())
    id_of = {c["name"]: c["id"] for c in content["categories"]}
    frequent = {i for i, count in zip(ids, counts, strict=True) if count >= np.median(counts)}
    names = [label.rsplit(" ", 1)[0] for label in shown]
    assert {id_of[name] for name in names} <= frequent
    ap50 = dict(zip(scores.per_class, scores.precision[0].mean(0), strict=True))
    rest = [ap50[name] for name, i in id_of.items() if i in frequent and name not in names]
    assert min(ap50[name] for name in names[:3]) >= max(rest)
    assert max(ap50[name] for name in names[3:]) <= min(rest)


@pytest.fixture
def eight_alike(tiny_coco):
    """Scores of eight classes, a to h, with the same curves."""
    scores, _ = diagnosed(load_split(tiny_coco, "val"))
    return replace(scores, precision=np.tile(scores.precision[:, :, :1], 8), per_class=dict.fromkeys("abcdefgh"))


def test_few_frequent_classes_are_shown_once_each(eight_alike):
    shown = legend(precision_recall(eight_alike, np.arange(8)))[3:]
    assert [label[0] for label in shown] == list("efgh")


def test_a_class_whose_objects_do_not_count_is_not_shown(eight_alike):
    """pycocotools leaves out an object by its area, which a detection may still be on."""
    scores = eight_alike
    scores.precision[:, :, 3] = -1
    assert not any(label.startswith("d ") for label in legend(precision_recall(scores, np.arange(8)))[3:])


def test_the_score_histogram_counts_every_counted_detection(tiny_coco):
    _, matches = diagnosed(load_split(tiny_coco, "val"))
    text = score_charts(matches, 0.25)
    true, false = (matches.object_of >= 0).sum(), (matches.object_of == -1).sum()
    assert f"{true} detections on an object of their class, {false} false" in text


def test_a_pause_does_not_squeeze_the_other_calls():
    text = latency_chart(np.array([0.010] * 500 + [3.0]))
    assert "1 longer not shown" in text
    assert "longest 3000.0 ms" in text
    assert max(map(float, re.findall(r'class="x"[^>]*>([\d.,]+)<', text))) < 20


def test_percentiles_are_those_of_the_calls():
    text = latency_chart(np.arange(1, 102) / 1000)
    assert re.findall(r"(?:median|90 %|99 %) ([\d.]+) ms</i>", text) == ["51.0", "91.0", "100.0"]


def test_losses_that_are_not_finite_are_gaps(tmp_path):
    path = records(tmp_path, train(1, 8.0), train(2, float("nan")), train(3, float("inf")), train(4, 4.0))
    text = training_charts(path)
    assert "The loss goes from 8 to 4." in text
    assert "nan" not in text


def test_a_run_without_a_finite_loss_has_no_loss_chart(tmp_path):
    assert training_charts(records(tmp_path, train(1, float("nan")))) == ""


def test_one_record_and_one_validation_are_enough(tmp_path):
    path = records(tmp_path, train(20, 5.0), {"event": "validation", "step": 20, "AP": 0.0})
    text = training_charts(path)
    assert text.count("<figure") == 2
    assert "dot s0" in text


@pytest.mark.parametrize("record", [{"event": "train", "step": 3}, {**train(3, 1.0), "loss": "low"}])
def test_records_of_something_else_are_named_instead_of_drawn(tmp_path, record):
    path = records(tmp_path, train(1, 8.0), record)
    assert training_charts(path) == f"<p>The records in {path.name} beside the model are not those of a run.</p>"


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path):
    path = records(tmp_path, train(1, 8.0), train(2, 4.0))
    path.write_text(path.read_text()[:-20])
    assert "The loss goes from 8 to 8." in training_charts(path)
