"""Proves that detections find the objects that pycocotools' own matching finds, and where F1 is best."""

import json

import numpy as np
import pytest

from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import NO_OBJECT, NOT_COUNTED, match
from ssd_graph.scoring.thresholds import best_thresholds
from tests.scoring.truths import golden, write_truth


def by_pycocotools(scorer, rows, image_ids):
    """What `Matches.object_of` is, from pycocotools' matching at 0.5, the first of its IoU thresholds."""
    scored = np.isin(scorer.objects.image_ids, image_ids) & ~scorer.objects.crowds
    number = np.full(len(scored) + 1, NO_OBJECT)
    number[1:][scored] = np.arange(scored.sum())
    object_of = np.full(len(rows), NOT_COUNTED)
    for pair in scorer.match(rows, image_ids).evalImgs:
        if pair is not None:
            objects = number[np.array(pair["dtMatches"][0], np.int64)]
            object_of[np.array(pair["dtIds"], np.int64) - 1] = np.where(pair["dtIgnore"][0], NOT_COUNTED, objects)
    return object_of


@pytest.mark.parametrize("case", ["fakebbox100", "bboxarea", "edge", "zero"])
def test_published_detections_find_the_same_objects(shared, case):
    truth, rows, _ = golden(shared, case)
    scorer = CocoScorer(truth)
    found = match(scorer, rows, scorer.image_ids).object_of
    assert (found == by_pycocotools(scorer, rows, scorer.image_ids)).all()


def random_scene(folder, rng):
    """Crowds, coarse boxes that tie, equal scores, more than a hundred detections, images that are not scored."""
    boxes = lambda n: np.concatenate([rng.integers(0, 6, (n, 2)), rng.integers(1, 6, (n, 2))], 1) * 10.0  # noqa: E731
    num = int(rng.integers(0, 40))
    annotations = [
        {"image_id": int(i), "category_id": int(k), "bbox": box, "iscrowd": int(crowd)}
        for i, k, box, crowd in zip(
            rng.integers(1, 5, num), rng.choice([2, 7], num), boxes(num).tolist(), rng.random(num) < 0.2, strict=True
        )
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 110, "height": 110} for i in range(1, 5)],
        "annotations": annotations,
        "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    num = int(rng.integers(0, 700))
    ids = rng.integers(1, 5, num), rng.choice([2, 7], num)
    scores = rng.integers(1, 20, num) / 20
    return CocoScorer(folder / "truth.json"), DetectionRows(*ids, boxes(num), scores)


@pytest.mark.parametrize("seed", range(40))
def test_random_detections_find_the_same_objects(tmp_path, seed):
    rng = np.random.default_rng(seed)
    scorer, rows = random_scene(tmp_path, rng)
    images = rng.permutation(np.arange(1, 5))[: rng.integers(1, 5)]
    found = match(scorer, rows, images).object_of
    assert (found == by_pycocotools(scorer, rows, images)).all()


@pytest.mark.parametrize("seed", range(10))
def test_no_threshold_has_a_better_f1(tmp_path, seed):
    scorer, rows = random_scene(tmp_path, np.random.default_rng(seed))
    matches = match(scorer, rows, scorer.image_ids)
    best = best_thresholds(matches, scorer.category_ids, ["cat", "dog"])
    counted = matches.object_of != NOT_COUNTED

    def f1(score, of, num_objects):
        kept = counted & of & (rows.scores >= score)
        return 2 * (matches.object_of[kept] >= 0).sum() / max(kept.sum() + num_objects, 1)

    everything = np.ones(len(rows), bool)
    for threshold, of, objects in (
        (best["overall"], everything, len(matches.objects.image_ids)),
        (best["per_class"]["cat"], rows.category_ids == 2, (matches.objects.category_ids == 2).sum()),
        (best["per_class"]["dog"], rows.category_ids == 7, (matches.objects.category_ids == 7).sum()),
    ):
        values = {score: f1(score, of, objects) for score in np.unique(rows.scores)}
        highest = max(values.values(), default=0.0)
        assert (threshold["f1"] if threshold else 0.0) == pytest.approx(highest)
        if threshold:
            assert threshold["score"] == max(score for score, value in values.items() if value == threshold["f1"])
            assert f1(threshold["score"], of, objects) == threshold["f1"]


def test_where_nothing_is_found_there_is_no_threshold(tmp_path):
    scorer = CocoScorer(write_truth(tmp_path, image_ids=[1], categories=[(2, "cat")]))
    rows = DetectionRows(np.array([1]), np.array([2]), np.array([[0.0, 0, 5, 5]]), np.array([0.9]))
    best = best_thresholds(match(scorer, rows, scorer.image_ids), scorer.category_ids, ["cat"])
    assert best == {"overall": None, "per_class": {"cat": None}}
