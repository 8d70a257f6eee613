"""A run goes on by its own command; with another batch or number of devices it keeps the images that it has seen."""

import os
import shutil
from dataclasses import replace

import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES
from ssd_graph.data.samples import Samples, _order
from ssd_graph.training.metrics import read_records
from ssd_graph.training.plan import run_to_resume
from ssd_graph.training.run_folder import RunFolder
from tests.conftest import train_tiny
from tests.run import command_here

TRAIN = "tools/train_graph.py"
NUM_IMAGES = 11
RECIPE = replace(
    RECIPES["shapes"], batch_size=4, epochs=9.0, warmup_epochs=3.0, decay_epochs=(4.0,), evaluation_epochs=(2.0, 4.0)
)


@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 4), (4, 3)])
def test_another_batch_goes_on_with_the_next_images_at_the_same_epoch(
    tiny_coco, tmp_path, monkeypatch, capsys, before, after
):
    train_tiny(tiny_coco, tmp_path, max_steps=4, recipe=replace(RECIPE, batch_size=before), print_every=1)
    drawn, position = [], Samples.position

    def watched(self, step, slot):
        drawn.append(position(self, step, slot))
        return drawn[-1]

    monkeypatch.setattr(Samples, "position", watched)
    capsys.readouterr()
    recipe = replace(RECIPE, batch_size=after)
    train_tiny(tiny_coco, tmp_path, max_steps=12, recipe=recipe, resume="auto", print_every=1)
    seen = 4 * before
    told = capsys.readouterr().out
    assert f"{after} images a step instead of {before}: it goes on behind the {seen} images seen, at epoch" in told
    expected = [divmod(seen + n, NUM_IMAGES) for n in range(len(drawn))]
    assert drawn == [(epoch, _order(1, epoch, NUM_IMAGES)[place]) for epoch, place in expected]
    records = read_records(tmp_path / "metrics.jsonl", "train")
    images = [n * before for n in range(1, 5)] + [seen + n * after for n in range(1, 9)]
    assert [r["epoch"] for r in records] == [round(n / NUM_IMAGES, 4) for n in images]
    for record, count, batch in zip(records, images, [before] * 4 + [after] * 8, strict=True):
        base, warm_up = 0.04 * batch / 32, round(3 * NUM_IMAGES / batch)
        steps = (count - batch) / batch  # as many as a run with this batch from the start had done
        expected = base * steps / warm_up if steps < warm_up else base * (0.1 if count - batch >= 4 * NUM_IMAGES else 1)
        assert record["learning_rate"] == pytest.approx(expected, rel=1e-9)
    checkpoint = load_checkpoint(tmp_path / "last.pth")
    assert checkpoint.run["images_seen"] == images[-1]
    validated = {r["step"] for r in read_records(tmp_path / "metrics.jsonl", "validation")}
    ends = [e * NUM_IMAGES for e in (2, 4) if e * NUM_IMAGES <= images[-1]]
    assert {next(n for n, count in enumerate(images, 1) if count >= end) for end in ends} <= validated


@pytest.fixture(scope="module")
def odd(tiny_coco, tmp_path_factory):
    """A run with flags of every kind, relative paths among them, of six steps."""
    out = tmp_path_factory.mktemp("odd")
    flags = (
        *("--preset", "ssd300-nano", "--recipe", "shapes", "--batch-size", 3, "--epochs", 7, "--seed", 9, "--upright"),
        *("--ema", 0.5, "--crop-attempts", 50, "--loss-scale", "dynamic", "--lr-decay-epochs", 1, "--workers", 0),
        *("--accumulate", 2, "--save-every", 2, "--keep", 9, "--max-steps", 6, "--print-every", 1),
        *("--backend", "eager"),  # what is asked here is the same whatever the backend
    )
    data = os.path.relpath(tiny_coco, out)
    code, _, error = command_here(TRAIN, *flags, "--data", data, "--out", "run", "--cache", "cache", cwd=out)
    assert code == 0, error
    return out / "run"


def rewound(run, out):
    """A copy of a run as it was after step 4."""
    shutil.copytree(run, out, symlinks=True)
    RunFolder(out).rewind(4)
    return out


def test_a_run_goes_on_by_its_folder_alone(odd, tmp_path):
    out = rewound(odd, tmp_path / "run")
    code, told, error = command_here(TRAIN, "--resume", "auto", "--out", out, cwd=tmp_path)
    assert code == 0, error
    assert "unlike" not in told
    straight, resumed = (load_checkpoint(folder / "last.pth") for folder in (odd, out))
    assert resumed.step == 6
    assert {k: v for k, v in resumed.run.items() if k not in ("out", "resume")} == {
        k: v for k, v in straight.run.items() if k not in ("out", "resume")
    }
    for name, tensor in {**straight.tensors, **straight.optimizer, "ema": straight.ema}.items():
        assert torch.equal({**resumed.tensors, **resumed.optimizer, "ema": resumed.ema}[name], tensor), name
    line = (TRAIN, "--resume", out / "last.pth", "--max-steps", 7, "--workers", 1)
    code, told, error = command_here(*line, cwd=tmp_path)
    assert code == 0, error
    assert "unlike the run so far: max_steps 6 -> 7, workers 0 -> 1\n" in told
    assert "bit by bit" not in told
    assert load_checkpoint(out / "last.pth").step == 7


def test_an_older_checkpoint_needs_a_folder(odd, tmp_path):
    older = odd / "step-00000004.pth"
    with pytest.raises(
        InputError, match=f"not the newest of its run; to go on from it, and remove those, give --out {odd}"
    ):
        run_to_resume(str(older), None)
    options, out = run_to_resume(str(older), odd)
    assert (options.recipe.batch_size, options.seed, options.upright, out) == (3, 9, True, odd)
    for file in (older, odd / "last.pth"):
        with pytest.raises(InputError, match=r"a run goes on in its own folder, not in .*; begin another"):
            run_to_resume(str(file), tmp_path)


def test_a_recipe_or_device_given_again_is_taken_whole(odd):
    from ssd_graph.commands.train_graph import options_of

    before, _ = run_to_resume("auto", odd)
    again = options_of({"recipe": "mlperf-256", "lr": 0.5}, before)
    assert again.recipe == replace(RECIPES["mlperf-256"], learning_rate=0.5)
    assert (again.seed, again.workers, again.backend) == (9, 0, before.backend)
    assert options_of({"gpus": 4}, before) == replace(
        before, devices="gpu", num_devices=4, amp=None, backend=None, resume=None
    )
    assert options_of({"loss_scale": 8.0}, before).recipe.dynamic_loss_scale is False
