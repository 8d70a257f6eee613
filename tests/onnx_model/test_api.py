"""`from ssd_graph import Detector`: images of any kind in, the detections of the other programs out, without torch."""

import json
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ssd_graph
from ssd_graph import Detector, InputError
from ssd_graph.data.coco import Categories, load_split
from ssd_graph.data.decode import decode
from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
from ssd_graph.onnx_model.predict import predict
from ssd_graph.onnx_model.thresholds import ShownFrom, write_thresholds
from ssd_graph.scoring.detections_file import load_detections
from tests import REPOSITORY
from tests.markdown import python_blocks

DETECT, FOLDER, OPENCV, COCO, TRAIN = python_blocks(REPOSITORY / "docs" / "python.md")


@pytest.fixture(scope="module")
def files(tiny_coco):
    return sorted((tiny_coco / "val2017").iterdir())


@pytest.fixture
def here(trained, tiny_coco, files, tmp_path, monkeypatch):
    """The current folder, with what the page's snippets read."""
    (tmp_path / "model.onnx").write_bytes((trained / "model.onnx").read_bytes())
    write_thresholds(tmp_path / "model.onnx", {"overall": {"score": 0.06}, "per_class": {}}, Categories((), ()))
    (tmp_path / "photo.jpg").symlink_to(files[0])
    (tmp_path / "photos").symlink_to(tiny_coco / "val2017")
    (tmp_path / "coco").symlink_to(tiny_coco)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(a, b):
    return a.names == b.names and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in ("boxes", "scores", "labels")
    )


def run_python(*arguments):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_torch(code):
    return run_python("-c", "import sys; sys.modules.update(torch=None, onnx=None)\n" + code)


def test_importing_the_package_loads_nothing_heavy():
    told = without_torch("import ssd_graph; print(sorted({'numpy', 'PIL', 'ssd_graph.cli'} & set(sys.modules)))")
    assert told == "[]\n"


@pytest.mark.parametrize(("name", "switch"), [("Detector", None), ("TrainOptions", "0")])
def test_only_training_keeps_torch_from_loading_its_plug_ins(name, switch, monkeypatch):
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    code = f"import os; from ssd_graph import {name}; print(os.environ.get('TORCH_DEVICE_BACKEND_AUTOLOAD'))"
    assert run_python("-c", code) == f"{switch}\n"


def test_the_package_lends_what_it_names_and_nothing_else():
    assert set(ssd_graph.__all__) == set(ssd_graph._HOMES) < set(dir(ssd_graph))
    assert all(getattr(ssd_graph, name).__name__ == name for name in ssd_graph.__all__ if name != "RECIPES")
    with pytest.raises(AttributeError, match="no attribute 'detector'"):
        _ = ssd_graph.detector


def test_without_torch_it_finds_what_the_evaluation_finds_bit_by_bit(trained, tiny_coco, here):
    without_torch(COCO)
    found = load_detections(here / "detections.json")
    expected = evaluate_onnx(
        trained / "model.onnx", load_split(tiny_coco, "val", empty_images="keep"), RunSettings(empty_images="keep")
    ).rows
    assert len(found) > 20
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))


def test_it_finds_what_predictions_hold(detector, files, tmp_path):
    predict(detector, files, tmp_path, ShownFrom(0.06))
    content = json.loads((tmp_path / "predictions.json").read_text())
    for found, record in zip(detector(files, score=0.06), content["images"], strict=True):
        objects = record["objects"]
        assert len(found) == len(objects) > 0
        assert found.boxes.tolist() == [o["box_xyxy"] for o in objects]
        assert found.scores.tolist() == [o["score"] for o in objects]
        assert (found.labels.tolist(), found.names) == (
            [o["category_id"] for o in objects],
            [o["category"] for o in objects],
        )


def test_a_file_an_image_and_an_array_are_one(detector, files):
    image = decode(files[0])
    found = detector(files[0], 0)
    assert len(found) > 5
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float64, np.float32, np.int64)
    assert (np.diff(found.scores) <= 0).all()
    for form in (
        str(files[0]),
        Image.open(files[0]),
        np.asarray(image),
        np.asarray(image)[..., ::-1].copy()[..., ::-1],
    ):
        assert same(detector(form, score=0), found)


def test_a_copy_for_another_process_finds_the_same(detector, files):
    assert same(pickle.loads(pickle.dumps(detector))(files[0], score=0), detector(files[0], score=0))


def test_many_at_once_are_as_each_alone(detector, files):
    mixed = [files[0], decode(files[1]), np.asarray(decode(files[2])), *map(str, files[:4] * 2)]
    together = detector(iter(mixed), score=0)
    assert len(together) == len(mixed) > 8
    assert all(same(one, detector(picture, score=0)) for one, picture in zip(together, mixed, strict=True))
    assert detector([]) == []


