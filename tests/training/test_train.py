"""A run writes what it promises, resumes to the same bits, and mends nothing silently."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.checkpoints.convert import export_published
from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.files import locked_folder
from ssd_graph.scoring.evaluate import STAT_NAMES
from ssd_graph.training.distributed import World
from ssd_graph.training.metrics import read_records
from ssd_graph.training.validate import Validations
from tests.conftest import edit_annotations, train_tiny


def test_a_run_leaves_checkpoints_and_metrics_and_nothing_else(trained):
    steps = [3, 6]  # after an epoch of 11 images in batches of 4, and at the end
    files = [f"step-{step:08}.pth{suffix}" for step in steps for suffix in ("", ".sha256")]
    assert sorted(f.name for f in trained.iterdir()) == ["best.pth", "last.pth", "metrics.jsonl", "model.onnx", *files]
    assert load_checkpoint(trained / "last.pth").step == 6


def test_metrics_record_losses_rate_and_speed(trained):
    records = read_records(trained / "metrics.jsonl", "train")
    assert [r["step"] for r in records] == [2, 3, 4, 6]  # a checkpoint ends the window
    for r in records:
        assert r["loss"] == pytest.approx(r["box_loss"] + r["class_loss"], rel=1e-5)
        assert r["images_per_second"] > 0
    assert records[-1]["learning_rate"] == 0.04 * 4 / 32


def test_validation_follows_every_epoch_and_the_last_step(trained):
    records = read_records(trained / "metrics.jsonl", "validation")
    assert [r["step"] for r in records] == [3, 6]
    assert all(set(STAT_NAMES) < set(r) for r in records)


def test_the_checkpoint_says_what_made_it(trained):
    checkpoint = load_checkpoint(trained / "last.pth")
    assert checkpoint.model.preset == "ssd300-nano"
    assert checkpoint.categories.ids == (2, 3, 5, 7, 11, 13)
    assert checkpoint.run["recipe"]["batch_size"] == 4
    assert (checkpoint.run["seed"], checkpoint.run["world_size"], checkpoint.run["amp"]) == (1, 1, "off")
    assert len(checkpoint.run["train_fingerprint"]) == 64


def test_another_seed_gives_another_run(trained, tiny_coco, tmp_path):
    train_tiny(tiny_coco, tmp_path, max_steps=2, seed=2)
    first = [read_records(folder / "metrics.jsonl", "train")[0]["loss"] for folder in (trained, tmp_path)]
    assert first[0] != first[1]


def test_processes_that_find_another_checkpoint_or_other_data_do_not_begin(tiny_coco, tmp_path, monkeypatch):
    monkeypatch.setattr(World, "gather", lambda world, value: [value, (value[0], ("other", "data"))])
    with pytest.raises(InputError, match="the processes do not find the same checkpoint and data"):
        train_tiny(tiny_coco, tmp_path, max_steps=1)
    assert not list(tmp_path.glob("*.pth"))


def test_resuming_with_other_empty_images_names_the_flag(trained, tiny_coco, tmp_path):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    with pytest.raises(InputError, match="the checkpoint was trained with --empty-images drop; use --checkpoint"):
        train_tiny(tiny_coco, tmp_path / "run", max_steps=7, resume="auto", empty_images="keep")


def test_a_best_checkpoint_that_is_gone_has_a_successor(tiny_coco, tmp_path):
    train_tiny(tiny_coco, tmp_path, max_steps=1)
    (tmp_path / "best.pth").unlink()
    records = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(re.sub('"AP": [0-9.e-]+', '"AP": 0.9', records))
    train_tiny(tiny_coco, tmp_path, max_steps=2, resume="auto")
    assert load_checkpoint(tmp_path / "best.pth").step == 2


def test_a_better_score_of_a_checkpoint_that_is_gone_does_not_keep_a_new_best_one_away(tiny_coco, tmp_path):
    train_tiny(tiny_coco, tmp_path, max_steps=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (at,) = (i for i, line in enumerate(lines) if '"event": "validation"' in line)
    record = json.loads(lines[at])
    lines[at : at + 1] = [json.dumps({**record, "step": step, "AP": ap}) for step, ap in ((1, 0.9), (2, -0.5))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    train_tiny(tiny_coco, tmp_path, max_steps=3, resume="auto")
    assert load_checkpoint(tmp_path / "best.pth").step == 3


def test_a_finished_run_cannot_be_resumed(trained, tiny_coco):
    with pytest.raises(InputError, match=r"nothing left to train: .* give more --max-steps"):
        train_tiny(tiny_coco, trained, max_steps=6, resume="auto")
    assert load_checkpoint(trained / "last.pth").step == 6


def test_different_categories_in_the_two_files_are_refused(own_coco, tmp_path):
    edit_annotations(own_coco, lambda content: content["categories"].append({"id": 99, "name": "new"}), "val")
    with pytest.raises(InputError, match=r"category 99 is .new. in .*val2017.* and not there in .*train2017"):
        train_tiny(own_coco, tmp_path / "out", max_steps=1)
    assert not (tmp_path / "out").exists()


def test_the_same_categories_in_another_order_are_the_same(tiny_coco, own_coco, tmp_path):
    """Their ids say which is which; nothing of the run moves."""
    edit_annotations(own_coco, lambda content: content["categories"].reverse(), "val")
    for data, out in ((tiny_coco, "a"), (own_coco, "b")):
        train_tiny(data, tmp_path / out, max_steps=3)
    a, b = (read_records(tmp_path / out / "metrics.jsonl", "validation")[-1] for out in ("a", "b"))
    assert a == b


def test_a_folder_with_checkpoints_is_not_written_to_unasked(trained, tiny_coco, tmp_path):
    before = (trained / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="--resume auto, or give another --out, or --overwrite"):
        train_tiny(tiny_coco, trained, max_steps=6)
    assert (trained / "metrics.jsonl").read_bytes() == before
    for _ in range(2):
        train_tiny(tiny_coco, tmp_path, max_steps=2, overwrite=True)
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl", "train")] == [2]


def test_two_runs_cannot_have_one_folder(tiny_coco, tmp_path):
    with locked_folder(tmp_path, ""), pytest.raises(InputError, match="another run is writing to"):
        train_tiny(tiny_coco, tmp_path, max_steps=1)
    assert list(tmp_path.iterdir()) == []


def test_auto_begins_where_there_is_nothing_to_resume(tiny_coco, tmp_path):
    train_tiny(tiny_coco, tmp_path, max_steps=2, resume="auto")
    assert load_checkpoint(tmp_path / "last.pth").step == 2


def test_resuming_with_another_recipe_says_what_changed(trained, tiny_coco, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    recipe = replace(RECIPES["shapes"], batch_size=4, epochs=50.0, evaluation_epochs=(), weight_decay=0.125)
    train_tiny(tiny_coco, tmp_path / "run", max_steps=7, resume="auto", recipe=recipe, seed=9)
    told = capsys.readouterr().out
    assert "unlike the run so far: max_steps 6 -> 7, seed 1 -> 9, weight_decay 0.0005 -> 0.125, evaluation_e" in told
    assert "evaluation_epochs 1.0 ... 49.0 -> []\n" in told
    assert "not the continuation of the same run, bit by bit\n" in told


def test_a_resumed_run_gets_the_loss_scale_and_the_moving_average_that_it_asks_for(trained, tiny_coco, tmp_path):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    for step, scale in ((7, 64.0), (8, 32.0)):
        recipe = replace(RECIPES["shapes"], batch_size=1, evaluation_epochs=(), loss_scale=scale, ema_decay=0.5)
        train_tiny(tiny_coco, tmp_path / "run", max_steps=step, resume="auto", recipe=recipe, amp="fp16")
        checkpoint = load_checkpoint(tmp_path / "run" / "last.pth")
        assert checkpoint.optimizer["loss_scale"] == scale
        assert checkpoint.ema is not None


def test_step_0_is_not_validated(tiny_coco, tmp_path):
    """It has no checkpoint that could be the best."""
    recipe = replace(RECIPES["shapes"], batch_size=4, evaluation_epochs=(1e-9,))
    train_tiny(tiny_coco, tmp_path, max_steps=1, recipe=recipe)
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl", "validation")] == [1]


def test_a_run_that_is_refused_overwrites_nothing(trained, tiny_coco, tmp_path):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match="cannot write"):
        train_tiny(tiny_coco, tmp_path / "run", max_steps=1, overwrite=True, mlperf_log=trained)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("split", ["train", "val"])
def test_resuming_on_changed_annotations_is_refused(trained, own_coco, tmp_path, split):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    edit_annotations(own_coco, lambda content: content["annotations"][0].update(bbox=[1, 2, 20, 20]), split)
    with pytest.raises(InputError, match="has changed since the checkpoint was written"):
        train_tiny(own_coco, tmp_path / "run", max_steps=7, resume="auto")


def test_a_damaged_last_checkpoint_falls_back_and_the_run_goes_on(trained, tiny_coco, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "last.pth").write_bytes(b"cut off")
    train_tiny(tiny_coco, tmp_path / "run", max_steps=6, resume="auto")
    assert "is damaged" in capsys.readouterr().out
    for name, tensor in load_checkpoint(trained / "last.pth").tensors.items():
        assert torch.equal(load_checkpoint(tmp_path / "run" / "last.pth").tensors[name], tensor), name


@pytest.mark.parametrize(("max_steps", "validated"), [(8, [3, 6, 8]), (6, [3, 6])], ids=["goes on", "had ended"])
def test_scores_lost_to_a_kill_are_made_up_for(trained, tiny_coco, tmp_path, max_steps, validated):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if not line.startswith('{"event": "validation", "step": 6')))
    train_tiny(tiny_coco, tmp_path / "run", max_steps=max_steps, resume="auto")
    kept, again = (read_records(folder / "metrics.jsonl", "validation") for folder in (trained, tmp_path / "run"))
    assert [r["step"] for r in again] == validated
    assert again[:2] == kept
    with pytest.raises(InputError, match="nothing left to train"):
        train_tiny(tiny_coco, tmp_path / "run", max_steps=max_steps, resume="auto")


def test_a_run_says_what_it_trains_on_from_which_weights_and_what_it_saved(tiny_coco, trained, tmp_path, capsys):
    train_tiny(tiny_coco, tmp_path / "a", max_steps=1)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"\d+ training and \d+ validation images, \d+ boxes of 6 classes \(up to \d+ an image\), 3 steps an epoch; "
        rf"recipe shapes; weights: random; results in {tmp_path}/a",
        first,
    )
    assert re.fullmatch(
        rf"saved: the last checkpoint {tmp_path}/a/last.pth, the best one {tmp_path}/a/best.pth \(AP \d\.\d{{4}}\), "
        "and metrics.jsonl beside them",
        last,
    )
    train_tiny(tiny_coco, tmp_path / "b", max_steps=1, checkpoint=trained / "last.pth")
    assert f"; weights: {trained}/last.pth; results" in capsys.readouterr().out.splitlines()[0]
    train_tiny(tiny_coco, tmp_path / "a", max_steps=2, resume="auto")
    assert "; weights: the checkpoint of step 1; results" in capsys.readouterr().out


def test_validation_leaves_the_training_state_untouched(tiny_coco, tmp_path, monkeypatch):
    states = []
    run = Validations.run

    def watched(self, state, step):
        states.append([t.clone() for t in state if t is not None])
        reached = run(self, state, step)
        states.append([t.clone() for t in state if t is not None])
        return reached

    monkeypatch.setattr(Validations, "run", watched)
    train_tiny(tiny_coco, tmp_path, max_steps=3)
    assert len(states) == 2
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_tensorboard_gets_every_number(tiny_coco, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_tiny(tiny_coco, tmp_path, max_steps=3, tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [2, 3]
    assert {"validation/AP", "validation/per_class/disc"} <= set(events.Tags()["scalars"])


@pytest.fixture
def standing_still():
    """A recipe whose steps change no weight."""
    return replace(RECIPES["shapes"], batch_size=2, evaluation_epochs=(), learning_rate=0.0, warmup_epochs=0.0)


def same_weights(a, b, *prefixes):
    """Whether each parameter whose name has one of the prefixes is the same in two checkpoints."""
    parameters = {n for n in a.tensors if not n.endswith(("running_mean", "running_var"))}
    return [torch.equal(a.tensors[n], b.tensors[n]) for n in sorted(parameters) if n.startswith(prefixes)]


@pytest.mark.parametrize("layout", [None, "asc", "ref"])
def test_a_run_begins_with_the_weights_of_a_checkpoint_ours_or_published(
    trained, tiny_coco, tmp_path, standing_still, layout
):
    file = trained / "last.pth"
    if layout:
        export_published(file, tmp_path / "iter_6.pt", layout)
        file = tmp_path / "iter_6.pt"
    train_tiny(tiny_coco, tmp_path / "run", max_steps=1, recipe=standing_still, checkpoint=file)
    before, after = (load_checkpoint(folder / "last.pth") for folder in (trained, tmp_path / "run"))
    assert after.step == 1
    named = layout != "asc"  # else nobody knows what the heads were trained for
    assert all(same_weights(before, after, *([""] if named else ["trunk.", "extra."])))
    assert any(same_weights(before, after, "box_head.")) is named


def test_fine_tuning_on_other_categories_starts_the_heads_anew(trained, own_coco, tmp_path, standing_still):
    edit_annotations(own_coco, lambda content: content["categories"].append({"id": 99, "name": "new"}))
    train_tiny(own_coco, tmp_path / "run", max_steps=1, recipe=standing_still, checkpoint=trained / "last.pth")
    before, after = (load_checkpoint(folder / "last.pth") for folder in (trained, tmp_path / "run"))
    assert (before.model.num_classes, after.model.num_classes) == (7, 8)
    assert all(same_weights(before, after, "trunk.", "extra."))
    assert not any(same_weights(before, after, "box_head."))


def test_fine_tuning_from_another_preset_is_refused(trained, tiny_coco, tmp_path, standing_still):
    with pytest.raises(InputError, match="does not fit ssd300-r18"):
        train_tiny(tiny_coco, tmp_path, preset="ssd300-r18", recipe=standing_still, checkpoint=trained / "last.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("has", "amp"), [(True, "off"), (True, "bf16"), (False, "off")])
def test_a_processor_with_bfloat16_is_told_of_it(tiny_coco, tmp_path, monkeypatch, capsys, has, amp):
    monkeypatch.setattr("ssd_graph.training.records.has_bf16", lambda: has)
    train_tiny(tiny_coco, tmp_path, max_steps=1, amp=amp)
    assert ("multiplies in bfloat16: --amp bf16" in capsys.readouterr().out) is (has and amp == "off")


def test_several_devices_are_refused_to_a_program_that_is_not_the_command(tiny_coco, tmp_path):
    with pytest.raises(InputError, match=r"num_devices 2: .*`python tools/train_graph\.py --cpus 2` starts"):
        train_tiny(tiny_coco, tmp_path / "run", num_devices=2)
    assert not (tmp_path / "run").exists()
