"""Comparisons find the change there is, say when there is none, and refuse what cannot be compared."""

import json

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.data.shapes import write_shapes
from ssd_graph.scoring.compare import MIN_IMAGES, compare, load_evaluation
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.detections_file import detections_json, sha256_of
from ssd_graph.scoring.evaluate import STAT_NAMES, CocoScorer
from ssd_graph.scoring.summary import write_summary
from tests.report.conftest import made_detections, true_detections
from tests.run import command_here, exit_code, refused

TOOL = "tools/compare.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A generated COCO folder of 60 images with enough objects of every class."""
    root = tmp_path_factory.mktemp("compare_data")
    write_shapes(root, {"val": 60})
    return root


@pytest.fixture(scope="module")
def split(data):
    return load_split(data, "val")


def write(folder, split, rows, num_images=None, **changes):
    """What tools/eval_onnx.py writes for these detections."""
    num_images = num_images or len(split)
    scores = CocoScorer(split.annotation_file).score(rows, split.image_ids[:num_images])
    summary = {
        "stats": scores.stats,
        "per_class": scores.per_class,
        "num_images": num_images,
        "detections_sha256": sha256_of(detections_json(rows)),
        "pixels_sha256": "",
        "model": {"sha256": ""},
        "annotations": {
            "folder": str(split.annotation_file.parent.parent),
            "file": split.annotation_file.name,
            "sha256": sha256_of(split.annotation_file.read_text()),
        },
        **changes,
    }
    write_summary(folder, summary, rows)
    return folder / "summary.json"


def compared(data, *paths, **options):
    return compare(*(load_evaluation(path) for path in paths), data, **{"num_resamples": 100, **options})


@pytest.fixture
def good(split, tmp_path):
    return write(tmp_path / "good", split, made_detections(split))


def without_class(rows, category_id):
    return DetectionRows(*(column[rows.category_ids != category_id] for column in rows))


def test_the_same_detections_do_not_differ(data, good):
    comparison = compared(data, good, good)
    assert comparison.verdict() == "The detections are the same."
    for change in (*comparison.stats.values(), *comparison.per_class.values()):
        assert change.difference == 0
    assert (comparison.stats["AP"].low, comparison.stats["AP"].high) == (0, 0)
    assert comparison.stats["AP"].includes_zero


def test_a_class_that_is_lost_is_found_first(data, split, good, tmp_path):
    worse = write(tmp_path / "worse", split, without_class(made_detections(split), 7))
    comparison = compared(data, good, worse)
    star = comparison.per_class["star"]
    assert star.b == 0
    assert star.difference == pytest.approx(-star.a)
    assert star.high < 0
    assert comparison.stats["AP"].difference == pytest.approx(star.difference / 6)
    assert "The 95% interval of the change does not include 0." in comparison.verdict()
    others = [change for name, change in comparison.per_class.items() if name != "star"]
    assert all(change.difference == 0 for change in others)
    table = comparison.table(num_classes=1)
    assert table.splitlines()[-1].startswith("star ")
    assert table.splitlines()[-1].endswith(f"({comparison.num_objects['star']} objects)")


def test_intervals_are_of_their_own_overlap(data, split, tmp_path):
    """The ground truth itself, and with 72 % of its height: all that changes lies above an IoU of 0.7."""
    whole, flat = true_detections(split), true_detections(split, height=0.72)
    stats = compared(data, *(write(tmp_path / n, split, r) for n, r in (("a", whole), ("b", flat)))).stats
    assert (stats["AP50"].low, stats["AP50"].high) == pytest.approx((0, 0))
    assert (stats["AP75"].low, stats["AP75"].high) == pytest.approx((-1, -1))
    assert (stats["AP"].low, stats["AP"].high) == pytest.approx((-0.5, -0.5))


def test_the_classes_that_change_most_come_first(data, split, good, tmp_path):
    rows = made_detections(split)
    fewer = DetectionRows(*(column[~np.isin(rows.category_ids, (3, 7)) | (rows.scores > 0.7)] for column in rows))
    other = write(tmp_path / "other", split, without_class(fewer, 11))
    lines = compared(data, good, other).table().splitlines()
    changes = [abs(float(line.split()[3])) for line in lines if "objects)" in line]
    assert len(changes) > 2
    assert changes == sorted(changes, reverse=True)


