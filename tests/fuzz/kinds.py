"""What is damaged, and who reads it: each kind writes one damaged file into its folder and then uses it as users do."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.commands import check_coco, compare, convert_checkpoint, eval_onnx, predict_onnx, to_coco
from ssd_graph.config import AugmentConfig
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.loader import Loader
from ssd_graph.graph.model import SSD300, skeleton
from ssd_graph.graph.state import StateLayout
from ssd_graph.scoring.detections_file import detections_json, load_detections
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.scoring.matching import match
from tests.conftest import train_tiny
from tests.fuzz import material
from tests.fuzz.files import damaged_array, damaged_image, damaged_onnx, damaged_weights
from tests.fuzz.mixed import use_mixed, write_mixed
from tests.fuzz.mutations import HOSTILE_VALUES, damaged_bytes, damaged_json
from tests.scoring.harmless import changed

TRAIN, VAL = (Path("annotations") / f"instances_{split}2017.json" for split in ("train", "val"))


class Kind(NamedTuple):
    """A sort of case; both functions are called in the case's own folder, which is the working folder."""

    num_cases: int
    write: Callable[[Random, Path], None]
    """Write the damaged file; the path is the folder of sound ones (see material.py)."""
    use: Callable[[Path], object]
    """Read the damaged file."""


def command(main, *arguments):
    """Run a command in this process."""
    sys.argv = [f"ssd-{main.__module__.rpartition('.')[2]}", *map(str, arguments)]
    main()


def annotations(file):
    def write(rng, sound):
        (Path("coco") / "annotations").mkdir(parents=True)
        for split in ("train", "val"):
            Path("coco", f"{split}2017").symlink_to(sound / "coco" / f"{split}2017")
        Path("coco", file).write_bytes(damaged_json(rng, material.text(sound / "coco" / file)))

    return write


def into(name, damage, *sources):
    """Damage one of the sound files `sources` and write it as `name`."""

    def write(rng, sound):
        Path(name).write_bytes(damage(rng, sound / rng.choice(sources)))

    return write


def json_of(rng, file):
    return damaged_json(rng, material.text(file))


def train_on(split):
    assert len(split.fingerprint) == 64
    next(Loader(split, 2, AugmentConfig(), seed=1, workers=0).batches())


def load_and_train(sound):
    train_on(load_split(Path("coco"), "train"))


def check_and_clean(sound):
    """What --fix wrote must load."""
    try:
        cleaned = "clean/annotations/instances_train2017.json"
        command(check_coco.main, "coco", "--split", "train", "--workers", 1, "--fix", cleaned)
    except SystemExit as end:
        if end.code == 1:
            Path("clean/train2017").symlink_to("../coco/train2017")
            try:
                train_on(load_split(Path("clean"), "train"))
            except InputError as error:
                raise AssertionError("what --fix wrote does not load") from error
        raise


def score(sound):
    """Its report uses all that CocoScorer can do."""
    command(eval_onnx.main, sound / "model.onnx", "--data", "coco", "--threads", 1, "--out", "out", "--report")


def use_truth(sound):
    split = load_split(sound / "coco", "val")
    rows = load_detections(sound / "scores" / "detections.json")
    scorer = CocoScorer(Path("coco") / VAL)
    scorer.score(rows, split.image_ids)
    match(scorer, rows, split.image_ids)


def write_harmless(rng, sound):
    """A file whose ids, order, keys and names are others, and the detections that go with it."""
    content = json.loads((sound / "coco" / VAL).read_text())
    rows = load_detections(sound / "scores" / "detections.json")
    content, rows = changed(np.random.default_rng(rng.randrange(2**32)), content, rows)
    Path("coco", VAL).parent.mkdir(parents=True)
    Path("coco", VAL).write_text(json.dumps(content))
    Path("detections.json").write_text(detections_json(rows))


def score_the_same(sound):
    """A wrong number is a fault like a traceback."""
    scores = CocoScorer(Path("coco") / VAL).score(load_detections(Path("detections.json")))
    assert scores == CocoScorer(sound / "coco" / VAL).score(load_detections(sound / "scores" / "detections.json"))


def score_detections(sound):
    split = load_split(sound / "coco", "val")
    CocoScorer(split.annotation_file).score(load_detections(Path("detections.json")), split.image_ids)


def use_checkpoint(sound):
    checkpoint = load_checkpoint(Path("input.pth"))
    SSD300(checkpoint.model).load_state_dict(checkpoint.weights)
    checkpoint.state(StateLayout.of(skeleton(checkpoint.model)), "cpu")


def write_run(rng, sound):
    into("input.pth", damaged_weights, "last.pth")(rng, sound)
    Path("out").mkdir()
    Path("out/metrics.jsonl").write_bytes((sound / "run" / "metrics.jsonl").read_bytes())


def resume(sound):
    train_tiny(sound / "coco", Path("out"), resume="input.pth", max_steps=5, workers=0)


def write_weights_to_convert(rng, sound):
    source, to = rng.choice(
        (("asc.pt", "ssd_graph"), ("ref.pt", "ssd_graph"), ("last.pth", "asc"), ("last.pth", "ref"))
    )
    into("input.pth", damaged_weights, source)(rng, sound)
    Path("to").write_text(to)


def convert(sound):
    to = Path("to").read_text()
    command(convert_checkpoint.main, "input.pth", "--out", "out.pth", "--to", to, "--data", sound / "coco")


def evaluate(sound):
    options = ("--data", sound / "coco", "--limit", 2, "--threads", 1, "--out", "out")
    command(eval_onnx.main, "input.onnx", *options)


