"""Proves that the log of a run as the trainer drives it passes MLCommons' own checkers (package mlperf-logging,
rules 1.1, warnings as errors), that they miss whatever is left out, and what becomes of the log on a resume.
"""

import json
import subprocess
import sys
from collections import deque
from dataclasses import replace

import pytest
import torch
from mlperf_logging.compliance_checker import mlp_compliance
from mlperf_logging.package_checker.seed_checker import SeedChecker
from mlperf_logging.rcp_checker import rcp_checker

from ssd_graph.cli import InputError
from ssd_graph.config import RECIPES, AugmentConfig, model_config
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.state import StateLayout
from ssd_graph.training.mlperf_log import TARGET_AP, MLPerfLog, mlperf_tensors
from ssd_graph.training.schedule import Schedule

COCO = Schedule(RECIPES["mlperf-256"], global_batch=256, num_images=117_266)
SMALL = Schedule(
    replace(COCO.recipe, batch_size=4, warmup_epochs=1.0, decay_epochs=(8.0, 10.0), epochs=20.0),
    global_batch=4,
    num_images=10,
)
"""Twenty epochs of two and a half steps."""

REQUIRED = (
    *("submission_org", "submission_platform", "submission_division", "submission_status", "submission_benchmark"),
    *("cache_clear", "init_start", "init_stop", "run_start", "run_stop", "epoch_start", "epoch_stop"),
    *("eval_start", "eval_stop", "eval_accuracy", "train_samples", "eval_samples", "weights_initialization"),
    *("global_batch_size", "gradient_accumulation_steps", "model_bn_span", "max_samples", "opt_weight_decay"),
    *("opt_base_learning_rate", "opt_learning_rate_warmup_factor", "opt_learning_rate_warmup_steps"),
    "opt_learning_rate_decay_boundary_epochs",
)


def parameter_names(preset="ssd300-r34"):
    with torch.device("meta"):
        return [name for name, _ in SSD300(model_config(preset, 81)).named_parameters()]


R34 = parameter_names()


def begin(path, schedule=COCO, **changes):
    facts = {"num_val_images": 4952, "parameters": R34, "seed": 1}
    return MLPerfLog(path, schedule, **{**facts, **changes})


def train(log, schedule, *, first_step=0, killed_at=None, score_delay=20, best_ap=0.235):
    """Call `log` as the trainer does: AP climbs to `best_ap` at epoch 50 and is known `score_delay` steps late."""
    recipe = schedule.recipe
    last_step = schedule.step_of_epoch(recipe.epochs)
    due = {schedule.step_of_epoch(epoch) for epoch in recipe.evaluation_epochs}
    waiting = deque()
    for step in range(first_step, last_step):
        if step == killed_at:
            log.close()
            return
        log.before_step(step)
        if step + 1 in due:
            log.eval_start(step + 1)
            waiting.append(step + 1)
        while waiting and (step + 1 >= waiting[0] + score_delay or step + 1 == last_step):
            scored = waiting.popleft()
            ap = best_ap * min(scored / schedule.step_of_epoch(50), 1)
            log.eval_stop(scored, ap)
            if ap >= TARGET_AP:
                log.run_stop(step + 1)
                log.close()
                return
    log.run_stop(last_step)
    log.close()


def run(path, schedule=COCO, best_ap=0.235, **changes):
    train(begin(path, schedule, **changes), schedule, best_ap=best_ap)
    return path


def records(path):
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in path.read_text().splitlines()]


def of_key(path, *keys):
    return [record for record in records(path) if record["key"] in keys]


def course(path):
    """A log without its time stamps."""
    lines = [(r["key"], r["value"], r["metadata"]) for r in records(path)]
    return [(key, value, {k: v for k, v in metadata.items() if k != "lineno"}) for key, value, metadata in lines]


def complaints(path):
    """The keys that the compliance checker finds missing, doubled or out of bounds."""
    checker = mlp_compliance.make_checker("training", "1.1.0", quiet=False, werror=True)
    mlp_compliance.main(str(path), "training_1.1.0/common.yaml", checker)
    unnamed = [message.replace("initialized_tensors", "weights_initialization") for message in checker.not_overwritable]
    named = [{key for key in REQUIRED if key in message.splitlines()[0]} for message in unnamed]
    assert all(named)
    return set(checker.overwritable).union(*named)