def test_files_and_images_are_turned_upright_and_arrays_are_not(detector, files, tmp_path):
    upright, exif = decode(files[0]), Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected = detector(upright, score=0)
    assert same(detector(tmp_path / "turned.png", score=0), expected)
    assert same(detector(Image.open(tmp_path / "turned.png"), score=0), expected)
    assert not same(detector(np.asarray(Image.open(tmp_path / "turned.png")), score=0), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16"])
def test_an_image_of_another_mode_is_what_its_file_is(detector, files, tmp_path, mode):
    grey = decode(files[0]).convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    image = (
        sixteen
        if mode == "I;16"
        else decode(files[0]).convert("RGBA" if mode in ("LA", "RGBA") else "RGB").convert(mode)
    )
    image.save(tmp_path / "a.png")
    assert same(detector(image, score=0), detector(tmp_path / "a.png", score=0))
    if mode in ("L", "I;16"):
        assert same(detector(image, score=0), detector(grey, score=0))


def test_the_least_score_is_the_calls_or_the_models_or_four_tenths(detector, trained, files, tmp_path):
    everything = detector(files[0], score=0)
    bar = float(everything.scores[3])
    assert len(detector(files[0], score=bar)) == (everything.scores >= bar).sum() >= 4
    assert len(detector(files[0])) == (everything.scores >= 0.4).sum()
    (tmp_path / "own.onnx").write_bytes((trained / "model.onnx").read_bytes())
    best = {name: {"score": 0.07 if i else 0.9} for i, name in enumerate(detector.categories.names)}
    write_thresholds(tmp_path / "own.onnx", {"overall": {"score": 0.5}, "per_class": best}, detector.categories)
    own = Detector(tmp_path / "own.onnx", threads=1)(files[0])
    least = np.where(everything.labels == detector.categories.ids[0], 0.9, 0.07)
    assert own.scores.tolist() == everything.scores[everything.scores >= least].tolist() != []


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((30, 30, 3), np.float32), r"an array of float32 \[30, 30, 3\] is no image; give a file's path"),
        (np.zeros((3, 30, 30), np.uint8), r"an array of uint8 \[3, 30, 30\]"),
        (np.zeros((30, 30), np.uint8), r"an array of uint8 \[30, 30\]"),
        (np.zeros((0, 30, 3), np.uint8), r"an array of uint8 \[0, 30, 3\]"),
        ("gone.jpg", r"cannot decode gone\.jpg: .*No such file"),
        (Image.new("F", (9, 9)), "cannot use an image of Pillow: it has 32 bits a pixel"),
        (Image.new("RGB", (0, 10)), "an image of 0 x 10 pixels is no image"),
        (7, "an object of type int is no image"),
        ([None], "an object of type NoneType is no image"),
    ],
)
def test_what_is_no_image_is_refused_in_a_line(detector, image, words):
    for images in (image, [image] if not isinstance(image, list) else image):
        with pytest.raises(InputError, match=words) as caught:
            detector(images)
        assert "\n" not in str(caught.value)
    assert issubclass(InputError, ValueError)


def test_an_image_whose_file_is_closed_is_refused_in_a_line(detector, files):
    with Image.open(files[0]) as image:
        pass
    with pytest.raises(InputError, match=r"its file is closed; call its load\(\) before"):
        detector(image)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), "0.4"])
def test_a_score_that_is_none_is_refused(detector, files, score):
    with pytest.raises(InputError, match=r"score .*: give 0 to 1"):
        detector(files[0], score=score)


@pytest.mark.parametrize(
    ("changes", "words"), [({"provider": "npu"}, "give one of cpu"), ({"threads": 0}, "give 1 to")]
)
def test_a_provider_or_threads_that_make_no_sense_are_refused(trained, changes, words):
    with pytest.raises(InputError, match=words):
        Detector(trained / "model.onnx", **changes)


@pytest.mark.parametrize("model", [None, 7, b"model.onnx"])
def test_what_is_no_path_of_a_model_is_refused(model):
    with pytest.raises(InputError, match="is no model; give the path"):
        Detector(model)


def test_the_pages_snippets_run(here, files, capsys, monkeypatch):
    frames = iter([np.asarray(decode(file))[..., ::-1] for file in files[:2]])
    reader = SimpleNamespace(read=lambda: (frame is not None, frame) if [frame := next(frames, None)] else ())
    fake = SimpleNamespace(
        imread=lambda path: np.asarray(decode(here / path))[..., ::-1], VideoCapture=lambda _: reader
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    names = {}
    for block in (DETECT, FOLDER, OPENCV):
        exec(compile(block.replace('"model.onnx")', '"model.onnx", threads=1)'), "python.md", "exec"), names)
    assert names["video"] is reader
    assert same(names["found"], names["detector"](files[1]))
    assert f"{files[5].name} " in capsys.readouterr().out


def test_the_pages_training_is_a_run(here, monkeypatch):
    asked = []
    monkeypatch.setattr("ssd_graph.training.train.train", asked.append)
    exec(compile(TRAIN, "python.md", "exec"), {"__name__": "__main__"})
    assert (asked[0].preset, asked[0].recipe.name, asked[0].max_steps) == ("ssd300-nano", "shapes", 500)


@pytest.mark.slow
def test_the_pages_training_trains_in_a_script(here):
    (here / "mine.py").write_text(TRAIN.replace("max_steps=500", "max_steps=2"))
    run_python("mine.py")
    assert (here / "runs" / "mine" / "best.pth").is_file()
