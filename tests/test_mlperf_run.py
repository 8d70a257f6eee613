"""A real run's MLPerf log passes MLCommons' compliance checker, closed division, SSD rules 1.1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlperf_logging.compliance_checker import mlp_compliance

from ssd_graph.metrics import read_records
from tests.conftest import real_subset

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_log_of_a_run_that_reaches_the_target_breaks_no_rule(shared, tmp_path):
    """ssd300-r34 learns eight images by heart, because the rules ask for AP 0.23."""
    real_subset(shared / "coco_mini", tmp_path / "data", num_images=8)
    recipe = ("--batch-size", 4, "--lr", 0.02, "--wd", 5e-4, "--warmup-epochs", 2, "--epochs", 80)
    command = [
        *("tools/train_graph.py", "--data", tmp_path / "data", "--out", tmp_path / "run", "--no-augment"),
        *(*recipe, "--lr-decay-epochs", 60, 75, "--validate-every", 5),  # 40 and 50 x (1 + 5/10), as the rules have it
        *("--mlperf-log", tmp_path / "mlperf.log"),
    ]
    subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert read_records(tmp_path / "run" / "metrics.jsonl", "validation")[-1]["AP"] >= 0.23
    checker = mlp_compliance.make_checker("training", "1.1.0", quiet=False, werror=True)
    valid, *_ = mlp_compliance.main(str(tmp_path / "mlperf.log"), "training_1.1.0/common.yaml", checker)
    assert (valid, checker.overwritable, checker.not_overwritable) == (True, {}, [])