def test_sizes_without_objects_have_no_numbers(data, split, good, tmp_path):
    stats = {**json.loads(good.read_text())["stats"], "APs": -1.0}
    path = write(tmp_path / "other", split, made_detections(split), stats=stats)
    small = compared(data, path, path).stats["APs"]
    assert (small.a, small.b, small.difference) == (None, None, None)


def test_few_images_have_no_interval(data, split, tmp_path):
    comparison = compared(data, *(write(tmp_path / str(n), split, rows, 9) for n, rows in enumerate(parts(split, 9))))
    assert [change.includes_zero for change in comparison.stats.values()] == [None] * 12
    assert comparison.verdict().endswith("Fewer than 10 images have objects: too few to tell.")


def test_exchanging_the_sides_changes_the_signs(data, split, good, tmp_path):
    other = write(tmp_path / "other", split, made_detections(split, seed=1))
    there, back = compared(data, good, other), compared(data, other, good)
    for name in ("AP", "AP50", "AP75"):
        one, two = there.stats[name], back.stats[name]
        assert one.difference == -two.difference
        assert (one.low, one.high) == pytest.approx((-two.high, -two.low))


def test_detections_that_differ_by_chance_alone_are_not_told_apart(data, split, good, tmp_path):
    other = write(tmp_path / "other", split, made_detections(split, seed=1))
    comparison = compared(data, good, other)
    assert comparison.stats["AP"].difference != 0
    assert comparison.stats["AP"].includes_zero
    assert "includes 0: these images cannot tell the two apart" in comparison.verdict()


def test_the_numbers_are_those_of_the_summaries(data, split, good, tmp_path):
    other = write(tmp_path / "other", split, made_detections(split, seed=1, keep=0.5))
    comparison = compared(data, good, other)
    a, b = (json.loads(path.read_text()) for path in (good, other))
    assert list(comparison.stats) == list(STAT_NAMES)
    for name, change in comparison.stats.items():
        assert (change.a, change.b) == (a["stats"][name], b["stats"][name])
        assert (change.low is None) == (name not in ("AP", "AP50", "AP75"))
    assert {name: change.a for name, change in comparison.per_class.items()} == a["per_class"]


def test_a_seed_fixes_the_intervals(data, split, good, tmp_path):
    other = write(tmp_path / "other", split, made_detections(split, seed=1))
    one, same, another = (compared(data, good, other, seed=seed).stats["AP"] for seed in (1, 1, 2))
    assert one == same
    assert one != another


def test_a_class_on_few_images_has_no_interval(data, split, tmp_path):
    limit = next(n for n in range(1, len(split)) if on_images(split, n).max() == MIN_IMAGES)
    paths = [write(tmp_path / str(seed), split, rows, limit) for seed, rows in enumerate(parts(split, limit))]
    comparison = compared(data, *paths)
    has_interval = [change.low is not None for change in comparison.per_class.values()]
    assert has_interval == (on_images(split, limit) >= MIN_IMAGES).tolist()
    assert not all(has_interval)


def on_images(split, limit):
    """Images that each class is on, among the first."""
    return np.bincount(np.concatenate([np.unique(split.boxes_of(i)[1]) for i in range(limit)]), minlength=7)[1:]


def parts(split, limit):
    """Detections on the first images, by two seeds."""
    for seed in (0, 1):
        rows = made_detections(split, seed)
        yield DetectionRows(*(column[np.isin(rows.image_ids, split.image_ids[:limit])] for column in rows))


def test_a_class_without_objects_has_no_numbers(data, split, tmp_path):
    limit = next(n for n in range(1, 60) if (on_images(split, n) == 0).any())
    paths = [write(tmp_path / str(seed), split, rows, limit) for seed, rows in enumerate(parts(split, limit))]
    comparison = compared(data, *paths)
    absent = [name for name, change in comparison.per_class.items() if change.a is None]
    assert [comparison.num_objects[name] for name in absent] == [0] * len(absent) != []
    assert all(comparison.per_class[name].difference is None for name in absent)
    json.dumps(comparison.to_json(), allow_nan=False)


