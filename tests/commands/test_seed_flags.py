"""The command lines of the seed's scripts, word for word but for the script's name, mean the runs that they meant."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ssd_graph.cli import InputError
from ssd_graph.commands import train_graph
from ssd_graph.commands.seed_flags import translate
from ssd_graph.config import RECIPES
from tests.run import exit_code

FULL_1P = """--data=D --num-workers=16 --lr=2.68e-3 --wd=0.0005 --epochs=90 --batch-size=32 --loss_scale=128
    --lr-decay-epochs 44 55 --device_id=0 --tag='train' --evaluation 40 50 55 60 65 70 75 80 85"""
FULL_8P = """--data=D --num-workers=16 --lr=3.2e-3 --wd=0.00075 --epochs=90 --batch-size=32
    --lr-decay-epochs 45 58 84 --loss_scale=32 --device_id=8 --tag='train' --local_rank {rank}"""
FINETUNE = """--data=D --checkpoint=C --num-workers=16 --lr=2.68e-3 --wd=0.0005 --epochs=90 --batch-size=32
    --loss_scale=128 --num-classes=86 --lr-decay-epochs 44 55 --device_id=0 --tag='train'
    --evaluation 40 50 55 60 65 70 75 80 85"""
EVAL_8P = """--data=D --checkpoint=C --num-workers=16 --lr=3.2e-3 --wd=0.00075 --epochs=90 --batch-size=32
    --lr-decay-epochs 45 58 84 --loss_scale=32 --device_id=0 --tag='eval' --local_rank {rank}"""


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what the command sets goes again
        monkeypatch.delenv(name)


def run_of(line, before=None):
    """The options of a training command, and what is said of it."""
    words = shlex.split(line)
    given = vars(train_graph.parser().parse_args(words))
    notes = translate(given, words, training=True)
    return train_graph.options_of(given, before), notes


def test_the_full_run_on_one_card_is_the_recipe_seed_1p():
    options, notes = run_of(FULL_1P)
    assert options.recipe == RECIPES["seed-1p"]
    assert (options.data, options.workers, options.num_devices, options.first_device) == ("D", 16, 1, 0)
    assert (options.out, options.backbone) == (Path("runs/train"), None)
    assert "seed-1p" in notes[0]
    assert "0.0025" in notes[1]


def test_each_process_of_the_full_run_on_eight_cards_joins_the_recipe_seed_8p(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    options, _ = run_of(FULL_8P.format(rank=3))
    assert options.recipe == RECIPES["seed-8p"]
    assert (options.num_devices, options.first_device) == (8, 0)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["3", "3", "8", "127.0.0.1", "29688"]


def test_the_trunk_is_read_from_where_the_seed_reads_it():
    Path("resnet34-333f7ec4.pth").touch()
    assert run_of(FULL_1P)[0].backbone == Path("resnet34-333f7ec4.pth")
    assert run_of(FULL_1P + " --backbone resnet34")[0].backbone == Path("resnet34-333f7ec4.pth")
    assert run_of(FULL_1P + " --backbone other.pth")[0].backbone == Path("other.pth")
    assert run_of(FINETUNE)[0].backbone is None


def test_fine_tuning_begins_with_the_checkpoint_and_says_what_it_does_not_use():
    options, notes = run_of(FINETUNE)
    assert (options.checkpoint, options.recipe) == (Path("C"), RECIPES["seed-1p"])
    assert notes[-1] == "of the seed's flags, these change nothing here: --num-classes"


def test_the_scripts_own_flags_are_taken():
    options, _ = run_of("--data_path=D --batch_size=16 --device_id=2")
    assert (options.data, options.recipe.batch_size, options.first_device) == ("D", 16, 2)
    assert options.recipe.name == "seed-1p"
    assert run_of("--data_path=D --npus 8")[0].recipe.name == "seed-8p"
    assert run_of("--data_path=D --checkpoint_path=C")[0].checkpoint == Path("C")


def test_the_seeds_evaluation_runs_on_the_processes_that_its_script_starts(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    words = shlex.split(EVAL_8P.format(rank=1))
    seen = []
    monkeypatch.setattr("ssd_graph.training.graph_eval.print_scores", seen.append)
    assert not exit_code("tools/eval_graph.py", *words)
    assert (seen[0].checkpoint, seen[0].data, seen[0].num_devices, seen[0].workers) == (Path("C"), "D", 8, 16)
    assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    "flags",
    [
        *("--dali", "--fake-input", "--jit", "--opt-loss", "--no-save", "--no-allreduce-running-stats"),
        *("--bn-group 2", "--input-size 300", "--profile 10", "--nhwc False", "--meta_files_path M", "--iteration 5"),
        *("--eval-batch-size 8", "--model-path vgg16n.pth", "--backbone vgg16", "--warmup-factor 0"),
    ],
)
def test_flags_that_the_seed_ignores_are_taken_and_named(flags):
    _, notes = run_of("--data D " + flags)
    assert flags.split()[0] in notes[-1] or flags.split()[0].replace("_", "-") in notes[-1]


def test_a_rate_beyond_all_use_is_passed_on():
    assert run_of("--data_path=D --lr 1e307")[0].recipe.learning_rate == 1e307


@pytest.mark.parametrize("rate", ["nan", "inf"])
def test_a_rate_that_is_no_number_is_refused_by_its_flag(rate):
    with pytest.raises(InputError, match=f"--lr {rate}: give"):
        run_of(f"--data_path=D --lr {rate}")


def test_flags_that_only_we_have_stay_as_they_are():
    options, notes = run_of("--data D --lr 0.00268 --loss-scale 64 --device-id 1 --warmup-epochs 1")
    assert notes == []
    assert (options.recipe.name, options.recipe.learning_rate, options.recipe.loss_scale) == ("mlperf-256", 0.00268, 64)


def test_a_recipe_that_is_named_stays():
    options, _ = run_of(FULL_1P + " --recipe mlperf-256")
    assert (options.recipe.name, options.recipe.learning_rate) == ("mlperf-256", 2.68e-3)


@pytest.mark.parametrize("saved", [False, True])
def test_a_restart_trains_what_the_first_start_trains(monkeypatch, saved):
    """With a checkpoint of the run, and before there is one."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    Path("resnet34-333f7ec4.pth").touch()
    line = FULL_8P.format(rank=3)
    first, _ = run_of(line)
    before = first if saved else None
    monkeypatch.setattr("ssd_graph.training.plan.run_to_resume", lambda _, out: (before, out))
    again, _ = run_of(f"{line} --resume auto", before)
    assert again == replace(first, resume="auto")


