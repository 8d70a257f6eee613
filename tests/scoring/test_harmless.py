"""Scores depend on which image and which object is meant, and on no id, order, key or name of the annotation file."""

import json

import numpy as np
import pytest

from ssd_graph.data.coco import load_split
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import match
from tests.report.conftest import made_detections
from tests.scoring.harmless import changed


def require_unmoved(root, folder, num_changes, first=0):
    """Score made-up detections of a split under its file and under changed ones; all bits must be equal."""
    split = load_split(root, "val")
    rows = made_detections(split)
    content = json.loads(split.annotation_file.read_text())
    scorer = CocoScorer(split.annotation_file)
    expected, found = scorer.score(rows), match(scorer, rows, split.image_ids).object_of >= 0
    assert 0 < expected.stats["AP"] < 1
    path = folder / "changed.json"
    for seed in range(first, first + num_changes):
        other, other_rows = changed(np.random.default_rng(seed), content, rows)
        path.write_text(json.dumps(other))
        scorer = CocoScorer(path)
        scores = scorer.score(other_rows)
        assert scores == expected, seed
        np.testing.assert_array_equal(scores.precision, expected.precision, err_msg=str(seed))
        again = match(scorer, other_rows, scorer.image_ids).object_of >= 0
        np.testing.assert_array_equal(again[np.isin(rows.image_ids, split.image_ids)], found, err_msg=str(seed))


def test_harmless_changes_move_no_bit(tiny_coco, tmp_path):
    require_unmoved(tiny_coco, tmp_path, 60)


@pytest.mark.slow
def test_harmless_changes_of_real_annotations_move_no_bit(shared, tmp_path):
    require_unmoved(shared / "coco_mini", tmp_path, 500)
