"""The fast count equals pycocotools' accumulation, of the images as they are and of any draw of them."""

import contextlib
import copy
import io

import numpy as np
import pytest

from ssd_graph.scoring.bootstrap import ResampledAp, draw_images, interval, mean_ap
from ssd_graph.scoring.evaluate import CocoScorer
from tests.scoring.test_detections import rows_of
from tests.scoring.truths import golden, write_truth


def matched(shared, case):
    """pycocotools' matches of published detections, and the published AP."""
    truth, rows, known = golden(shared, case)
    scorer = CocoScorer(truth)
    return scorer.match(rows, scorer.image_ids), {**known.get("published", {}), **known.get("computed", {})}


def accumulated(evaluation, draws):
    """AP [T, K] of one draw by pycocotools itself, which is given each image as often as it was drawn."""
    evaluation = copy.copy(evaluation)
    num_images = len(draws)
    chosen = np.repeat(np.arange(num_images), draws)
    evaluation.params = copy.deepcopy(evaluation.params)
    evaluation.params.imgIds = [evaluation.params.imgIds[i] for i in chosen]
    evaluation.evalImgs = [
        evaluation.evalImgs[k * num_images + i] for k in range(len(evaluation.params.catIds)) for i in chosen
    ]
    evaluation._paramsEval = evaluation.params
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1].mean(1)
    return np.where(precision == -1, np.nan, precision)


@pytest.mark.parametrize("case", ["fakebbox100", "bboxarea", "edge"])
def test_every_image_once_gives_pycocotools_numbers(shared, case):
    evaluation, expected = matched(shared, case)
    resampled = ResampledAp(evaluation)
    once = np.ones((resampled.num_images, 1), np.int64)
    ap = resampled(once)
    np.testing.assert_allclose(ap[0], accumulated(evaluation, once[:, 0]), rtol=0, atol=1e-14)
    assert mean_ap(ap)[0] == pytest.approx(expected["AP"], abs=1e-6)
    assert mean_ap(ap[:, :1])[0] == pytest.approx(expected["AP50"], abs=1e-6)
    assert mean_ap(ap[:, 5:6])[0] == pytest.approx(expected["AP75"], abs=1e-6)


def separate_scores(evaluation):
    """Move scores apart that are equal within an image: there the order of copies is a matter of convention."""
    for number, pair in enumerate(evaluation.evalImgs):
        if pair is not None:
            steps = 1e-9 * (np.arange(len(pair["dtScores"])) + number / len(evaluation.evalImgs))
            pair["dtScores"] = (np.array(pair["dtScores"]) - steps).tolist()


@pytest.mark.parametrize("case", ["fakebbox100", "bboxarea"])
def test_any_draw_gives_what_pycocotools_accumulates_from_the_drawn_images(shared, case):
    """The 70 draws are more than are counted together; crowds and absent classes are among them."""
    evaluation, _ = matched(shared, case)
    separate_scores(evaluation)
    resampled = ResampledAp(evaluation)
    draws = draw_images(resampled.num_images, 70, seed=3)
    ap = resampled(draws)
    assert ap.shape == (70, 10, len(resampled.num_objects))
    assert np.isnan(ap).any()
    for b in (0, 1, 68, 69):
        np.testing.assert_allclose(ap[b], accumulated(evaluation, draws[:, b]), rtol=0, atol=1e-14)


def test_detections_on_crowds_are_counted_in_no_draw(tmp_path):
    objects = [(1, 1, (0, 0, 50, 50)), (2, 1, (0, 0, 90, 90), 1), (3, 1, (0, 0, 50, 50))]
    truth = write_truth(tmp_path, *objects, image_ids=(1, 2, 3), categories=[(1, "cat")])
    rows = rows_of((2, 1, (0, 0, 40, 40), 0.9), (1, 1, (0, 0, 50, 50), 0.8), (2, 1, (9, 9, 40, 40), 0.7))
    resampled = ResampledAp(CocoScorer(truth).match(rows, np.array([1, 2, 3])))
    ap = resampled(np.array([[1, 0, 2], [1, 3, 5], [0, 0, 2]]))[:, 0, 0]
    np.testing.assert_allclose(ap, [1, np.nan, 51 / 101])
    assert resampled.num_objects.tolist() == [[1, 0, 1]]


def test_drawing_an_image_twice_is_having_it_twice(tmp_path):
    """Image 1 has an object found, image 2 one missed and a better scored false detection."""
    objects = [(n, 1, (0, 0, 50, 50)) for n in (1, 2)]
    truth = write_truth(tmp_path, *objects, image_ids=(1, 2), categories=[(1, "cat")])
    rows = rows_of((1, 1, (0, 0, 50, 50), 0.5), (2, 1, (90, 90, 50, 50), 0.9))
    resampled = ResampledAp(CocoScorer(truth).match(rows, np.array([1, 2])))
    ap = resampled(np.array([[2, 1, 1], [0, 1, 2]]))[:, 0, 0]
    np.testing.assert_allclose(ap, [1, 51 / 101 / 2, 34 / 101 / 3])


def test_draws_are_with_replacement_reproducible_and_as_many_as_there_are_images():
    draws = draw_images(50, 400, seed=7)
    assert draws.shape == (50, 400)
    assert (draws.sum(0) == 50).all()
    assert draws.max() > 1
    assert draws.mean(1) == pytest.approx(1, abs=0.25)
    np.testing.assert_array_equal(draws, draw_images(50, 400, seed=7))
    assert (draws != draw_images(50, 400, seed=8)).any()


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    """Draws of images are draws of a mean here: 1.96 standard errors to either side."""
    values = np.random.default_rng(0).normal(5, 2, 400)
    means = values @ draw_images(400, 4000, seed=1) / 400
    low, high = interval(means)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)


def test_draws_without_objects_say_nothing():
    assert interval(np.array([np.nan, 1.0, np.nan, 1.0])) == (1, 1)
    assert interval(np.array([np.nan])) == (None, None)
    np.testing.assert_array_equal(mean_ap(np.array([[[0.5, np.nan]], [[np.nan, np.nan]]])), [0.5, np.nan])
