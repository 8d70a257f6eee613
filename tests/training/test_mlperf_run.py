"""A real run's MLPerf log passes MLCommons' compliance checker, closed division, SSD rules 1.1."""

from dataclasses import replace

import pytest
from mlperf_logging.compliance_checker import mlp_compliance

from ssd_graph.config import MODELS, NO_AUGMENT, RECIPES, epochs_every
from ssd_graph.training.metrics import read_records
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.train import train
from tests.conftest import real_subset


@pytest.mark.slow
def test_the_log_of_a_run_that_reaches_the_target_breaks_no_rule(shared, tmp_path, monkeypatch):
    """The rules ask for AP 0.23 and for ssd300-r34's tensors: a thin one learns eight real images by heart."""
    thin = replace(MODELS["ssd300-nano"], preset="thin", trunk_blocks=MODELS["ssd300-r34"].trunk_blocks)
    monkeypatch.setitem(MODELS, "thin", thin)
    real_subset(shared / "coco_mini", tmp_path / "data", num_images=8)
    recipe = replace(
        RECIPES["mlperf-256"],
        learning_rate=0.04,
        weight_decay=5e-3,
        warmup_epochs=5.0,
        decay_epochs=(40.0, 50.0),  # 40 and 50 x (1 + k/10) for a whole k, as the rules have it
        epochs=60.0,
        evaluation_epochs=epochs_every(5, 60),
        batch_size=4,
        augment=NO_AUGMENT,
    )
    log = tmp_path / "mlperf.log"
    train(TrainOptions(data=str(tmp_path / "data"), preset="thin", recipe=recipe, out=tmp_path / "run", mlperf_log=log))
    assert read_records(tmp_path / "run" / "metrics.jsonl", "validation")[-1]["AP"] >= 0.23
    checker = mlp_compliance.make_checker("training", "1.1.0", quiet=False, werror=True)
    valid, *_ = mlp_compliance.main(str(log), "training_1.1.0/common.yaml", checker)
    assert valid
    assert not checker.overwritable
    assert not checker.not_overwritable
