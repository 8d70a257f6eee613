"""Checkpoints round-trip exactly, damaged or foreign files get one clear line, and nothing in them is executed."""

import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint, load_trunk, save_checkpoint
from ssd_graph.config import ModelConfig, model_config
from ssd_graph.data.coco import Categories
from ssd_graph.graph.model import SSD300, skeleton
from ssd_graph.graph.state import StateLayout
from tests.conftest import refusal

CONFIG = model_config("ssd300-nano", 4)
CATEGORIES = Categories((2, 5, 9), ("cat", "dog", "Ölkanne"))


def saved(path, seed=0, ema=False):
    torch.manual_seed(seed)
    model = SSD300(CONFIG)
    layout = StateLayout.of(model)
    state = layout.load(model.state_dict(), loss_scale=128.0)
    state.momentum.normal_()
    state.num_skipped.fill_(3)
    state.skip_streak.fill_(2)
    if ema:
        state = state._replace(ema=torch.randn_like(state.parameters))
    save_checkpoint(path, state, layout, model=CONFIG, categories=CATEGORIES, step=17, run={"seed": 1, "out": "x"})
    return state, layout


@pytest.mark.parametrize("ema", [False, True])
def test_everything_comes_back(tmp_path, ema):
    state, layout = saved(tmp_path / "a.pth", ema=ema)
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert (loaded.model, loaded.categories, loaded.step) == (CONFIG, CATEGORIES, 17)
    assert loaded.run == {"seed": 1, "out": "x"}
    for a, b in zip(loaded.state(layout, torch.device("cpu")), state, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert len(loaded.sha256) == 64


def test_the_moving_average_is_what_is_exported(tmp_path):
    for ema in (False, True):
        state, layout = saved(tmp_path / "a.pth", ema=ema)
        weights = load_checkpoint(tmp_path / "a.pth").weights
        expected = layout.state_dict(state._replace(parameters=state.scored_parameters))
        assert list(weights) == list(expected)
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_saving_leaves_nothing_but_the_file_and_its_sum(tmp_path):
    saved(tmp_path / "a.pth")
    saved(tmp_path / "a.pth", seed=1)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.pth", "a.pth.sha256"]


def test_behind_a_link_the_file_is_replaced_with_its_sum(tmp_path):
    link = tmp_path / "link.pth"
    saved(tmp_path / "a.pth")
    link.symlink_to("a.pth")
    before = load_checkpoint(link).sha256
    saved(link, seed=1)
    assert link.is_symlink()
    assert load_checkpoint(link).sha256 == load_checkpoint(tmp_path / "a.pth").sha256 != before


def test_a_missing_file_is_named(tmp_path):
    assert "nothing.pth" in refusal(load_checkpoint, tmp_path / "nothing.pth")


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_truncated_file_is_called_damaged(tmp_path, keep):
    saved(tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(content[:keep])
    assert "damaged" in refusal(load_checkpoint, tmp_path / "b.pth")


def test_a_foreign_file_is_named_by_what_it_holds(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "a.pth")
    assert "'conv1.weight'); weights of a trunk go to training's --backbone" in refusal(
        load_checkpoint, tmp_path / "a.pth"
    )
    torch.save([1, 2], tmp_path / "b.pth")
    assert "list" in refusal(load_checkpoint, tmp_path / "b.pth")
    torch.save({"format": "ssd_graph"}, tmp_path / "c.pth")
    assert "c.pth" in refusal(load_checkpoint, tmp_path / "c.pth")


@pytest.mark.parametrize("schema", [2, 99])
def test_another_schema_is_refused_with_the_version_that_wrote_it(tmp_path, schema):
    torch.save({"format": "ssd_graph", "schema": schema, "ssd_graph_version": "7.1"}, tmp_path / "a.pth")
    assert "(ssd_graph 7.1), this version reads 3; use the ssd_graph that wrote it" in refusal(
        load_checkpoint, tmp_path / "a.pth"
    )


def test_a_kill_between_file_and_sum_leaves_a_whole_file(tmp_path, monkeypatch):
    saved(tmp_path / "a.pth")
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saved(tmp_path / "a.pth", seed=1)
    load_checkpoint(tmp_path / "a.pth")


def test_a_file_that_is_not_what_its_sum_says_is_damaged(tmp_path):
    saved(tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    assert "its SHA-256 is not the one in a.pth.sha256" in refusal(load_checkpoint, tmp_path / "a.pth")


def edited(path, change):
    """A checkpoint whose content went through `change`, without a sum beside it."""
    saved(path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    path.with_name(f"{path.name}.sha256").unlink()
    return path


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


NAME = "trunk.bn1.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("model_config", "trunk_blocks", value=(1, 1, 10**9)), "more than it has tensors"),
        (put("model_config", "trunk_channels", value=(16, 32, 10**12)), "damaged"),
        (put("model_config", "num_classes", value=10**9), "3 category ids and 3 names for 1000000000 classes"),
        (put("model_config", "extra_channels", value=((0.5, 8),) * 5), "damaged"),
        (put("category_ids", value=[1, 1, 2]), "3 category ids"),
        (put("category_ids", value=["1", "2", "3"]), "category_ids are not integers"),
        (put("category_names", value=[1, 2, 3]), "category_names no text"),
        (put("step", value=-1), "no step"),
        (put("step", value="17"), "no step"),
        (put("run", value=None), "no settings of the run"),
        (put("model", value=7), "damaged"),
        (put("model", NAME, value=torch.ones(16, dtype=torch.int64)), f"'{NAME}' is not a plain tensor"),
        (put("model", NAME, value=torch.ones(16, device="meta")), f"'{NAME}' is not a plain tensor"),
        (put("model", NAME, value=torch.ones(16).to_sparse()), f"'{NAME}' is not a plain tensor"),
        (put("model", NAME, value=torch.ones(1).expand(16)), f"'{NAME}' is not a plain tensor"),
        (put("optimizer", "momentum", value=torch.zeros(3)), "'momentum' has shape (3,)"),
        (put("optimizer", "loss_scale", value=128.0), "'loss_scale' is not a plain tensor"),
        (put("optimizer", "num_skipped", value=torch.tensor(0.5)), "'num_skipped' is not a plain tensor"),
        (put("ema", value=torch.zeros(3)), "'ema' has shape (3,)"),
        (put("ema", value=0.5), "'ema' has shape ()"),
    ],
)
def test_entries_that_make_no_checkpoint_are_refused(tmp_path, change, words):
    assert words in refusal(load_checkpoint, edited(tmp_path / "a.pth", change))


def test_parameters_that_want_gradients_make_a_state_that_does_not(tmp_path):
    value = torch.nn.Parameter(torch.ones(16))
    checkpoint = load_checkpoint(edited(tmp_path / "a.pth", put("model", NAME, value=value)))
    state = checkpoint.state(StateLayout.of(skeleton(CONFIG)), torch.device("cpu"))
    assert not state.parameters.requires_grad


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "ssd_graph", "schema": 1, "model": Malicious()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Malicious()))
    for name in ("a.pth", "b.pth"):
        text = refusal(load_checkpoint, tmp_path / name)
        assert "damaged or not a weights file" in text
        assert "weights_only" not in text  # torch advises to switch it off
    assert not (tmp_path / "executed").exists()


