"""Proves the scorer against the numbers that public evaluators publish and against precision worked out by hand."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_graph.cli import InputError
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import STAT_NAMES, CocoScorer
from ssd_graph.scoring.scorers import SCORERS
from tests.scoring.test_detections import rows_of
from tests.scoring.truths import golden, write_truth


def by_pycocotools(truth, detections):
    """The twelve numbers as pycocotools alone computes them from two files, and what it prints of them."""
    with redirect_stdout(StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval(coco, coco.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with redirect_stdout(StringIO()) as table:
        evaluation.summarize()
    return dict(zip(STAT_NAMES, evaluation.stats.tolist(), strict=True)), table.getvalue()


@pytest.fixture
def truth(tmp_path):
    """Ground truth of two images: a cat in the first, two cats in the second; nothing is a dog."""
    return write_truth(tmp_path, *(found[:3] for found in PERFECT))


PERFECT = ((5, 3, (10, 10, 50, 50), 0.9), (8, 3, (0, 0, 20, 20), 0.8), (8, 3, (100, 100, 200, 200), 0.7))


@pytest.fixture(params=SCORERS)
def scorer(request):
    """Each scorer's name; the optional one is skipped where it is not installed."""
    if request.param == "faster":
        pytest.importorskip("faster_coco_eval")
    return request.param


@pytest.mark.parametrize(
    ("case", "kind", "tolerance"),
    [
        ("fakebbox100", "published", 1e-6),
        ("bboxarea", "published", 1e-6),
        ("bboxarea", "computed", 1e-12),
        ("edge", "computed", 1e-12),
    ],
)
def test_scores_equal_those_of_public_evaluators(shared, scorer, case, kind, tolerance):
    truth, detections, known = golden(shared, case)
    scores = CocoScorer(truth, scorer).score(detections)
    assert list(scores.stats) == list(STAT_NAMES) == list(known[kind])
    assert scores.stats == pytest.approx(known[kind], rel=0, abs=tolerance)


def test_an_object_with_annotation_id_0_is_found_like_any_other(shared, scorer, tmp_path):
    """pycocotools marks a match by the object's id and reads 0 as "none"; its numbers for this file are wrong."""
    truth, detections, known = golden(shared, "zero")
    content = json.loads(truth.read_text())
    assert any(annotation["id"] == 0 for annotation in content["annotations"])
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    (tmp_path / "truth.json").write_text(json.dumps(content))
    stats = CocoScorer(truth, scorer).score(detections).stats
    assert stats == by_pycocotools(tmp_path / "truth.json", shared / "golden" / known["detections"])[0]
    assert stats["AP"] > known["computed"]["AP"] + 0.5


def test_the_precision_arrays_give_ap_and_ap_by_class(shared):
    truth, detections, _ = golden(shared, "fakebbox100")
    scores = CocoScorer(truth).score(detections)
    assert scores.precision.shape == (10, 101, len(scores.per_class))
    known = [k for k, ap in enumerate(scores.per_class.values()) if ap is not None]
    assert 0 < len(known) < len(scores.per_class)
    assert (np.delete(scores.precision, known, 2) == -1).all()
    np.testing.assert_allclose(
        scores.precision[:, :, known].mean((0, 1)), [ap for ap in scores.per_class.values() if ap is not None]
    )
    assert scores.precision[:, :, known].mean() == pytest.approx(scores.stats["AP"])
    assert scores.precision[5][:, known].mean() == pytest.approx(scores.stats["AP75"])


def assert_scorers_agree(annotation_file, rows, image_ids=None):
    """hotcoco's numbers are pycocotools' to the last bit, those of faster-coco-eval to 1e-12; returns the numbers."""
    expected, quick = (CocoScorer(annotation_file, s).score(rows, image_ids) for s in ("pycocotools", "hotcoco"))
    assert quick == expected
    assert np.array_equal(quick.precision, expected.precision)
    if find_spec("faster_coco_eval"):
        faster = CocoScorer(annotation_file, "faster").score(rows, image_ids)
        assert faster.stats == pytest.approx(expected.stats, rel=0, abs=1e-12)
        np.testing.assert_allclose(faster.precision, expected.precision, rtol=0, atol=1e-12)
    return expected.stats