def test_no_detections_against_some(data, split, good, tmp_path):
    rows = made_detections(split)
    empty = write(tmp_path / "empty", split, DetectionRows(*(column[:0] for column in rows)))
    comparison = compared(data, empty, good)
    assert comparison.stats["AP"].a == 0
    assert comparison.stats["AP"].low > 0


def test_other_annotations_are_refused(data, split, good, tmp_path):
    annotations = {"file": split.annotation_file.name, "sha256": "0" * 64}
    other = write(tmp_path / "other", split, made_detections(split), annotations=annotations)
    with pytest.raises(InputError, match="scored on different annotations"):
        compared(data, good, other)
    with pytest.raises(
        InputError, match=r"does not hold the annotations that .* was scored on; give their folder with --data"
    ):
        compared(data, other, other)


def test_other_numbers_of_images_are_refused(data, split, good, tmp_path):
    rows = next(parts(split, 20))
    other = write(tmp_path / "other", split, rows, 20)
    with pytest.raises(InputError, match=rf"has {len(split)} images and .* 20; evaluate both on the same"):
        compared(data, good, other)


def test_other_images_of_the_same_number_are_refused(data, split, tmp_path):
    """The summary was made on the last images, so on the first its AP is another."""
    rows = made_detections(split)
    last = split.image_ids[-30:]
    rows = DetectionRows(*(column[np.isin(rows.image_ids, last)] for column in rows))
    scores = CocoScorer(split.annotation_file).score(rows, last)
    path = write(tmp_path / "last", split, rows, 30, stats=scores.stats)
    with pytest.raises(InputError, match="evaluate again with this version"):
        compared(data, path, path)


def test_other_classes_are_refused(data, split, good, tmp_path):
    per_class = json.loads(good.read_text())["per_class"]
    renamed = {f"{name}!": ap for name, ap in per_class.items()}
    other = write(tmp_path / "other", split, made_detections(split), per_class=renamed)
    with pytest.raises(InputError, match="name different classes"):
        compared(data, good, other)
    fewer = write(tmp_path / "fewer", split, made_detections(split), per_class={"one": 0.5})
    with pytest.raises(InputError, match="does not have the classes of"):
        compared(data, fewer, fewer)


def test_detections_of_another_evaluation_are_refused(split, good, tmp_path):
    other = write(tmp_path / "other", split, made_detections(split, seed=1))
    (good.parent / "detections.json").write_bytes((other.parent / "detections.json").read_bytes())
    with pytest.raises(
        InputError, match=r"no detections\.json beside .*summary\.json, or not what that was computed from"
    ):
        load_evaluation(good)


def test_missing_detections_are_refused_by_name(good):
    (good.parent / "detections.json").unlink()
    with pytest.raises(InputError, match=r"no detections\.json beside .*summary\.json"):
        load_evaluation(good)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_images": 3, "stats": {}}'])
def test_what_is_no_summary_is_refused_by_name(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"summary\.json is not a summary\.json of an evaluation"):
        load_evaluation(tmp_path)


def test_the_command_prints_a_table_or_json(data, split, good, tmp_path):
    other = write(tmp_path / "other", split, made_detections(split, seed=1))
    flags = ("--data", data, "--resamples", 100, "--json", tmp_path / "changes.json")
    code, out, error = command_here(TOOL, good, other.parent, *flags, cwd=tmp_path)
    assert (code, error) == (0, "")
    assert [line.split()[0] for line in out.split("interval\n")[1].splitlines()[:12]] == list(STAT_NAMES)
    # On the data set that they were scored on.
    _, printed, _ = command_here(TOOL, good, other, "--resamples", 100, "--json", "-", cwd=tmp_path)
    assert json.loads(printed)["stats"] == json.loads((tmp_path / "changes.json").read_text())["stats"]


def test_the_command_refuses_with_one_line(tmp_path):
    refused(TOOL, tmp_path / "a.json", tmp_path / "b.json", "--data", tmp_path, cwd=tmp_path)


@pytest.mark.parametrize(("flag", "value"), [("--seed", -1), ("--resamples", 10**9)])
def test_numbers_that_no_draw_can_have_are_refused(capsys, flag, value):
    assert exit_code(TOOL, "a", "b", f"{flag}={value}") == 2
    assert f"argument {flag}: {value}: give" in capsys.readouterr().err