@pytest.fixture(scope="module")
def coco_log(tmp_path_factory):
    """The log of a run on COCO that reaches the target at epoch 50; read only."""
    return run(tmp_path_factory.mktemp("mlperf") / "result_0.txt")


def test_a_run_on_coco_passes_the_compliance_checker(coco_log):
    assert complaints(coco_log) == set()


def test_the_checkers_command_says_success(coco_log, tmp_path):
    checker = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "1.1.0"]
    done = subprocess.run(
        [*checker, "--werror", "--log_output", tmp_path / "out", coco_log], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "INFO - SUCCESS")


@pytest.mark.parametrize("key", REQUIRED)
def test_whatever_is_left_out_is_missed(key, coco_log, tmp_path):
    lines = coco_log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if f'"key": "{key}"' not in line]
    assert len(kept) < len(lines)
    (tmp_path / "log").write_text("".join(kept))
    assert key in complaints(tmp_path / "log")


def test_a_missing_tensor_is_missed(tmp_path):
    path = run(tmp_path / "log", parameters=R34[1:])
    assert complaints(path) == {"weights_initialization"}


def test_five_runs_with_five_seeds_make_a_result(tmp_path):
    logs = [str(run(tmp_path / f"result_{seed}.txt", seed=seed)) for seed in range(5)]
    assert SeedChecker("1.1.0").check_seeds(logs)
    convergence = rcp_checker.check_directory(str(tmp_path), "training", "1.1.0", False, False, rcp_pass="pruned_rcps")
    assert convergence == (True, "RCP not found but slower convergence on smaller batch size", 1.0)


def test_runs_with_the_same_seed_make_none(tmp_path):
    logs = [str(run(tmp_path / f"result_{i}.txt", SMALL)) for i in range(2)]
    assert not SeedChecker("1.1.0").check_seeds(logs)


def test_a_run_below_the_target_is_aborted_and_refused(tmp_path):
    path = run(tmp_path / "log", best_ap=0.229)
    assert [r["metadata"]["status"] for r in of_key(path, "run_stop")] == ["aborted"]
    assert [r["metadata"]["step"] for r in of_key(path, "run_stop")] == [COCO.step_of_epoch(80)]
    assert complaints(path) == {"eval_accuracy"}


def test_the_target_ends_the_run_with_success(tmp_path):
    path = run(tmp_path / "log", best_ap=TARGET_AP)
    assert [r["metadata"]["status"] for r in of_key(path, "run_stop")] == ["success"]
    assert [r["metadata"]["step"] for r in of_key(path, "run_stop")] == [COCO.step_of_epoch(50) + 20]


def test_the_recipes_numbers_are_logged(coco_log):
    once = {r["key"]: r["value"] for r in records(coco_log)}
    assert once["train_samples"] == 117_266
    assert once["eval_samples"] == 4952
    assert once["global_batch_size"] == 256
    assert once["model_bn_span"] == 32
    assert once["max_samples"] == 1
    assert once["opt_base_learning_rate"] == pytest.approx(0.025256, rel=1e-12)
    assert once["opt_weight_decay"] == 1.3e-4
    assert once["opt_learning_rate_decay_boundary_epochs"] == [44, 55]
    warmup_steps = once["opt_learning_rate_warmup_steps"]
    assert COCO.rate(warmup_steps - 1) < COCO.rate(warmup_steps) == once["opt_base_learning_rate"]


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"warmup_epochs": 0.0}, "opt_learning_rate_warmup_steps"),
        ({"decay_epochs": (45.0, 58.0)}, "opt_learning_rate_decay_boundary_epochs"),
        ({"decay_epochs": (44.0,)}, "opt_learning_rate_decay_boundary_epochs"),
        ({"augment": AugmentConfig(crop_attempts=10)}, "max_samples"),
    ],
)
def test_a_recipe_outside_the_rules_is_refused_by_its_number(changes, broken, tmp_path):
    assert complaints(run(tmp_path / "log", replace(COCO, recipe=replace(COCO.recipe, **changes)))) == {broken}


def test_the_rules_hold_for_ten_images_and_twenty_epochs(tmp_path):
    assert complaints(run(tmp_path / "log", SMALL, best_ap=0.9, num_val_images=6)) == set()