def jittered(annotation_file, seed):
    """Detections near the ground truth, with tied scores, wrong classes and inventions."""
    content, rng = json.loads(annotation_file.read_text()), np.random.default_rng(seed)
    ids = [c["id"] for c in content["categories"]]
    found = []
    for a in content["annotations"] * 2:
        category = a["category_id"] if rng.random() < 0.8 else int(rng.choice(ids))
        box = np.array(a["bbox"]) + rng.normal(0, 0.05, 4) * np.tile(a["bbox"][2:], 2)
        found.append((a["image_id"], category, box, round(rng.random(), 1)))
    return rows_of(*found)


def test_all_scorers_give_the_same_numbers_on_generated_images(tiny_coco):
    file = tiny_coco / "annotations" / "instances_train2017.json"
    assert 0.1 < assert_scorers_agree(file, jittered(file, 0))["AP"] < 0.9


def test_all_scorers_give_the_same_numbers_on_real_images_with_crowds_and_gaps_in_ids(shared):
    file = shared / "coco_mini" / "annotations" / "instances_val2017.json"
    rows = jittered(file, 1)
    assert 0.1 < assert_scorers_agree(file, rows)["AP"] < 0.9
    assert_scorers_agree(file, rows, np.unique(rows.image_ids)[:40])


def random_scene(rng):
    """Annotations and detections of a few images: crowds, ties, boxes without area, empty images, gaps in ids."""
    image_ids = rng.choice(10**6, rng.integers(1, 6), replace=False)
    category_ids = rng.choice(100, rng.integers(1, 4), replace=False)

    def some(most):
        count = rng.integers(0, most)
        # On a coarse grid, so that boxes coincide, touch, and overlap by exactly the thresholds.
        boxes = rng.integers(0, 12, (count, 4)) * rng.choice([1, 5, 10, 40])
        return rng.choice(image_ids, count).tolist(), rng.choice(category_ids, count).tolist(), boxes.tolist()

    annotations = [
        {"image_id": i, "category_id": k, "bbox": box, "iscrowd": int(rng.random() < 0.2)}
        | ({"area": float(rng.choice([0, 900, 1024, 5000, 9216, 1e5]))} if rng.random() < 0.3 else {})
        for i, k, box in zip(*some(30), strict=True)
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in image_ids.tolist()],
        "categories": [{"id": k, "name": str(k)} for k in category_ids.tolist()],
        "annotations": annotations,
    }
    found = [(i, k, box, round(rng.random(), 1)) for i, k, box in zip(*some(rng.choice([10, 400])), strict=True)]
    found += [(a["image_id"], a["category_id"], a["bbox"], round(rng.random(), 1)) for a in annotations[::2]]
    return content, rows_of(*found), rng.choice(image_ids, rng.integers(1, len(image_ids) + 1), replace=False)


def test_the_numbers_of_images_and_categories_change_nothing(tmp_path):
    content, rows, _ = random_scene(np.random.default_rng(3))
    (tmp_path / "a.json").write_text(json.dumps(content))
    expected = CocoScorer(tmp_path / "a.json").score(rows).stats
    assert 0 < expected["AP"] < 1
    odd = {}  # in the same order, among them 0 and some that float64 cannot tell apart
    for key in ("images", "categories"):
        known = sorted(entry["id"] for entry in content[key])
        odd[key] = dict(zip(known, [-7, 0, *range(2**53, 2**53 + len(known))], strict=False))
        for entry in content[key]:
            entry["id"] = odd[key][entry["id"]]
    for entry in content["annotations"]:
        for key, name in (("images", "image_id"), ("categories", "category_id")):
            entry[name] = odd[key][entry[name]]
    (tmp_path / "b.json").write_text(json.dumps(content))
    moved = DetectionRows(
        np.array([odd["images"][i] for i in rows.image_ids.tolist()]),
        np.array([odd["categories"][k] for k in rows.category_ids.tolist()]),
        *(rows.boxes_xywh, rows.scores),
    )
    assert CocoScorer(tmp_path / "b.json").score(moved).stats == expected


