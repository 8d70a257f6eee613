"""The whole chain on real COCO images: it learns them, exports, and scores the same everywhere."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.graph.augment import normalise
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.evaluate import evaluate_onnx
from ssd_graph.onnx_model.export import export_onnx, sample_images
from ssd_graph.onnx_model.translate import TorchDetector
from ssd_graph.training.metrics import read_records
from tests import REPOSITORY
from tests.scoring.agreement import largest_difference


def test_nano_learns_four_real_images_by_heart(overfitted):
    assert read_records(overfitted / "metrics.jsonl", "validation")[-1]["AP"] > 0.8


def exact_detections(checkpoint, images):
    """What the network finds in float64, from which torch in float32 may itself be 1e-5 away."""
    detector = TorchDetector(checkpoint)
    network = TorchDetector(checkpoint).network.double()
    with torch.no_grad():
        outputs = network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2).double()))
        return [o.numpy() for o in detector.postprocess(*(o.float() for o in outputs))]


def test_torch_and_onnxruntime_find_the_same_on_50_real_images(overfitted, shared):
    checkpoint, path = load_checkpoint(overfitted / "last.pth"), overfitted / "model.onnx"
    samples = sample_images(shared / "coco_mini" / "val2017")
    export_onnx(checkpoint, path, samples)
    split = load_split(shared / "coco_mini", "train")
    images = np.stack([preprocess(decode(split.path(i))) for i in range(50)])
    with torch.no_grad():
        expected = [o.numpy() for o in TorchDetector(checkpoint)(torch.from_numpy(images))]
    found = OnnxDetector(path)(images)
    assert np.array_equal(found[0], expected[0])
    assert expected[0].sum() > 100
    assert largest_difference(exact_detections(checkpoint, images), found, 0.05, 1e-5) <= 1e-5

    stats = evaluate_onnx(path, load_split(overfitted / "data", "val")).scores.stats
    last = read_records(overfitted / "metrics.jsonl", "validation")[-1]
    assert stats == pytest.approx({name: last[name] for name in stats}, abs=1e-6)


@pytest.mark.slow
def test_r34_trains_30_steps_exports_and_scores_on_real_images(shared, tmp_path):
    data = ["--data", shared / "coco_mini"]
    flags = ["--batch-size", "8", "--max-steps", "30", "--print-every", "5", "--lr", "0.01", "--out", tmp_path]
    for arguments in (
        ["tools/train_graph.py", *data, *flags],
        ["export/to_onnx.py", tmp_path / "last.pth"],
        ["tools/eval_onnx.py", tmp_path / "last.onnx", *data],
    ):
        subprocess.run([sys.executable, *map(str, arguments)], cwd=REPOSITORY, check=True)
    losses = [r["loss"] for r in read_records(tmp_path / "metrics.jsonl", "train")]
    assert len(losses) == 6
    assert losses[-1] < 0.6 * losses[0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_images"] == 159
    assert summary["model"]["preset"] == "ssd300-r34"