def test_tensors_of_an_npu_are_told_apart_from_damage(tmp_path, monkeypatch):
    for name in ("torch_npu", "torch_npu.utils", "torch_npu.utils.storage"):
        monkeypatch.setitem(sys.modules, name, module := ModuleType(name))
    exec("def _rebuild_npu_tensor(*values): ...", module.__dict__)
    torch.save({"model": module._rebuild_npu_tensor}, tmp_path / "a.pth")
    assert "a.pth holds tensors of an NPU; load it there" in refusal(load_checkpoint, tmp_path / "a.pth")


def torchvision_weights():
    """A resnet34 state dict as torchvision publishes it, batch counters, layer4 and fc included."""
    tensors = {n: t.clone() for n, t in SSD300(ModelConfig()).trunk.state_dict().items()}
    counters = {n.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for n in tensors if "mean" in n}
    return {**tensors, **counters, "layer4.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1000)}


def test_torchvision_weights_fill_the_trunk(tmp_path):
    torch.manual_seed(1)
    weights = torchvision_weights()
    torch.save(weights, tmp_path / "resnet34.pth")
    trunk = SSD300(ModelConfig()).trunk
    load_trunk(tmp_path / "resnet34.pth", trunk)
    assert all(torch.equal(t, weights[n]) for n, t in trunk.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("conv1.weight"), "has no 'conv1.weight'; give a plain state_dict"),
        (lambda w: w.pop("layer2.1.bn1.weight"), "has no 'layer2.1.bn1.weight'"),
        (
            lambda w: w.update({"layer3.0.conv1.weight": torch.zeros(2, 2)}),
            "'layer3.0.conv1.weight' has shape (2, 2)",
        ),
        (lambda w: w.update({"layer1.9.conv1.weight": torch.zeros(1)}), "'layer1.9.conv1.weight', which"),
        (lambda w: w.update({"conv1.weight": "text"}), "'conv1.weight' has shape ()"),
    ],
)
def test_a_wrong_trunk_file_is_refused_by_its_first_wrong_key(tmp_path, change, words):
    weights = torchvision_weights()
    change(weights)
    torch.save(weights, tmp_path / "a.pth")
    trunk = SSD300(ModelConfig()).trunk
    before = trunk.conv1.weight.detach().clone()
    assert words in refusal(load_trunk, tmp_path / "a.pth", trunk)
    assert torch.equal(trunk.conv1.weight, before)


def test_a_deeper_trunks_file_is_refused(tmp_path):
    torch.save(torchvision_weights(), tmp_path / "resnet34.pth")
    trunk = SSD300(model_config("ssd300-r18", 3)).trunk
    assert "which this network has not" in refusal(load_trunk, tmp_path / "resnet34.pth", trunk)