def test_all_scorers_give_the_same_numbers_on_random_scenes(tmp_path):
    _same_on_random_scenes(tmp_path, 150)


@pytest.mark.slow
def test_all_scorers_give_the_same_numbers_on_thousands_of_random_scenes(tmp_path):
    _same_on_random_scenes(tmp_path, 5000)


def _same_on_random_scenes(tmp_path, count):
    scored = 0
    for seed in range(count):
        content, rows, image_ids = random_scene(np.random.default_rng(seed))
        (tmp_path / "truth.json").write_text(json.dumps(content))
        stats = assert_scorers_agree(tmp_path / "truth.json", rows, image_ids if seed % 2 else None)
        scored += stats["AP"] > 0
    assert scored > count / 2


def test_perfect_detections_score_one(truth, scorer):
    scores = CocoScorer(truth, scorer).score(rows_of(*PERFECT))
    assert scores.stats["AP"] == pytest.approx(1)
    assert scores.stats["AR1"] == pytest.approx(2 / 3)


def test_one_of_three_objects_found_scores_34_of_101_recall_points(truth):
    scores = CocoScorer(truth).score(rows_of(PERFECT[0]))
    assert scores.stats["AP"] == pytest.approx(34 / 101)


def test_a_better_scored_false_detection_halves_the_precision(truth):
    wrong = (5, 3, (200, 200, 10, 10), 0.95)
    scores = CocoScorer(truth).score(rows_of(wrong, PERFECT[0]))
    assert scores.stats["AP"] == pytest.approx(0.5 * 34 / 101)


def test_iou_of_062_counts_for_the_first_three_thresholds(truth):
    scores = CocoScorer(truth).score(rows_of((5, 3, (10, 10, 50, 31), 0.9)), np.array([5]))
    assert (scores.stats["AP50"], scores.stats["AP75"]) == (pytest.approx(1), 0)
    assert scores.stats["AP"] == pytest.approx(3 / 10)


def test_zero_detections_score_zero(truth, scorer):
    scores = CocoScorer(truth, scorer).score(rows_of())
    assert (scores.stats["AP"], scores.stats["AR100"]) == (0, 0)
    assert scores.per_class == {"cat": 0, "dog": None}


def test_a_class_without_ground_truth_has_no_ap(truth, scorer):
    scores = CocoScorer(truth, scorer).score(rows_of(*PERFECT, (5, 4, (0, 0, 9, 9), 0.5)))
    assert scores.per_class == {"cat": pytest.approx(1), "dog": None}
    assert scores.stats["AP"] == pytest.approx(1)


def test_the_table_is_pycocotools_summary(shared, scorer, capsys):
    truth, detections, known = golden(shared, "fakebbox100")
    _, expected = by_pycocotools(truth, shared / "golden" / known["detections"])
    assert CocoScorer(truth, scorer).score(detections).table == expected.rstrip()
    assert capsys.readouterr() == ("", "")


def test_a_detection_of_an_unknown_category_counts_for_nothing(truth, scorer, capfd):
    scores = CocoScorer(truth, scorer).score(rows_of(*PERFECT, (5, 77, (10, 10, 50, 50), 0.99)))
    assert scores == CocoScorer(truth, scorer).score(rows_of(*PERFECT))
    assert capfd.readouterr() == ("", "")


def test_only_the_chosen_images_count(truth):
    wrong = (8, 3, (150, 0, 9, 9), 0.99)
    scorer = CocoScorer(truth)
    assert scorer.score(rows_of(wrong, PERFECT[0]), np.array([5])).stats["AP"] == pytest.approx(1)
    assert scorer.score(rows_of(wrong, PERFECT[0])).stats["AP"] < 0.2


def test_a_scorer_can_be_used_again(truth):
    scorer = CocoScorer(truth)
    first, _, third = (scorer.score(rows_of(*found)) for found in (PERFECT, (), PERFECT))
    assert first == third


