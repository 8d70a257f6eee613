"""What the training command makes of its flags before it trains."""

import pytest

from ssd_graph.cli import InputError
from ssd_graph.commands import train_graph
from tests.run import exit_code


@pytest.fixture
def options(monkeypatch, tmp_path):
    """A function from flags to the options that training gets, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def of(*flags):
        seen = []
        monkeypatch.setattr("ssd_graph.training.train.train", lambda options, **_: seen.append(options))
        assert not exit_code("tools/train_graph.py", *flags)
        return seen[0]

    return of


def test_a_checkpoint_brings_its_network_along(options, trained):
    assert options("--checkpoint", trained / "last.pth").preset == "ssd300-nano"
    assert options("--checkpoint", trained / "last.pth", "--preset", "ssd300-r18").preset == "ssd300-r18"
    assert options("--checkpoint", trained / "last.pth", "--resume", "auto").preset == "ssd300-nano"  # none there yet
    assert options().preset == "ssd300-r34"


def test_what_fine_tuning_needs_has_flags(options):
    recipe = options("--recipe", "finetune", "--freeze", "layer2", "--patience", 4).recipe
    assert (recipe.name, recipe.freeze, recipe.patience, recipe.threshold) == ("finetune", "layer2", 4, None)


def test_what_a_run_writes_beside_can_be_left_out_when_it_goes_on(options):
    before = options("--tensorboard", "--deterministic", "--mlperf-log", "a.log")
    flags = ("--no-tensorboard", "--no-deterministic", "--mlperf-log", "none")
    given = vars(train_graph.parser().parse_args(flags))
    after = train_graph.options_of(given, before)
    assert (after.tensorboard, after.deterministic, after.mlperf_log) == (False, False, None)


@pytest.mark.parametrize("flag", ["--device-id", "--workers", "--max-restarts"])
def test_a_number_of_things_is_not_negative(flag, capsys):
    with pytest.raises(SystemExit):
        train_graph.parser().parse_args([flag, "-1"])
    assert f"argument {flag}" in (said := capsys.readouterr().err)
    assert "-1: give 0 or more" in said


def test_endless_epochs_have_no_regular_validations():
    with pytest.raises(InputError, match="--epochs inf: give"):
        train_graph.options_of({"epochs": float("inf"), "validate_every": 1.0})


def test_scoring_says_which_of_the_seeds_flags_change_nothing(monkeypatch, capsys):
    monkeypatch.setattr("ssd_graph.training.graph_eval.print_scores", lambda options: None)
    exit_code("tools/train_graph.py", "--eval-only", "--checkpoint", "a.pth", "--nhwc", 1, "--cpus", 1)
    assert "these change nothing here: --nhwc" in capsys.readouterr().err