def test_a_smaller_trunk_breaks_one_rule_its_tensors(tmp_path):
    path = run(tmp_path / "log", SMALL, best_ap=0.9, parameters=parameter_names("ssd300-nano"))
    assert complaints(path) == {"weights_initialization"}


def test_convolutions_are_counted_through_a_stage_and_heads_are_one():
    assert mlperf_tensors(
        [
            "trunk.conv1.weight",
            "trunk.layer2.0.conv1.weight",
            "trunk.layer2.0.bn1.weight",
            "trunk.layer2.0.bn1.bias",
            "trunk.layer2.0.conv2.weight",
            "trunk.layer2.0.downsample.0.weight",
            "trunk.layer2.0.downsample.1.bias",
            "trunk.layer2.1.conv1.weight",
            "extra.4.0.weight",
            "extra.4.1.bias",
            "box_head.5.weight",
            "class_head.5.weight",
        ]
    ) == [
        "ssd0_resnetmlperf0_conv0_weight",
        "ssd0_resnetmlperf0_stage2_conv0_weight",
        "ssd0_resnetmlperf0_stage2_batchnorm0_gamma",
        "ssd0_resnetmlperf0_stage2_batchnorm0_beta",
        "ssd0_resnetmlperf0_stage2_conv1_weight",
        "ssd0_resnetmlperf0_stage2_conv2_weight",
        "ssd0_resnetmlperf0_stage2_batchnorm1_beta",
        "ssd0_resnetmlperf0_stage2_conv3_weight",
        "ssd0_expand_trans_conv4_weight",
        "ssd0_expand_conv4_bias",
        "ssd0_convpredictor5_conv0_weight",
    ]


def test_the_order_of_the_flat_state_names_the_same_tensors():
    with torch.device("meta"):
        layout = StateLayout.of(SSD300(model_config("ssd300-r34", 81)))
    assert sorted(mlperf_tensors(name for name, _ in layout.parameters)) == sorted(mlperf_tensors(R34))


def test_an_epoch_ends_before_the_first_step_that_starts_behind_it(tmp_path):
    path = run(tmp_path / "log", SMALL)
    edges = [
        (r["key"], r["metadata"]["epoch_num"], r["metadata"]["step"]) for r in of_key(path, "epoch_start", "epoch_stop")
    ]
    assert edges[:6] == [
        ("epoch_start", 1, 0),
        ("epoch_stop", 1, 3),
        ("epoch_start", 2, 3),
        ("epoch_stop", 2, 5),
        ("epoch_start", 3, 5),
        ("epoch_stop", 3, 8),
    ]
    assert edges[-1] == ("epoch_stop", 20, 50)


def test_an_epoch_ends_with_the_run(tmp_path):
    path = tmp_path / "log"
    log = begin(path, SMALL)
    for step in range(3):
        log.before_step(step)
    log.run_stop(3)
    log.close()
    assert [r["key"] for r in records(path)[-3:]] == ["epoch_start", "epoch_stop", "run_stop"]


def test_a_late_score_carries_the_epoch_of_its_evaluation(tmp_path):
    path = tmp_path / "log"
    log = begin(path, SMALL)
    train(log, SMALL, score_delay=4)
    around = of_key(path, "epoch_stop", "epoch_start", "eval_start", "eval_stop", "eval_accuracy")
    first = next(i for i, r in enumerate(around) if r["key"] == "eval_start")
    assert [(r["key"], r["metadata"]["epoch_num"]) for r in around[first - 1 : first + 6]] == [
        ("epoch_stop", 5),
        ("eval_start", 5),
        ("epoch_start", 6),
        ("epoch_stop", 6),
        ("epoch_start", 7),
        ("eval_accuracy", 5),
        ("eval_stop", 5),
    ]


def test_lines_stand_in_the_order_of_their_times(coco_log):
    times = [r["time_ms"] for r in records(coco_log)]
    assert times == sorted(times)


def test_the_clock_starts_when_the_caller_says(tmp_path):
    path = run(tmp_path / "log", SMALL, clock_start=1234.5678)
    assert {r["time_ms"] for r in of_key(path, "init_start", "init_stop", "run_start")} == {1_234_567}
    assert of_key(path, "run_stop")[0]["time_ms"] > 1e12