@pytest.mark.parametrize("flags", ["--resume auto", "--recipe seed-1p"])
def test_results_go_to_the_folder_of_the_tag(flags):
    assert run_of(f"--tag T {flags}")[0].out == Path("runs/T")


def test_a_run_that_goes_on_keeps_its_devices(monkeypatch):
    before = run_of("--npus 8 --tag T")[0]
    monkeypatch.setattr("ssd_graph.training.plan.run_to_resume", lambda _, out: (before, out))
    again, _ = run_of("--resume auto --tag T --lr 0.01", before)
    assert (again.devices, again.num_devices, again.out) == ("npu", 8, Path("runs/T"))
    assert again.recipe == replace(before.recipe, learning_rate=0.01)


def test_torchs_older_launcher_leaves_the_recipe_as_it_is(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    options, notes = run_of("--local-rank=1 --npus 8 --data coco --lr 0.0028")
    assert options.recipe == replace(RECIPES["mlperf-256"], learning_rate=0.0028)
    assert notes == []


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(InputError, match="WORLD_SIZE is 'x': set it to the number of processes, or unset it"):
        run_of(FULL_1P)


def test_a_warm_up_in_steps_is_told_in_epochs():
    with pytest.raises(InputError, match=r"--warmup 300 counts steps; give --warmup-epochs.*0\.655 for COCO"):
        run_of(FULL_1P + " --warmup 300")


def test_a_rank_that_nobody_counts_is_refused():
    with pytest.raises(InputError, match="--local-rank 3: WORLD_SIZE says 1 processes"):
        run_of(FULL_8P.format(rank=3))


@pytest.mark.parametrize(
    ("flag", "advice"),
    [("--batch-sise", "did you mean --batch-size?"), ("--zzz", "--help tells what there is")],
)
def test_an_unknown_flag_gets_one_line_with_the_nearest_one(capsys, flag, advice):
    with pytest.raises(SystemExit) as end:
        train_graph.parser().parse_args([flag, "1"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert advice in error