def test_missing_area_and_iscrowd_are_filled_in(truth):
    stats = CocoScorer(truth).score(rows_of(*PERFECT)).stats
    assert [stats[name] for name in ("APs", "APm", "APl")] == pytest.approx([1, 1, 1])


def test_a_detection_on_an_unknown_image_is_refused(truth, scorer):
    with pytest.raises(InputError, match="detections on image 77, which the ground truth does not have"):
        CocoScorer(truth, scorer).score(rows_of(*PERFECT, (77, 3, (0, 0, 9, 9), 0.5)))


def test_an_image_with_nothing_but_a_crowd_neither_gains_nor_loses(truth, scorer):
    content = json.loads(truth.read_text())
    content["images"].append({"id": 9, "file_name": "9.jpg", "width": 99, "height": 99})
    content["annotations"].append({"id": 4, "image_id": 9, "category_id": 3, "bbox": [0, 0, 99, 99], "iscrowd": 1})
    truth.write_text(json.dumps(content))
    inside = [(9, 3, (i, i, 30, 30), 0.99) for i in range(5)]
    assert CocoScorer(truth, scorer).score(rows_of(*PERFECT, *inside)).stats["AP"] == pytest.approx(1)


@pytest.mark.parametrize(("name", "package"), [("faster", "faster-coco-eval"), ("hotcoco", "hotcoco")])
def test_a_scorer_that_is_not_installed_says_how_to_get_it(truth, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(InputError, match=f"pip install {package}`"):
        CocoScorer(truth, name)


def test_a_file_that_training_refuses_is_refused_by_the_same_words(truth):
    truth.write_text(truth.read_text().replace('"image_id": 5', '"image_id": 55'))
    with pytest.raises(InputError, match=r"truth\.json: annotation number 1 names unknown image 55"):
        CocoScorer(truth)
    with pytest.raises(InputError, match=r"cannot read .*gone\.json"):
        CocoScorer(truth.with_name("gone.json"))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"iscrowd": 0', '"iscrowd": null'), *(('"area": 2500', f'"area": {a}') for a in ("null", "-1", "Infinity"))],
)
def test_a_field_that_says_nothing_is_one_that_is_not_there(truth, old, new):
    """Training and scoring take it alike; the scorers alone would fail."""
    text = truth.read_text().replace('"id": 1,', '"id": 1, "iscrowd": 0, "area": 2500,')
    truth.write_text(text)
    expected = CocoScorer(truth).score(rows_of(*PERFECT))
    assert old in text
    truth.write_text(text.replace(old, new))
    assert CocoScorer(truth).score(rows_of(*PERFECT)) == expected


def test_a_box_that_is_not_finite_is_no_object(truth):
    expected = CocoScorer(truth).score(rows_of(*PERFECT))
    content = json.loads(truth.read_text())
    for value in (float("nan"), float("inf"), -float("inf"), 1e308):
        content["annotations"].append({"image_id": 5, "category_id": 3, "bbox": [1, value, 9, 9]})
    truth.write_text(json.dumps(content))
    assert CocoScorer(truth).score(rows_of(*PERFECT)) == expected


def test_names_may_be_shared_and_need_not_be_text_of_utf_8(truth, scorer):
    content = json.loads(truth.read_text())
    names = ("cat", "cat", "cat (5)", "cat", "cat (5)", "a\ud800")
    content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, start=3)]
    truth.write_text(json.dumps(content))
    per_class = CocoScorer(truth, scorer).score(rows_of(*PERFECT)).per_class
    shown = ["cat", "cat (4)", "cat (5)", "cat (6)", "cat (5) (7)", "a\ud800"]
    assert per_class == {**dict.fromkeys(shown), "cat": pytest.approx(1)}


def test_scoring_comparing_and_reporting_do_not_import_torch():
    modules = ("data.coco", "data.loader", "scoring.evaluate", "scoring.compare", "report.page")
    code = "import sys" + "".join(f", ssd_graph.{name}" for name in modules) + "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