def write_image(rng, sound):
    source = rng.choice(sorted((sound / "images").iterdir()))
    name = f"input{source.suffix}"
    Path("coco/annotations").mkdir(parents=True)
    Path("coco/train2017").mkdir()
    Path("coco/train2017", name).write_bytes(damaged_image(rng, source))
    content = {
        "images": [{"id": 1, "file_name": name, "width": 96, "height": 72}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40]}],
        "categories": [{"id": 1, "name": "noise"}],
    }
    Path("coco", TRAIN).write_text(json.dumps(content))


def read_image(sound):
    (image,) = Path("coco/train2017").iterdir()
    assert preprocess(decode(image)).shape == (300, 300, 3)
    load_and_train(sound)


def check_image(sound):
    command(check_coco.main, "coco", "--split", "train", "--workers", 1)


def predict(sound):
    (image,) = Path("coco/train2017").iterdir()
    command(predict_onnx.main, sound / "model.onnx", image, "--threads", 1, "--score", 0.06, "--out", "out")


def write_summary(rng, sound):
    Path("summary.json").write_bytes(damaged_json(rng, material.text(sound / "scores" / "summary.json")))
    Path("detections.json").write_bytes((sound / "scores" / "detections.json").read_bytes())


def verify(sound):
    options = ("--data", sound / "coco", "--verify", "summary.json", "--limit", 4, "--provider", "cpu")
    command(eval_onnx.main, sound / "model.onnx", *options)


def compare_summaries(sound):
    command(compare.main, "summary.json", sound / "scores", "--data", sound / "coco", "--resamples", 10)


def write_metrics(rng, sound):
    Path("metrics.jsonl").write_bytes(
        b"\n".join(
            damaged_json(rng, json.loads(line)) if rng.random() < 0.3 else line
            for line in (sound / "run" / "metrics.jsonl").read_bytes().splitlines()
        )
        if rng.random() < 0.8
        else damaged_bytes(rng, (sound / "run" / "metrics.jsonl").read_bytes())
    )
    Path("model.onnx").symlink_to(sound / "model.onnx")


def report(sound):
    options = ("--data", sound / "coco", "--limit", 2, "--threads", 1, "--out", "out", "--report")
    command(eval_onnx.main, "model.onnx", *options)


def write_layout(rng, sound):
    """A data set of another layout with one of its text files damaged."""
    layout = rng.choice(sorted((sound / "layouts").iterdir()))
    shutil.copytree(layout, "in")
    file = rng.choice(sorted(f for f in Path("in").rglob("*.*") if f.suffix in (".yaml", ".txt", ".xml", ".json")))
    whole = file.suffix == ".json" and rng.random() < 0.7
    file.write_bytes(
        damaged_json(rng, material.text(layout / file.relative_to("in"))) if whole else _damaged_text(rng, file)
    )


def _damaged_text(rng, file):
    """Damaged bytes, or a word exchanged for a hostile one."""
    content = file.read_bytes()
    if rng.random() < 0.4:
        return damaged_bytes(rng, content)
    start, end = rng.choice([found.span() for found in re.finditer(rb"[\w./-]+", content)])
    return content[:start] + str(rng.choice(HOSTILE_VALUES)).encode(errors="replace") + content[end:]


def convert_layout(sound):
    """What was written must load."""
    try:
        command(to_coco.main, "in", "out")
    except SystemExit as end:
        if end.code != 2:
            try:
                train_on(load_split(Path("out"), "train"))
            except InputError as error:
                raise AssertionError("what to_coco wrote does not load") from error
        raise


def write_outputs(rng, sound):
    """A folder of another program's outputs with one file damaged, gone, or of another name."""
    shutil.copytree(sound / "outputs", "outputs", copy_function=os.symlink)
    file = rng.choice(sorted(Path("outputs").iterdir()))
    content = damaged_array(rng, file)
    file.unlink()
    if rng.random() < 0.9:
        names = (file.name, file.name, file.name, file.stem + ".bin", "x" + file.name)
        Path("outputs", rng.choice(names)).write_bytes(content)


def score_outputs(sound):
    command(eval_onnx.main, sound / "raw.onnx", "--outputs", "outputs", "--data", sound / "coco", "--out", "out")


KINDS = {
    "coco-train": Kind(300, annotations(TRAIN), load_and_train),
    "coco-check": Kind(250, annotations(TRAIN), check_and_clean),
    "coco-score": Kind(150, annotations(VAL), score),
    "truth": Kind(150, annotations(VAL), use_truth),
    "harmless": Kind(150, write_harmless, score_the_same),
    "mixed": Kind(200, write_mixed, use_mixed),
    "detections": Kind(200, into("detections.json", json_of, "scores/detections.json"), score_detections),
    "checkpoint": Kind(250, into("input.pth", damaged_weights, "last.pth"), use_checkpoint),
    "resume": Kind(100, write_run, resume),
    "convert": Kind(200, write_weights_to_convert, convert),
    "onnx": Kind(250, into("input.onnx", damaged_onnx, "model.onnx"), evaluate),
    "onnx-raw": Kind(100, into("input.onnx", damaged_onnx, "raw.onnx"), evaluate),
    "outputs": Kind(200, write_outputs, score_outputs),
    "image": Kind(250, write_image, read_image),
    "image-check": Kind(150, write_image, check_image),
    "image-predict": Kind(100, write_image, predict),
    "verify": Kind(150, write_summary, verify),
    "compare": Kind(150, write_summary, compare_summaries),
    "layouts": Kind(300, write_layout, convert_layout),
    "metrics": Kind(100, write_metrics, report),
}
