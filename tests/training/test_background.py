"""Scores computed in another process are those computed here, and a killed process is noticed."""

import subprocess
import sys
import time

import numpy as np
import pytest

from ssd_graph.data.coco import load_split
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.training.background import BackgroundScorer


@pytest.fixture
def split(tiny_coco):
    return load_split(tiny_coco, "val")


@pytest.fixture
def rows(split):
    """The ground truth itself, as detections."""
    owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    pixels = split.boxes.astype(np.float64) * np.tile(split.sizes, 2)[owners]
    pixels[:, 2:] -= pixels[:, :2]
    categories = np.array(split.categories.ids)[split.labels - 1]
    return DetectionRows(split.image_ids[owners], categories, pixels, np.linspace(0.5, 1, len(owners)))


def test_scores_are_those_of_this_process_and_come_once(split, rows):
    scorer = BackgroundScorer(split)
    assert scorer.collect(wait=True) is None
    scorer.begin(rows)
    scores = scorer.collect(wait=True)
    assert scores == CocoScorer(split.annotation_file).score(rows, split.image_ids)
    assert scores.stats["AP"] > 0.9
    assert scorer.collect(wait=True) is None


def test_collecting_does_not_wait_unless_told(split, rows):
    scorer = BackgroundScorer(split)
    scorer.begin(rows)
    begin = time.perf_counter()
    assert scorer.collect(wait=False) is None  # a process does not even start in so short a time
    assert time.perf_counter() - begin < 0.1
    assert scorer.collect(wait=True) is not None


def test_a_killed_scorer_is_an_error_and_not_a_silence(split, rows):
    scorer = BackgroundScorer(split)
    scorer.begin(rows)
    scorer._process.kill()
    with pytest.raises(RuntimeError, match="the scoring process ended with code -9"):
        scorer.collect(wait=True)


def test_the_scoring_process_imports_no_torch():
    code = "import sys, ssd_graph.training.background; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
