"""A run writes what it promises, resumes to the same bits, and mends nothing silently."""

import json

import pytest
import torch

from ssd_graph.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.evaluate import STAT_NAMES
from ssd_graph.metrics import read_records
from tests.conftest import train_tiny


def test_a_run_leaves_checkpoints_and_metrics_and_nothing_else(trained):
    assert sorted(f.name for f in trained.iterdir()) == [
        "best.pth",
        "last.pth",
        "metrics.jsonl",
        "model.onnx",
    ]
    assert load_checkpoint(trained / "last.pth").step == 6


def test_metrics_record_losses_rate_and_speed(trained):
    records = read_records(trained / "metrics.jsonl", "train")
    assert [r["step"] for r in records] == [2, 4, 6]
    for r in records:
        assert r["loss"] == pytest.approx(r["box_loss"] + r["class_loss"], rel=1e-5)
        assert r["images_per_second"] > 0
    assert records[-1]["learning_rate"] == 0.04 * 4 / 32


def test_validation_follows_every_epoch_and_the_last_step(trained):
    records = read_records(trained / "metrics.jsonl", "validation")
    # 11 training images have boxes; a third of an epoch is a step of four.
    assert [r["step"] for r in records][-1] == 6
    assert all(set(STAT_NAMES) < set(r) for r in records)


def test_the_checkpoint_says_what_made_it(trained):
    checkpoint = load_checkpoint(trained / "last.pth")
    assert checkpoint.model.preset == "ssd300-nano"
    assert checkpoint.categories.ids == (2, 3, 5, 7, 11, 13)
    assert checkpoint.run["recipe"]["batch_size"] == 4


def test_resuming_gives_the_bits_of_a_straight_run(trained, tiny_coco, tmp_path):
    train_tiny(tiny_coco, tmp_path, max_steps=4)
    train_tiny(tiny_coco, tmp_path, max_steps=6, resume=tmp_path / "last.pth")
    straight, resumed = (load_checkpoint(folder / "last.pth") for folder in (trained, tmp_path))
    assert resumed.step == straight.step == 6
    assert torch.equal(resumed.momentum, straight.momentum)
    for name, tensor in straight.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor), name
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl", "train")] == [2, 4, 6]


def test_another_seed_gives_another_run(trained, tiny_coco, tmp_path):
    train_tiny(tiny_coco, tmp_path, max_steps=2, seed=2)
    first = [read_records(folder / "metrics.jsonl", "train")[0]["loss"] for folder in (trained, tmp_path)]
    assert first[0] != first[1]


def test_a_finished_run_cannot_be_resumed(trained, tiny_coco):
    with pytest.raises(InputError, match="nothing left to train"):
        train_tiny(tiny_coco, trained, max_steps=6, resume=trained / "last.pth")
    assert load_checkpoint(trained / "last.pth").step == 6


def test_different_categories_in_the_two_files_are_refused(tiny_coco, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for name in ("train2017", "val2017"):
        (root / name).symlink_to(tiny_coco / name)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((tiny_coco / "annotations" / f"instances_{split}2017.json").read_text())
        if split == "val":
            content["categories"].append({"id": 99, "name": "new"})
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="different categories"):
        train_tiny(root, tmp_path / "out", max_steps=1)
    assert not (tmp_path / "out").exists()
