"""Predictions on files, folders and globs: pictures and a JSON that says the same as the model."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.image_files import find_images
from ssd_graph.onnx_model.predict import predict
from ssd_graph.onnx_model.thresholds import ShownFrom
from tests.run import exit_code

LEAST = 0.06


@pytest.fixture
def folder(tiny_coco, tmp_path):
    """Two images and a text in a folder, one image below it."""
    images = sorted((tiny_coco / "val2017").iterdir())
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for source, name in zip(images, ("b.jpg", "a.JPG", "deep/b.jpg"), strict=False):
        (tmp_path / "in" / name).write_bytes(source.read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def test_files_folders_and_globs_are_found_once_in_order(folder):
    a, b, deep = folder / "a.JPG", folder / "b.jpg", folder / "deep" / "b.jpg"
    assert find_images([str(b), str(folder)]) == [b, a, deep]
    assert find_images([str(folder / "**" / "*.jpg")]) == [b, deep]
    assert find_images([folder], folder / "deep") == [a, b]
    (folder / "._a.JPG").write_bytes(b"what macOS leaves")
    assert find_images([folder]) == [a, b, deep]


@pytest.mark.parametrize("argument", ["gone.jpg", "gone", "in/deep/*.png", "in/*.txt"])
def test_an_argument_without_an_image_is_refused_by_name(folder, monkeypatch, argument):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(InputError, match="no image at"):
        find_images([str(folder), argument])


def test_the_json_is_what_the_model_finds(detector, folder, tmp_path):
    paths = find_images([str(folder)])
    records, faults, _ = predict(detector, paths, tmp_path / "out", ShownFrom(LEAST))
    assert faults == []
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written["images"] == records
    for path, record in zip(paths, records, strict=True):
        image = decode(path)
        num, boxes, scores, labels = (o[0] for o in detector.network(preprocess(image)[None]))
        count = int((scores[:num] >= LEAST).sum())
        assert 0 < len(record["objects"]) == count
        for found, box, score, label in zip(record["objects"], boxes, scores, labels, strict=False):
            assert (found["score"], found["category_id"]) == (float(score), int(label))
            np.testing.assert_allclose(found["box_xyxy"], box * np.tile(image.size, 2), rtol=1e-6)


def test_each_image_gets_a_picture_and_names_do_not_collide(detector, folder, tmp_path):
    predict(detector, find_images([str(folder), str(folder / "deep")]), tmp_path / "out", ShownFrom(LEAST))
    names = {f.name for f in (tmp_path / "out").iterdir()}
    assert names == {"a.jpg", "b.jpg", "b-2.jpg", "predictions.json"}
    assert decode(tmp_path / "out" / "b.jpg").size == decode(folder / "b.jpg").size


def test_names_that_some_disks_take_for_one_and_long_ones_get_a_picture_each(detector, folder, tmp_path):
    names = ("A.png", "a.png", "长" * 80 + ".png")
    for name in names:
        decode(folder / "b.jpg").save(tmp_path / name)
    predict(detector, [tmp_path / name for name in names], tmp_path / "out", ShownFrom(1.0))
    found = {f.name for f in (tmp_path / "out").iterdir()}
    assert found == {"A.jpg", "a-2.jpg", "长" * 80 + ".jpg", "predictions.json"}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_image_by_another_name_is_not_overwritten(detector, folder, tmp_path, link):
    (tmp_path / "out").mkdir()
    link(folder / "b.jpg", tmp_path / "out" / "b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg is an image that was given; choose another folder"):
        predict(detector, [folder / "b.jpg"], tmp_path / "out", ShownFrom(LEAST))


def test_a_picture_never_overwrites_an_image(detector, folder):
    before = (folder / "b.jpg").read_bytes()
    with pytest.raises(InputError, match=r"b\.jpg is an image that was given; choose another folder"):
        predict(detector, find_images([str(folder / "b.jpg")]), folder, ShownFrom(LEAST))
    assert (folder / "b.jpg").read_bytes() == before


def test_a_photograph_taken_sideways_is_turned_upright(detector, folder, tmp_path):
    upright = decode(folder / "b.jpg").resize((300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=100)
    (record,), *_ = predict(detector, [folder / "turned.jpg"], tmp_path / "out", ShownFrom(1.0))
    assert (record["width"], record["height"]) == (300, 200)
    picture = np.asarray(decode(tmp_path / "out" / "turned.jpg"), float)
    assert np.median(np.abs(picture - np.asarray(upright, float))) < 8
    (record,), *_ = predict(detector, [folder / "turned.jpg"], tmp_path / "out", ShownFrom(LEAST))
    assert record["objects"] == detector(folder / "turned.jpg", score=LEAST).to_json() != []


def test_a_high_bar_leaves_pictures_without_boxes(detector, folder, tmp_path):
    (record,), *_ = predict(detector, [folder / "b.jpg"], tmp_path / "out", ShownFrom(1.0))
    assert record["objects"] == []
    assert os.listdir(tmp_path / "out")


def test_a_photo_too_long_for_a_jpeg_is_left_out_and_named(detector, folder, tmp_path):
    Image.new("RGB", (65_501, 1)).save(folder / "long.png")
    records, faults, _ = predict(detector, find_images([str(folder)]), tmp_path / "out", ShownFrom(1.0))
    assert len(records) == 3
    assert "long.png has 65501 x 1 pixels, and a JPEG has 65500 a side at most" in faults[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("in", "--out", "."), "the images of 'in' lie inside --out .; choose another folder with --out"),
        (("in/*.jpg", "--out", "in"), "the images of 'in/*.jpg' lie inside --out in"),
        (("in", "--score", "30"), "score 30.0: give 0 to 1"),
        (("in", "--score", "nan"), "score nan: give 0 to 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(trained, folder, monkeypatch, capsys, words, told):
    monkeypatch.chdir(folder.parent)
    assert exit_code("tools/predict_onnx.py", trained / "model.onnx", *words) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in folder.parent.iterdir()] == ["in"]


def test_a_damaged_photo_is_left_out_and_named_and_the_others_are_not_lost(detector, folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    records, faults, _ = predict(detector, find_images([str(folder)]), tmp_path / "out", ShownFrom(1.0))
    assert records
    assert "broken.jpg" not in {Path(record["file"]).name for record in records}
    (fault,) = faults
    assert "broken.jpg" in fault
    assert (tmp_path / "out" / "predictions.json").is_file()
    with pytest.raises(InputError, match=r"no image can be used; cannot decode .*broken\.jpg"):
        predict(detector, [folder / "broken.jpg"], tmp_path / "none", ShownFrom(1.0))
    assert not (tmp_path / "none").exists()
