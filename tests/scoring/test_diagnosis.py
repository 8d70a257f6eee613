"""Proves what is called found, false, confused and missed: against pycocotools' own matching on published
detections, and on scenes small enough to work out by hand.
"""

import json

import numpy as np
import pytest

from ssd_graph.scoring.diagnosis import confusion_matrix, f1_of, image_counts, outcome, sweep
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import NO_OBJECT, NOT_COUNTED, match
from tests.scoring.test_detections import rows_of
from tests.scoring.truths import golden, write_truth

CAT, DOG = 3, 4
CATEGORIES = np.array([CAT, DOG])
BOX, ELSEWHERE, THIRD = (10, 10, 50, 50), (100, 100, 50, 50), (200, 10, 40, 40)


def scene(tmp_path, *annotations, image_ids=(5, 8)):
    """A scorer for annotations given as (image id, category id, xywh, is crowd)."""
    return CocoScorer(write_truth(tmp_path, *annotations, image_ids=image_ids))


def diagnose(scorer, *detections, threshold=0.0, image_ids=(5, 8)):
    matches = match(scorer, rows_of(*detections), np.array(image_ids))
    return matches, outcome(matches, threshold)


def golden_matches(shared, case="fakebbox100"):
    truth, rows, _ = golden(shared, case)
    content, scorer = json.loads(truth.read_text()), CocoScorer(truth)
    images = np.array([image["id"] for image in content["images"]])
    return match(scorer, rows, images), np.array([c["id"] for c in content["categories"]])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_the_confusion_matrix_counts_every_object_and_counted_detection_once(shared, threshold):
    matches, categories = golden_matches(shared)
    at = outcome(matches, threshold)
    matrix = confusion_matrix(matches, at, np.sort(categories))
    counted = (matches.object_of != NOT_COUNTED) & (matches.rows.scores >= threshold)
    assert matrix[:-1].sum() == len(matches.objects.image_ids)
    assert matrix[:, :-1].sum() == counted.sum()
    assert np.trace(matrix) == at.found.sum()
    np.testing.assert_array_equal(matrix[:-1].sum(1), [(matches.objects.category_ids == c).sum() for c in categories])


def test_image_counts_add_up_to_the_outcome(shared):
    matches, _ = golden_matches(shared)
    at = outcome(matches, 0.5)
    assert image_counts(matches, at).sum(0).tolist() == [at.found.sum(), at.false.sum(), at.missed.sum()]


def test_the_sweep_is_the_outcome_at_every_threshold(shared):
    matches, _ = golden_matches(shared)
    curve = sweep(matches)
    for n in (0, 30, 77, 99):
        at = outcome(matches, curve.thresholds[n])
        found, false, missed = at.found.sum(), at.false.sum(), at.missed.sum()
        assert curve.recall[n] == pytest.approx(found / (found + missed))
        assert curve.f1[n] == pytest.approx(2 * found / (2 * found + false + missed))
        if found + false:
            assert curve.precision[n] == pytest.approx(found / (found + false))


def test_the_better_scored_detection_takes_the_object_and_the_other_is_false(tmp_path):
    scorer = scene(tmp_path, (5, CAT, BOX, 0))
    matches, at = diagnose(scorer, (5, CAT, BOX, 0.6), (5, CAT, BOX, 0.9))
    assert matches.object_of.tolist() == [NO_OBJECT, 0]
    assert at.found.tolist() == [False, True]
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_a_detection_below_the_threshold_finds_nothing(tmp_path):
    matches, at = diagnose(scene(tmp_path, (5, CAT, BOX, 0)), (5, CAT, BOX, 0.39), threshold=0.4)
    assert (at.found.any(), at.false.any(), at.missed.tolist()) == (False, False, [True])
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_a_detection_of_another_category_on_a_missed_object_is_a_confusion(tmp_path):
    matches, at = diagnose(scene(tmp_path, (5, CAT, BOX, 0)), (5, DOG, BOX, 0.9))
    assert at.confused_with.tolist() == [0]
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_an_object_that_is_found_is_not_confused_even_by_a_better_score(tmp_path):
    matches, at = diagnose(scene(tmp_path, (5, CAT, BOX, 0)), (5, DOG, BOX, 0.9), (5, CAT, BOX, 0.3))
    assert at.confused_with.tolist() == [NO_OBJECT, NO_OBJECT]
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_an_object_is_confused_once_and_by_the_better_score(tmp_path):
    matches, at = diagnose(scene(tmp_path, (5, CAT, BOX, 0)), (5, DOG, BOX, 0.3), (5, DOG, BOX, 0.9))
    assert at.confused_with.tolist() == [NO_OBJECT, 0]
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_a_detection_on_another_image_or_beside_the_object_is_on_nothing(tmp_path):
    matches, at = diagnose(scene(tmp_path, (5, CAT, BOX, 0)), (8, DOG, BOX, 0.9), (5, DOG, ELSEWHERE, 0.9))
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[0, 0, 1], [0, 0, 0], [0, 2, 0]]


def test_crowds_and_detections_on_them_do_not_count(tmp_path):
    matches, at = diagnose(scene(tmp_path, (5, CAT, BOX, 1), (8, CAT, BOX, 0)), (5, CAT, BOX, 0.9))
    assert matches.object_of.tolist() == [NOT_COUNTED]
    assert confusion_matrix(matches, at, CATEGORIES).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_detections_and_objects_on_other_images_do_not_count(tmp_path):
    scorer = scene(tmp_path, (5, CAT, BOX, 0), (8, CAT, BOX, 0))
    matches, at = diagnose(scorer, (5, CAT, BOX, 0.9), (8, CAT, BOX, 0.9), image_ids=[8])
    assert matches.object_of.tolist() == [NOT_COUNTED, 0]
    assert image_counts(matches, at).tolist() == [[1, 0, 0]]


def test_f1_of_an_image_follows_the_order_of_the_images_given(tmp_path):
    scorer = scene(tmp_path, (5, CAT, BOX, 0), (5, DOG, THIRD, 0), (8, CAT, BOX, 0), image_ids=(5, 8, 9))
    matches, at = diagnose(
        scorer, (8, CAT, BOX, 0.9), (5, CAT, BOX, 0.9), (5, CAT, ELSEWHERE, 0.9), image_ids=[8, 9, 5]
    )
    counts = image_counts(matches, at)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    np.testing.assert_array_equal(f1_of(counts), [1, np.nan, 0.5])


def test_nothing_to_find_and_nothing_detected(tmp_path):
    matches, at = diagnose(scene(tmp_path))
    curve = sweep(matches)
    assert (curve.f1.max(), curve.recall.max()) == (0, 0)
    assert np.isnan(curve.precision).all()
    assert confusion_matrix(matches, at, CATEGORIES).sum() == 0
    assert np.isnan(f1_of(image_counts(matches, at))).all()
