"""Rows of detections do not depend on how images were batched, and are in pixels of the original images."""

import numpy as np
import pytest

from ssd_graph.scoring.detections import DetectionRows, detection_rows, join_rows


def rows_of(*detections):
    """Rows from (image id, category id, xywh, score)."""
    images, categories, boxes, scores = zip(*detections, strict=True) if detections else ([], [], [], [])
    return DetectionRows(
        np.array(images, np.int64),
        np.array(categories, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
    )


def assert_equal_rows(rows, expected):
    for name, column, other in zip(rows._fields, rows, expected, strict=True):
        np.testing.assert_array_equal(column, other, err_msg=name)
        assert column.dtype == other.dtype


def test_detection_rows_are_pixels_of_the_original_image():
    rows = detection_rows(
        image_ids=np.array([11, 12]),
        sizes=np.array([[640, 480], [100, 200]], np.int32),
        num_detections=np.array([1, 2]),
        boxes=np.array([[[0.25, 0.5, 0.75, 1], [9, 9, 9, 9]], [[0, 0, 0.5, 0.5], [0.5, 0.25, 1, 0.75]]]),
        scores=np.array([[0.5, 9], [0.75, 0.25]], np.float32),
        labels=np.array([[90, 9], [1, 7]]),
    )
    half, quarter = (0, 0, 50, 100), (50, 50, 50, 100)
    expected = rows_of((11, 90, (160, 240, 320, 240), 0.5), (12, 1, half, 0.75), (12, 7, quarter, 0.25))
    assert_equal_rows(rows, expected)


def split_rows(rows, chosen):
    return DetectionRows(*(column[chosen] for column in rows))


def random_rows(seed, num_images=6):
    rng = np.random.default_rng(seed)
    images = np.repeat(rng.permutation(num_images) * 7, 4)
    count = len(images)
    return DetectionRows(images, rng.integers(1, 91, count), rng.normal(0, 300, (count, 4)), rng.random(count))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_joined_rows_do_not_depend_on_batching(batch):
    rows = random_rows(0)
    ids = np.unique(rows.image_ids)
    parts = [split_rows(rows, np.isin(rows.image_ids, ids[i : i + batch])) for i in range(0, len(ids), batch)]
    joined = join_rows(parts[::-1])
    assert_equal_rows(joined, join_rows([rows]))
    assert joined.image_ids.tolist() == sorted(rows.image_ids.tolist())


def test_joined_rows_keep_the_order_within_an_image():
    joined = join_rows([rows_of((2, 1, (0, 0, 1, 1), 0.9), (1, 1, (0, 0, 1, 1), 0.3), (2, 1, (0, 0, 1, 1), 0.4))])
    assert joined.scores.tolist() == [0.3, 0.9, 0.4]


def test_joining_nothing_gives_no_rows():
    assert_equal_rows(join_rows([]), rows_of())
