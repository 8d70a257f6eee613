"""What ends a run before its last step: an AP that is reached, or validations that bring no better one."""

from dataclasses import replace

import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.training.metrics import read_records
from tests.conftest import train_tiny


def test_reaching_the_threshold_ends_the_run_and_the_best_model_stays(tiny_coco, tmp_path, capsys):
    recipe = replace(RECIPES["shapes"], batch_size=4, evaluation_epochs=(1.0,), threshold=0.0)
    train_tiny(tiny_coco, tmp_path, max_steps=40, recipe=recipe)
    assert "reaches --threshold 0.0" in capsys.readouterr().out
    assert read_records(tmp_path / "metrics.jsonl", "train")[-1]["step"] == 3
    assert load_checkpoint(tmp_path / "best.pth").step == 3
    with pytest.raises(InputError, match=r"nothing left to train: AP \S+ reaches --threshold 0.0"):
        train_tiny(tiny_coco, tmp_path, max_steps=40, recipe=recipe, resume="auto")


def test_an_ap_below_the_threshold_ends_nothing(tiny_coco, tmp_path):
    recipe = replace(RECIPES["shapes"], batch_size=4, evaluation_epochs=(1.0,), threshold=1.0)
    train_tiny(tiny_coco, tmp_path, max_steps=4, recipe=recipe)
    assert load_checkpoint(tmp_path / "last.pth").step == 4


def test_patience_counts_validations_without_a_better_ap_over_a_resumption_too(tiny_coco, tmp_path, monkeypatch):
    aps = {3: 0.2, 6: 0.3, 9: 0.3, 11: 0.25, 14: 0.4}
    scored = CocoScorer.score

    def score(self, rows, image_ids=None):
        found = scored(self, rows, image_ids)
        return replace(found, stats=found.stats | {"AP": aps[steps.pop(0)]})

    monkeypatch.setattr(CocoScorer, "score", score)
    recipe = replace(RECIPES["shapes"], batch_size=4, evaluation_epochs=(1.0, 2.0, 3.0, 4.0, 5.0), patience=2)
    steps = list(aps)
    train_tiny(tiny_coco, tmp_path / "whole", max_steps=15, recipe=recipe)
    steps = list(aps)
    train_tiny(tiny_coco, tmp_path / "cut", max_steps=9, recipe=recipe)
    train_tiny(tiny_coco, tmp_path / "cut", max_steps=15, recipe=recipe, resume="auto")
    for run in ("whole", "cut"):
        assert [r["step"] for r in read_records(tmp_path / run / "metrics.jsonl", "validation")] == [3, 6, 9, 11]
        assert load_checkpoint(tmp_path / run / "best.pth").step == 6
    whole, cut = (load_checkpoint(tmp_path / run / "last.pth").tensors for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with pytest.raises(InputError, match=r"no better AP than 0\.3000 in 2 validations"):
        train_tiny(tiny_coco, tmp_path / "cut", max_steps=15, recipe=recipe, resume="auto")
