"""Evaluations without a network: detections made from the ground truth, some moved, dropped, confused or invented."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ssd_graph.data.coco import load_split
from ssd_graph.onnx_model.evaluate import OnnxResult
from ssd_graph.report.page import write_report
from ssd_graph.scoring.detections import DetectionRows, join_rows
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import match
from ssd_graph.scoring.thresholds import best_thresholds

TRAINING = "".join(
    json.dumps(record) + "\n"
    for step in range(20, 2001, 20)
    for record in (
        {"event": "train", "step": step, "loss": 900 / step, "class_loss": 600 / step, "box_loss": 300 / step},
        {"event": "validation", "step": step, "AP": step / 5000},
    )[: 1 + (step % 500 == 0)]
)


def made_detections(split, seed=0, keep=0.8):
    """A share `keep` of a split's boxes with jitter, one in six with a wrong category, and some noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, image_id in enumerate(split.image_ids):
        boxes, labels = split.boxes_of(i)
        kept = rng.random(len(boxes)) < keep
        noise = np.sort(rng.random((3, 2, 2)), 1).reshape(3, 4) * [0.9, 0.9, 1, 1]
        boxes = np.concatenate([boxes[kept] + rng.normal(0, 0.01, (kept.sum(), 4)), noise])
        labels = np.concatenate([labels[kept], rng.integers(1, len(split.categories.ids) + 1, 3)])
        wrong = rng.random(len(labels)) < 1 / 6
        labels[wrong] = labels[wrong] % len(split.categories.ids) + 1
        scores = np.concatenate([rng.beta(5, 2, kept.sum()), rng.beta(1, 6, 3)]).clip(0.05)
        xyxy = boxes * np.tile(split.sizes[i], 2)
        xywh = np.concatenate([xyxy[:, :2], np.maximum(xyxy[:, 2:] - xyxy[:, :2], 1)], 1)
        categories = np.array(split.categories.ids)[labels - 1]
        parts.append(DetectionRows(np.full(len(labels), image_id), categories, xywh, scores))
    return join_rows(parts)


def true_detections(split, height=1.0):
    """Every box of a split whose images all have one, cut to a share of its height, which is then its IoU."""
    owner = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    xyxy = split.boxes * np.tile(split.sizes, 2)[owner]
    xywh = np.concatenate([xyxy[:, :2], (xyxy[:, 2:] - xyxy[:, :2]) * [1, height]], 1)
    categories = np.array(split.categories.ids)[split.labels - 1]
    return DetectionRows(split.image_ids[owner], categories, xywh, np.full(len(xywh), 0.5))


def as_result(split, rows, preset="ssd300-nano", num_images=None):
    """What `evaluate_onnx` returns for these detections on the first images."""
    num_images = len(split) if num_images is None else num_images
    scorer, image_ids = CocoScorer(split.annotation_file), split.image_ids[:num_images]
    scores, matches = scorer.score(rows, image_ids), match(scorer, rows, image_ids)
    return OnnxResult(
        matches,
        scores,
        {
            "stats": scores.stats,
            "per_class": scores.per_class,
            "thresholds": best_thresholds(matches, scorer.category_ids, list(scores.per_class)),
            "num_images": num_images,
            "images_per_second": 31.4,
            "detections_sha256": "d" * 64,
            "model": {"file": "model.onnx", "sha256": "m" * 64, "preset": preset, "checkpoint_sha256": "c" * 64},
            "annotations": {"file": split.annotation_file.name, "sha256": "a" * 64},
            "run": {"provider": "cpu", "threads": 1, "batch_size": 8},
            "versions": {"onnxruntime": "1.22.0"},
        },
    )


def small_split(root, names, categories=("cat", "dog"), size=(80, 60), noise=False):
    """A COCO folder of images called `names` with one box of each category each."""
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    images, annotations, rng = [], [], np.random.default_rng(0)
    for n, name in enumerate(names, start=1):
        pixels = rng.integers(0, 256 if noise else 1, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / name, "JPEG", quality=95)
        images.append({"id": n, "file_name": name, "width": size[0], "height": size[1]})
        for k in range(len(categories)):
            box = [size[0] * 0.1, size[1] * 0.1 * k, size[0] * 0.3, size[1] * 0.3]
            annotation = {"id": len(annotations) + 1, "image_id": n, "category_id": k + 1, "bbox": box}
            annotations.append({**annotation, "area": box[2] * box[3], "iscrowd": 0})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, start=1)],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return load_split(root, "val")


@pytest.fixture(scope="session")
def shapes_page(tiny_coco, tmp_path_factory):
    """The report of a made-up evaluation of six classes, with every section; and the split."""
    folder = tmp_path_factory.mktemp("shapes_page")
    split = load_split(tiny_coco, "val")
    (folder / "metrics.jsonl").write_text(TRAINING)
    seconds = np.random.default_rng(0).gamma(20, 0.004, 200)
    result = dataclasses.replace(as_result(split, made_detections(split)), seconds=tuple(seconds.tolist()))
    write_report(folder / "report.html", result, split, folder / "metrics.jsonl")
    return folder / "report.html"


@pytest.fixture(scope="session")
def coco_page(shared, tmp_path_factory):
    """The report of a made-up evaluation of eighty classes on real images."""
    folder = tmp_path_factory.mktemp("coco_page")
    split = load_split(shared / "coco_mini", "val")
    write_report(folder / "report.html", as_result(split, made_detections(split)), split)
    return folder / "report.html"


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory):
    """The report of an evaluation whose every name is long or tries to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    markup = '"><img src=x onerror=alert(1)>&<script>alert(2)<'
    (folder / "data").mkdir()
    names = [f"{markup.replace('/', '')}.jpg", "wide" * 40 + ".jpg"]
    split = small_split(folder / "data", names, (markup, "long" * 30, "a word " * 20))
    result = as_result(split, made_detections(split, keep=0.5), preset=markup)
    write_report(folder / "report.html", result, split)
    return folder / "report.html"