def test_intervals_are_marked_as_such(coco_log):
    types = {r["key"]: r["event_type"] for r in records(coco_log)}
    assert types["eval_start"] == types["run_start"] == "INTERVAL_START"
    assert types["epoch_stop"] == types["init_stop"] == "INTERVAL_END"
    assert types["eval_accuracy"] == types["cache_clear"] == "POINT_IN_TIME"


def test_a_line_is_on_disk_before_the_run_ends(tmp_path):
    log = begin(tmp_path / "log", SMALL)
    log.before_step(0)
    assert records(tmp_path / "log")[-1]["key"] == "epoch_start"
    log.close()


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(None, SMALL)
    train(begin(None, SMALL, first_step=9), SMALL, first_step=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost_steps", [0, 1, 9])
def test_a_resumed_log_is_that_of_an_uninterrupted_run(lost_steps, tmp_path):
    train(begin(tmp_path / "whole", SMALL), SMALL, score_delay=0)
    path = tmp_path / "log"
    for saved in range(1, 50):
        train(begin(path, SMALL), SMALL, killed_at=min(saved + lost_steps, 49), score_delay=0)
        train(begin(path, SMALL, first_step=saved), SMALL, first_step=saved, score_delay=0)
        assert course(path) == course(tmp_path / "whole")


def test_a_resumed_log_passes_the_checker_and_keeps_its_clock(tmp_path):
    path = tmp_path / "log"
    train(begin(path, clock_start=1000.0), COCO, killed_at=20_000)
    train(begin(path, first_step=15_000), COCO, first_step=15_000)
    assert complaints(path) == set()
    assert [r["time_ms"] for r in of_key(path, "run_start")] == [1_000_000]


def test_a_success_before_the_interruption_counts(tmp_path):
    path = tmp_path / "log"
    log = begin(path, SMALL)
    log.eval_stop(13, 0.3)
    log.close()
    log = begin(path, SMALL, first_step=13)
    log.run_stop(13)
    log.close()
    assert of_key(path, "run_stop")[0]["metadata"]["status"] == "success"


def test_an_evaluation_whose_score_was_lost_is_dropped(tmp_path):
    path = tmp_path / "log"
    train(begin(path, SMALL), SMALL, killed_at=30)
    assert [r["metadata"]["step"] for r in of_key(path, "eval_start")] == [13, 25]
    begin(path, SMALL, first_step=26).close()
    assert of_key(path, "eval_start", "eval_stop", "eval_accuracy") == []


def test_a_finished_run_can_go_on(tmp_path):
    path = run(tmp_path / "log", SMALL)
    longer = replace(SMALL, recipe=replace(SMALL.recipe, epochs=50.0))
    train(begin(path, longer, first_step=50), longer, first_step=50)
    assert [r["metadata"]["step"] for r in of_key(path, "run_stop")] == [125]
    assert complaints(path) == set()


def test_a_new_run_starts_a_new_log(tmp_path):
    run(tmp_path / "log", SMALL)
    assert len(of_key(run(tmp_path / "log", SMALL), "run_start")) == 1


@pytest.mark.parametrize(
    "end", [':::MLLOG {"namespace": "", "time', "0123456789", ':::MLLOG {"key": "seed"}\n', "[[[[["]
)
def test_a_line_cut_off_by_a_crash_or_of_another_program_is_dropped(tmp_path, end):
    path = tmp_path / "log"
    train(begin(path, SMALL), SMALL, killed_at=9)
    whole = course(path)
    path.write_text(path.read_text() + end)
    begin(path, SMALL, first_step=9).close()
    assert course(path) == whole


def test_resuming_without_the_log_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no .*log to continue; give the --mlperf-log that the run wrote"):
        begin(tmp_path / "log", first_step=5)
    assert list(tmp_path.iterdir()) == []


def test_resuming_with_another_recipe_is_refused_and_the_log_stays(tmp_path):
    path = run(tmp_path / "log", SMALL)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"opt_weight_decay is 0\.00013 there and 0\.5 here"):
        begin(path, replace(SMALL, recipe=replace(SMALL.recipe, weight_decay=0.5)), first_step=9)
    assert path.read_bytes() == before


def test_resuming_from_another_file_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "train", "step": 10}\n\xff\n')
    with pytest.raises(InputError, match="submission_benchmark is None there and ssd here"):
        begin(path, first_step=5)
