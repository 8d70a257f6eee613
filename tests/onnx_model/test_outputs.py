"""What another program computed with a raw model is scored as the model itself is; what is wrong with it is said."""

import json
import platform
import shutil
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnxruntime import InferenceSession
from PIL import Image

from ssd_graph import Detector
from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
from ssd_graph.onnx_model.export import ExportOptions, export_onnx, sample_images
from ssd_graph.onnx_model.outputs import output_files
from ssd_graph.scoring.summary import write_summary
from tests import REPOSITORY
from tests.markdown import inline_code, python_blocks
from tests.run import exit_code

PAGE = REPOSITORY / "docs" / "outputs.md"
WHOLE, RAW, LOOP, ASCEND = python_blocks(PAGE)

THREADS = None if platform.machine() == "x86_64" else 1
"""On aarch64 the bits of several threads depend on the size of a batch."""


def session(path):
    """As onnxruntime makes one, but of THREADS."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS or 0
    return InferenceSession(path, options)


def execute(block):
    names = {}
    exec(compile(block, "outputs.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def home(trained, known_coco, tmp_path_factory):
    """A folder with what the page's scripts read, and the outputs that its loop makes."""
    path = tmp_path_factory.mktemp("home")
    checkpoint = load_checkpoint(trained / "last.pth")
    export_onnx(checkpoint, path / "model.raw.onnx", sample_images(None, 1), ExportOptions(raw=True))
    (path / "model.onnx").symlink_to(trained / "model.onnx")
    (path / "coco").symlink_to(known_coco)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(next((known_coco / "val2017").iterdir())).resize((320, 200)).save(path / "photo.jpg", exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(onnxruntime, "InferenceSession", session)
        execute(LOOP)
    return path


@pytest.fixture(scope="module")
def split(known_coco):
    return load_split(known_coco, "val")


@pytest.fixture(scope="module")
def expected(home, split):
    """The raw model's own evaluation."""
    result = evaluate_onnx(home / "model.raw.onnx", split, RunSettings(threads=THREADS))
    assert 0.01 < result.scores.stats["AP"] < 0.99
    return result


@pytest.fixture
def outputs(home, tmp_path):
    """A copy of the outputs, to be changed."""
    return shutil.copytree(home / "outputs", tmp_path / "outputs")


def score(home, split, outputs, **settings):
    return evaluate_onnx(home / "model.raw.onnx", split, RunSettings(outputs=str(outputs), **settings))


def rewrite(outputs, ends, write):
    """Replace the folder's files by others with the same numbers."""
    for old, end in zip(("_ploc.npy", "_plabel.npy"), ends, strict=True):
        for file in outputs.glob(f"*{old}"):
            write(outputs / (file.name.removesuffix(old) + end), np.load(file))
            file.unlink()


def test_ten_lines_find_what_the_detector_finds_bit_by_bit(home, monkeypatch):
    monkeypatch.chdir(home)
    names = execute(WHOLE)
    found = Detector("model.onnx")("photo.jpg", score=0)
    count = int(names["count"])
    assert len(found) == count > 5
    assert np.array_equal(names["boxes"][:count] * np.float64(names["image"].size * 2), found.boxes)
    assert np.array_equal(names["scores"][:count], found.scores)
    assert np.array_equal(names["labels"][:count], found.labels)


def test_the_pages_decoding_and_suppression_are_the_packages(home, monkeypatch):
    monkeypatch.chdir(home)
    names = execute(RAW)
    num, boxes, scores, labels = (o[0] for o in OnnxDetector(home / "model.raw.onnx")(image_of(names)))
    assert len(names["found"]) == num > 5
    assert [row[1] for row in names["found"]] == labels[:num].tolist()
    np.testing.assert_allclose([row[0] for row in names["found"]], scores[:num], rtol=0, atol=1e-5)
    np.testing.assert_allclose([row[2] for row in names["found"]], boxes[:num], rtol=0, atol=1e-5)


def image_of(names):
    return np.asarray(names["image"].resize((300, 300), Image.Resampling.BILINEAR))[None]


def test_outputs_of_the_same_onnxruntime_give_the_same_bits_and_the_model_is_not_run(
    home, split, expected, monkeypatch
):
    monkeypatch.setattr(OnnxDetector, "__call__", None)
    # As --verify asks for what was recorded of a run by OpenVINO.
    found = score(home, split, home / "outputs", batch_size=4, provider="openvino", precision="bf16")
    summary = found.summary
    assert summary["num_detections"] > 20
    for key in ("detections_sha256", "stats", "per_class", "thresholds", "model", "annotations"):
        assert summary[key] == expected.summary[key]
    run = summary["run"]
    assert (run["outputs"], run["provider"], run["precision"]) == (str(home / "outputs"), "none", None)
    assert set(summary) - set(expected.summary) == {"outputs_sha256"}
    assert f"outputs were read from {home / 'outputs'}" in found.describe()


def test_the_pages_loop_for_ascend_makes_the_same_folder(home, split, expected, tmp_path, monkeypatch):
    model = session(home / "model.raw.onnx")
    fake = ModuleType("ais_bench.infer.interface")
    fake.InferSession = lambda device, path: SimpleNamespace(infer=lambda feeds: model.run(None, {"image": feeds[0]}))
    for name in ("ais_bench", "ais_bench.infer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    (tmp_path / "coco").symlink_to(home / "coco")
    monkeypatch.chdir(tmp_path)
    execute(ASCEND)
    assert (
        score(home, split, tmp_path / "outputs").summary["detections_sha256"] == expected.summary["detections_sha256"]
    )
    make, write = (code for code in inline_code(PAGE) if "inputs" in code)
    execute("\n".join([*ASCEND.replace('Path("outputs").mkdir()', make).splitlines()[:-3], f"    {write}"]))
    for file in (tmp_path / "inputs").iterdir():
        ploc, _ = model.run(None, {"image": np.fromfile(file, np.float32).reshape(1, 3, 300, 300)})
        assert np.array_equal(ploc, np.load(tmp_path / "outputs" / f"{file.stem}_ploc.npy"))
    assert len(list((tmp_path / "inputs").iterdir())) == len(split.file_names)


@pytest.mark.parametrize(
    ("ends", "write"),
    [
        (("_0.npy", "_1.npy"), lambda file, numbers: np.save(file, numbers[0])),
        (("_0.bin", "_1.bin"), lambda file, numbers: numbers.tofile(file)),
        (("_ploc.bin", "_plabel.bin"), lambda file, numbers: numbers.astype("<f4").tofile(file)),
    ],
)
def test_every_kind_of_file_gives_the_same_bits(home, split, expected, outputs, ends, write):
    rewrite(outputs, ends, write)
    assert score(home, split, outputs).summary["detections_sha256"] == expected.summary["detections_sha256"]


def test_a_recorded_or_fixed_batch_size_does_not_matter_where_no_model_is_run(trained, home, split, expected, tmp_path):
    fixed = ExportOptions(raw=True, batch=4)
    export_onnx(load_checkpoint(trained / "last.pth"), tmp_path / "model.raw.onnx", sample_images(None, 1), fixed)
    found = score(tmp_path, split, home / "outputs", batch_size=8)
    assert found.summary["detections_sha256"] == expected.summary["detections_sha256"]


def in_batches(split, outputs, size, surplus=0):
    """Replace the folder's files by batches in the order of the annotations, the last one filled up."""
    stems = [name.rpartition(".")[0] for name in split.file_names.tolist()]
    stems += [stems[0]] * surplus
    for end in ("_ploc.npy", "_plabel.npy"):
        arrays = [np.load(outputs / (stem + end)).reshape(-1, 8732) for stem in stems]
        for file in outputs.glob(f"*{end}"):
            file.unlink()
        for start in range(0, len(stems), size):
            np.save(outputs / f"{start:03}{end}", np.stack(arrays[start : start + size]))


def test_batches_in_the_order_of_the_annotations_give_the_same_bits(home, split, expected, outputs):
    in_batches(split, outputs, 4, surplus=2)
    assert score(home, split, outputs).summary["detections_sha256"] == expected.summary["detections_sha256"]


def test_batches_of_other_images_or_shapes_are_refused(home, split, outputs):
    in_batches(split, outputs, 4, surplus=2)
    np.save(outputs / "008_ploc.npy", np.zeros((2, 4, 8732), np.float32))
    with pytest.raises(InputError, match=r"has outputs of 10 images in batches, 6 are scored"):
        score(home, split, outputs)
    (outputs / "008_ploc.npy").unlink()
    np.save(outputs / "000_plabel.npy", np.load(outputs / "000_plabel.npy")[:3])
    with pytest.raises(InputError, match=r"000_plabel\.npy: has the shape \[3, .* not that of a batch"):
        score(home, split, outputs)
    np.save(outputs / "004_ploc.npy", np.float32(1))
    with pytest.raises(InputError, match=r"004_ploc\.npy: is a single number, not an array"):
        score(home, split, outputs)


def test_batches_of_all_images_are_not_taken_for_those_of_the_images_with_boxes(home, split, outputs):
    in_batches(split, outputs, 4, surplus=2)
    few = replace(split, num_empty_images=1)
    with pytest.raises(InputError, match=r"may be all 7 or the 6 with boxes, .* give --empty-images keep for all"):
        output_files(outputs, few)
    assert len(output_files(outputs, replace(few, empty_images="keep"))) == 6
    assert len(output_files(outputs, replace(split, num_empty_images=3), limit=2)) == 2
    more = replace(
        split, image_ids=np.append(split.image_ids, [97, 98, 99]), file_names=np.append(split.file_names, ["x"] * 3)
    )
    assert len(output_files(outputs, more, limit=6)) == 6
    with pytest.raises(InputError, match="9 are scored"):
        output_files(outputs, replace(more, num_empty_images=1), limit=6)


def test_batches_whose_numbers_have_other_lengths_are_refused(home, split, outputs):
    in_batches(split, outputs, 1)
    for end in ("ploc", "plabel"):
        for i in range(6):
            (outputs / f"{i:03}_{end}.npy").rename(outputs / f"out-{i + 8}_{end}.npy")
    with pytest.raises(InputError, match=r"read in the order of their names; number them 01, 02 \.\.\. 11"):
        score(home, split, outputs)


def test_a_limit_reads_those_of_the_first_images(home, split, outputs):
    everything, first = score(home, split, outputs).rows, score(home, split, outputs, limit=2).rows
    kept = np.isin(everything.image_ids, split.image_ids[:2])
    assert all(np.array_equal(one, other[kept]) for one, other in zip(first, everything, strict=True))


def test_half_precision_is_read_alike_from_both_kinds(home, split, expected, outputs, tmp_path):
    other = shutil.copytree(outputs, tmp_path / "other")
    rewrite(outputs, ("_0.bin", "_1.bin"), lambda file, numbers: numbers.astype(np.float16).tofile(file))
    rewrite(other, ("_0.npy", "_1.npy"), lambda file, numbers: np.save(file, numbers.astype(np.float16)))
    one, two = score(home, split, outputs), score(home, split, other)
    assert one.summary["detections_sha256"] == two.summary["detections_sha256"]
    assert one.summary["detections_sha256"] != expected.summary["detections_sha256"]
    assert one.scores.stats == pytest.approx(expected.scores.stats, abs=0.02)


def nan(file):
    numbers = np.load(file)
    numbers[0, 0, 77] = np.nan
    np.save(file, numbers)


def claim(file):
    """A header that claims a terabyte."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (2**38,)})


def archive(file):
    numbers = np.load(file)
    with file.open("wb") as stream:
        np.savez(stream, numbers)


DAMAGES = {
    "missing": (lambda file: file.unlink(), "no file .*: 1 of 12 files are missing"),
    "another shape": (lambda file: np.save(file, np.load(file)[:, :3]), r"has the shape \[1, 3, 8732\], not \["),
    "transposed": (lambda file: np.save(file, np.load(file).swapaxes(1, 2)), "has the shape"),
    "integers": (lambda file: np.save(file, np.load(file).astype(np.int32)), "holds int32, not float32 or float16"),
    "doubles": (lambda file: np.save(file, np.load(file).astype(float)), "holds float64"),
    "no number": (nan, "holds numbers that are not finite"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-100]), r"\.npy: "),
    "empty": (lambda file: file.write_bytes(b""), r"\.npy: "),
    "a claim": (claim, r"\.npy: "),
    "objects": (lambda file: np.save(file, np.array([{}]), allow_pickle=True), r"\.npy: "),
    "an archive": (archive, "is an archive"),
    "an open bracket": (
        lambda file: file.write_bytes(file.read_bytes().replace(b"}", b" ", 1)),
        "is damaged, or not an",
    ),
    "a long header": (lambda file: file.write_bytes(b"\x93NUMPY\1\0\x20\x4e" + b" " * 20_000), "is damaged, or not an"),
    "two kinds": (lambda file: shutil.copy(file, file.with_name(file.name.replace("plabel", "1"))), r"\*_ploc.npy and"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_the_files_name(home, split, outputs, damage):
    change, words = DAMAGES[damage]
    file = sorted(outputs.glob("*_plabel.npy"))[4]
    change(file)
    with pytest.raises(InputError, match=words) as caught:
        score(home, split, outputs)
    assert (outputs.name if damage == "two kinds" else file.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bin_file_of_another_size_is_refused(home, split, outputs):
    rewrite(outputs, ("_0.bin", "_1.bin"), lambda file, numbers: numbers.astype(float).tofile(file))
    with pytest.raises(InputError, match=r"_0\.bin: has 279,424 bytes, not 139,712 \(float32\) or 69,856 \(float16\)"):
        score(home, split, outputs)


def test_images_of_one_name_and_a_missing_folder_are_refused(home, split, outputs, tmp_path):
    names = split.file_names.astype(object)
    names[1] = f"deep/{names[0]}"
    with pytest.raises(InputError, match=f"several images named {names[0][:-4]}"):
        output_files(outputs, replace(split, file_names=names))
    with pytest.raises(InputError, match=r"cannot read the folder .*gone: No such file"):
        score(home, split, tmp_path / "gone")


def test_the_command_ends_in_a_line_and_writes_nothing(home, outputs, tmp_path, capsys):
    use = (home / "model.raw.onnx", "--data", home / "coco", "--out", tmp_path / "out", "--outputs", outputs)
    for words, told in (
        ((*use, "--threads", "2"), "--threads is for a model that is run; with --outputs none is"),
        ((home / "model.onnx", *use[1:]), "is not raw; --outputs are those of a model"),
    ):
        assert exit_code("tools/eval_onnx.py", *words) == 2
        assert told in capsys.readouterr().err
    nan(next(outputs.glob("*_ploc.npy")))
    assert exit_code("tools/eval_onnx.py", *use) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_scores_reports_and_verifies(home, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    use = ("model.raw.onnx", "--data", "coco", "--outputs", "outputs")
    assert exit_code("tools/eval_onnx.py", *use, "--out", tmp_path, "--report") == 0
    assert "by another program" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["run"]["outputs"] == str(home / "outputs")
    write_summary(tmp_path / "run", expected.summary, expected.rows)
    for summary in (tmp_path / "summary.json", tmp_path / "run" / "summary.json"):
        words = use if summary.parent.name == "run" else use[:3]
        assert exit_code("tools/eval_onnx.py", *words, "--verify", summary) == 0
        assert "detections: the same bits" in capsys.readouterr().out
