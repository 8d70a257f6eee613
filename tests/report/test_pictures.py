"""Pictures show the right boxes, with words that can be read, of the images that the ranking calls best and worst."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssd_graph.data.coco import load_split
from ssd_graph.report.pictures import MAX_BYTES, MAX_SIDE, Box, label_spots, picture, ranked_images
from ssd_graph.scoring.diagnosis import f1_of, image_counts, outcome
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import match
from tests.report.conftest import made_detections, small_split
from tests.scoring.test_detections import rows_of


def diagnosed(split, rows, threshold=0.3):
    matches = match(CocoScorer(split.annotation_file), rows, split.image_ids)
    return matches, outcome(matches, threshold)


def rectangles(text):
    """Kind, pixel corners and hover text of every box."""
    pattern = (
        r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)">(?:<title>(.*?)</title>)?'
    )
    return [(kind, *map(float, box), title) for kind, *box, title in re.findall(pattern, text)]


@pytest.fixture
def one_image(tmp_path):
    """An image of 80 x 60 with a cat at (8, 0, 24, 18) and a dog at (8, 6, 24, 18)."""
    return small_split(tmp_path, ["a.jpg"])


def test_found_missed_and_false_boxes_are_told_apart(one_image):
    rows = rows_of((1, 1, (8, 0, 24, 18), 0.9), (1, 1, (50, 30, 20, 20), 0.4), (1, 2, (8, 6, 24, 18), 0.2))
    text = picture(one_image, *diagnosed(one_image, rows), 0)
    assert rectangles(text) == [
        ("truth", 8, 0, 24, 18, ""),
        ("missed", 8, 6, 24, 18, "missed dog"),
        ("found", 8, 0, 24, 18, "cat 0.90"),
        ("false", 50, 30, 20, 20, "✕ cat 0.40"),
    ]
    assert 'alt="a.jpg: 1 found, 1 false, 1 missed"' in text
    assert "F1 0.50" in text


def test_boxes_that_leave_the_image_are_cut_at_its_edge(one_image):
    rows = rows_of((1, 1, (-10, -10, 200, 30), 0.9))
    assert ("false", 0, 0, 80, 20, "✕ cat 0.90") in rectangles(picture(one_image, *diagnosed(one_image, rows), 0))


def test_the_jpeg_is_the_image_within_the_limits(tmp_path):
    split = small_split(tmp_path, ["a.jpg"], size=(1600, 1200), noise=True)
    text = picture(split, *diagnosed(split, rows_of()), 0)
    data = base64.b64decode(re.search('base64,([^"]+)"', text)[1])
    assert len(data) <= MAX_BYTES
    assert Image.open(io.BytesIO(data)).size == (MAX_SIDE, MAX_SIDE * 3 // 4)
    assert "aspect-ratio:1600/1200" in text


def test_small_images_are_not_enlarged(one_image):
    text = picture(one_image, *diagnosed(one_image, rows_of()), 0)
    data = base64.b64decode(re.search('base64,([^"]+)"', text)[1])
    assert Image.open(io.BytesIO(data)).size == (80, 60)


def test_best_and_worst_are_disjoint_and_ordered_by_f1(shared):
    split = load_split(shared / "coco_mini", "val")
    matches, at = diagnosed(split, made_detections(split))
    f1 = f1_of(image_counts(matches, at))
    best, worst = ranked_images(matches, at, 6)
    rest = np.delete(f1, np.concatenate([best, worst]))
    assert (len(best), len(worst), len({*best, *worst})) == (6, 6, 12)
    assert (np.diff(f1[best]) <= 0).all()
    assert (np.diff(f1[worst]) >= 0).all()
    assert f1[best].min() >= np.nanmax(rest)
    assert f1[worst].max() <= np.nanmin(rest)


def test_among_equals_more_objects_are_better_and_more_mistakes_worse(tmp_path):
    """Images 1 and 2 are perfect, 2 with more objects; in 3 and 4 nothing is found, in 4 more is false."""
    split = small_split(tmp_path, ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    text = split.annotation_file.read_text()
    split.annotation_file.write_text(text.replace('"image_id": 1, "category_id": 2', '"image_id": 4, "category_id": 2'))
    cat, dog, nothing = (8, 0, 24, 18), (8, 6, 24, 18), (50, 30, 20, 20)
    rows = rows_of((1, 1, cat, 0.9), (2, 1, cat, 0.9), (2, 2, dog, 0.9), (4, 1, nothing, 0.9))
    best, worst = ranked_images(*diagnosed(load_split(tmp_path, "val"), rows), 2)
    assert (best.tolist(), worst.tolist()) == ([1, 0], [3, 2])


@pytest.mark.parametrize(("num_images", "expected"), [(1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (20, (6, 6))])
def test_few_images_are_shared_out(tmp_path, num_images, expected):
    split = small_split(tmp_path, [f"{n}.jpg" for n in range(num_images)])
    best, worst = ranked_images(*diagnosed(split, made_detections(split)), 6)
    assert (len(best), len(worst)) == expected


corners = st.tuples(*[st.floats(0, 1)] * 4).map(lambda c: np.array([*sorted(c[::2]), *sorted(c[1::2])])[[0, 2, 1, 3]])
boxes = st.builds(Box, st.sampled_from(["found", "false", "missed"]), corners, st.text("abc ", min_size=1, max_size=60))


@given(st.lists(boxes, max_size=20), st.floats(0.2, 4))
def test_labels_do_not_cover_each_other_and_stay_inside(found, aspect):
    spots = np.array([spot for _, spot in label_spots(found, aspect)]).reshape(-1, 4)
    assert (spots >= 0).all()
    assert (spots[:, [0, 2]] <= 1).all()
    assert (spots[:, [1, 3]] <= aspect).all()
    for n, spot in enumerate(spots):
        others = np.delete(spots, n, 0)
        assert not ((others[:, :2] < spot[2:] - 1e-9) & (others[:, 2:] > spot[:2] + 1e-9)).all(1).any()


def test_a_mistake_gets_its_label_before_a_found_object():
    box = np.array([0.1, 0.1, 0.12, 0.12])
    crowded = [Box("found", box, "c" * 40) for _ in range(9)] + [Box("missed", box, "m" * 40)]
    labelled = [box.kind for box, _ in label_spots(crowded, 1.0)]
    assert labelled[0] == "missed"
    assert len(labelled) < 10
