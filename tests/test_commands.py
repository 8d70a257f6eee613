"""The user's commands, run as processes: results on good input; on bad input one line, exit code 2, no leftovers."""

from importlib.util import find_spec

import pytest
import torch

from ssd_graph.data.coco import load_split
from ssd_graph.onnx_model.evaluate import evaluate_onnx
from ssd_graph.scoring.summary import write_summary
from tests.run import command, command_here, refused

TRAIN, EXPORT, EVALUATE = "tools/train_graph.py", "export/to_onnx.py", "tools/eval_onnx.py"
PREDICT, EVALUATE_GRAPH, COMPARE = "tools/predict_onnx.py", "tools/eval_graph.py", "tools/compare.py"


@pytest.mark.skipif(find_spec("torch_npu") is not None, reason="torch_npu is installed here")
def test_npus_without_torch_npu_says_what_to_install(tmp_path):
    assert "torch_npu is not installed; run `pip install torch_npu==" in refused(TRAIN, "--npus", 8, cwd=tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpus_without_a_gpu_says_what_else_to_use(tmp_path):
    assert "use --cpus 1" in refused(TRAIN, "--gpus", 1, cwd=tmp_path)


def test_training_without_data_says_where_it_looked(tmp_path):
    line = refused(TRAIN, cwd=tmp_path)
    assert "no COCO data set at 'coco'" in line
    assert "--data shapes" in line


def test_resuming_from_a_missing_checkpoint_is_refused_before_anything_is_written(tiny_coco, tmp_path):
    assert "no file gone.pth" in refused(TRAIN, "--data", tiny_coco, "--resume", "gone.pth", cwd=tmp_path)


def test_a_wrong_backbone_is_refused_before_anything_is_written(tiny_coco, tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    line = refused(TRAIN, "--data", tiny_coco, "--backbone", "vgg.pth", cwd=tmp_path)
    assert "vgg.pth has no 'conv1.weight'" in line


@pytest.mark.parametrize(("flag", "value"), [("--validate-every", 0), ("--lr", "nan")])
def test_numbers_out_of_range_are_refused_by_their_flag(flag, value, tmp_path):
    assert f"{flag} {float(value)}" in refused(TRAIN, flag, value, cwd=tmp_path)


def test_an_output_folder_that_cannot_be_written_is_refused(tiny_coco, tmp_path):
    (tmp_path / "file").touch()
    arguments = ("--data", tiny_coco, "--preset", "ssd300-nano", "--out", "file/run", "--batch-size", 2)
    assert "--out" in refused(TRAIN, *arguments, cwd=tmp_path)


def test_exporting_a_missing_file_is_refused(tmp_path):
    assert "no file ckpt.pth" in refused(EXPORT, "ckpt.pth", cwd=tmp_path)


def test_evaluating_a_missing_model_says_how_to_make_it(tiny_coco, tmp_path):
    assert "export/to_onnx.py" in refused(EVALUATE, "model.onnx", "--data", tiny_coco, cwd=tmp_path)


def test_evaluating_on_a_folder_that_is_not_coco_is_refused(trained, tmp_path):
    assert "no COCO data set at" in refused(EVALUATE, trained / "model.onnx", "--data", tmp_path, cwd=tmp_path)


def test_a_checkpoint_is_never_replaced_by_its_export(tmp_path):
    (tmp_path / "ckpt.pth").touch()
    line = refused(EXPORT, "ckpt.pth", "--out", tmp_path / "ckpt.pth", cwd=tmp_path)
    assert "is the checkpoint itself; name another file with --out" in line


@pytest.mark.parametrize("flag", ["--batch-size", "--threads", "--limit"])
def test_numbers_below_one_are_refused(flag, tmp_path):
    assert "give 1 or more" in command_here(EVALUATE, "model.onnx", flag, 0, cwd=tmp_path)[2]


def test_train_export_and_score_as_a_user_would(tiny_coco, tmp_path):
    """The whole chain through the command line, compiled, in one go."""
    flags = ("--preset", "ssd300-nano", "--recipe", "shapes", "--max-steps", 3, "--print-every", 1, "--out", "run")
    code, out, error = command(TRAIN, "--data", tiny_coco, *flags, cwd=tmp_path)
    assert code == 0, error
    assert "first step, compilation included" in out
    for words in ("Final Performance images/sec : ", "Final Train Accuracy : ", "E2E Training Duration sec : "):
        assert words in out
    code, out, error = command(EXPORT, "run/last.pth", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "signal-to-noise ratio against torch" in out
    code, out, error = command(EVALUATE, "run/last.onnx", "--data", tiny_coco, "--report", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "IoU=0.50:0.95" in out
    names = {f.name for f in (tmp_path / "run").iterdir()}
    assert names == {
        *("last.pth", "best.pth", "metrics.jsonl"),
        *(f"step-0000000{step}.pth{end}" for step in (2, 3) for end in ("", ".sha256")),  # 2 ends the first epoch
        *("last.onnx", "detections.json", "summary.json", "report.html"),
    }
    code, out, error = command(EVALUATE, "run/last.onnx", "--verify", "run/summary.json", "--threads", 1, cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "detections: the same bits" in out
    code, out, error = command(PREDICT, "run/last.onnx", tiny_coco / "val2017", "--score", 0.06, cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "objects in 6 images (shown from a score of 0.06: --score) by provider cpu, results in predictions" in out
    assert len(list((tmp_path / "predictions").glob("*.jpg"))) == 6


def test_a_checkpoint_is_scored_on_its_device_as_its_export_is(trained, known_coco, tmp_path):
    """Two processes, one process, the trainer's own flag and the exported model give one AP, which can be compared."""
    scores = []
    for run, arguments in (
        (command, (EVALUATE_GRAPH, trained / "last.pth", "--cpus", 2, "--backend", "eager", "--out", "two")),
        (command_here, (EVALUATE_GRAPH, trained / "last.pth", "--batch-size", 4, "--out", "one")),
        (command_here, (TRAIN, "--eval-only", "--checkpoint", trained / "last.pth", "--out", "train")),
    ):
        code, out, error = run(*arguments, "--data", known_coco, cwd=tmp_path)
        assert code == 0, error
        scores.append(float(out.partition("Final Evaluation Accuracy : ")[2].split()[0]))
    assert {path.name for path in tmp_path.rglob("*")} == {
        *("two", "one", "train"),
        *("summary.json", "detections.json"),
    }
    split = load_split(known_coco, "val")
    exported = evaluate_onnx(trained / "model.onnx", split)
    assert 0.01 < exported.scores.stats["AP"] < 0.99
    assert scores == pytest.approx([exported.scores.stats["AP"]] * 3, abs=1e-6)
    write_summary(tmp_path / "exported", exported.summary, exported.rows)
    code, out, _ = command_here(COMPARE, "one", "exported", "--data", known_coco, "--resamples", 100, cwd=tmp_path)
    assert code == 0
    assert "6 images of instances_val2017.json" in out


def test_scoring_nothing_is_refused(tiny_coco, tmp_path):
    assert "name the checkpoint to score" in refused(TRAIN, "--eval-only", "--data", tiny_coco, cwd=tmp_path)
    assert "no file a.pth" in refused(EVALUATE_GRAPH, "a.pth", "--data", tiny_coco, cwd=tmp_path)
