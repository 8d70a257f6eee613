"""Images without boxes: left out as in the reference, or kept, for training and scoring alike, and never in silence."""

import json
import shutil

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.scoring.compare import compare, load_evaluation
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.training.metrics import read_records
from tests.conftest import train_tiny
from tests.run import command_here

EVALUATE, COMPARE = "tools/eval_onnx.py", "tools/compare.py"
LEFT_OUT = "left out 3 images of instances_val2017.json without boxes, as the reference; --empty-images keep uses them"
KEPT = "3 of 6 images of instances_val2017.json have no boxes: all that is found on them is false"


@pytest.fixture(scope="module")
def data(tiny_coco, tmp_path_factory):
    """tiny_coco without the boxes of every second image."""
    root = tmp_path_factory.mktemp("half") / "coco"
    shutil.copytree(tiny_coco, root)
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        dropped = {image["id"] for image in content["images"][::2]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in dropped]
        file.write_text(json.dumps(content))
    return root


def test_what_is_found_on_a_kept_image_counts_as_false(data):
    dropped, kept = (load_split(data, "val", empty_images=how) for how in ("drop", "keep"))
    assert (len(dropped), len(kept)) == (3, 6)
    truth = json.loads(dropped.annotation_file.read_text())["annotations"]
    found = [(a["image_id"], a["category_id"], a["bbox"], 0.5) for a in truth]
    found += [
        (i, a["category_id"], a["bbox"], 0.9) for i in set(kept.image_ids) - set(dropped.image_ids) for a in truth
    ]
    rows = DetectionRows(*(np.array(column) for column in zip(*found, strict=True)))
    scorer = CocoScorer(dropped.annotation_file)
    assert scorer.score(rows, dropped.image_ids).stats["AP"] == 1
    assert scorer.score(rows, kept.image_ids).stats["AP"] < 0.4


def test_training_scoring_verifying_and_comparing_agree_on_them(data, trained, tmp_path, capsys):
    model, evaluations = trained / "model.onnx", {}
    for how, line in (("drop", LEFT_OUT), ("keep", KEPT)):
        out = tmp_path / how
        train_tiny(data, out / "run", max_steps=1, empty_images=how)
        told = capsys.readouterr().out
        assert line in told
        assert "train2017.json" in told.replace(line, "")
        flags = ("--data", data, "--empty-images", how, "--out", out)
        code, told, error = command_here(EVALUATE, model, *flags, cwd=tmp_path)
        assert (code, error) == (0, "")
        assert line in told
        evaluations[how] = load_evaluation(out / "summary.json")
        summary = evaluations[how].summary
        assert (summary["num_images"], summary["run"]["empty_images"]) == (3 if how == "drop" else 6, how)
        code, told, error = command_here(EVALUATE, model, "--verify", out / "summary.json", cwd=tmp_path)
        assert (code, error) == (0, "")
        assert "detections: the same bits" in told
        code, _, error = command_here(COMPARE, out, out, cwd=tmp_path)
        assert (code, error) == (0, "")
    one, other = (read_records(tmp_path / how / "run" / "metrics.jsonl", "validation")[-1] for how in ("drop", "keep"))
    assert one["step"] == other["step"] == 1
    evaluations["keep"].summary["num_images"] = 3
    with pytest.raises(InputError, match=r"has --empty-images drop and .* not; evaluate both alike"):
        compare(evaluations["drop"], evaluations["keep"], data)


def test_images_without_boxes_train_to_finite_numbers(data, tmp_path):
    train_tiny(data, tmp_path, max_steps=6, empty_images="keep", print_every=1)
    losses = [record["loss"] for record in read_records(tmp_path / "metrics.jsonl", "train")]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
