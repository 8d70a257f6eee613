"""Published checkpoints give the outputs of the networks they come from, and come back bit for bit.

The sources are tests/checkpoints/published_models.py with random weights and statistics: no published file was at hand.
"""

import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssd_graph.checkpoints.checkpoint import read_weights_file
from ssd_graph.checkpoints.published import LAYOUTS, is_published, read_published, to_published
from ssd_graph.config import model_config
from ssd_graph.graph.model import SSD300
from tests.checkpoints.published_models import NANO, NUM_BOXES, R34, AscSSD, RefSSD
from tests.checkpoints.test_checkpoint import Malicious
from tests.conftest import refusal

NUM_BATCHES = 183_251


def network(layout, num_classes=5, shape=NANO):
    """A source network with random weights and batch statistics, in evaluation mode."""
    torch.manual_seed(0)
    result = {"asc": AscSSD, "ref": RefSSD}[layout](num_classes, **shape).eval()
    for module in result.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.1)
            module.num_batches_tracked.fill_(NUM_BATCHES)
    return result


def saved(path, state, **more):
    torch.save({"model": state, **more}, path)
    return path


def require_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def require_same_outputs(published, source):
    """Both heads agree in float64 on a random image."""
    ours = SSD300(published.model)
    ours.load_state_dict(published.tensors)
    image = torch.randn(1, 3, 300, 300, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(ours.double().eval()(image), source.double()(image), strict=True):
            assert b.std() > 1e-3
            assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("preset", "shape"), [("ssd300-r34", R34), ("ssd300-nano", NANO)])
def test_the_imported_network_computes_what_its_source_computes(layout, preset, shape, tmp_path):
    source = network(layout, 3, shape)
    published = read_published(saved(tmp_path / "a.pt", source.state_dict()))
    assert published.model == model_config(preset, 3)
    require_same_outputs(published, source)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_and_export_give_back_every_bit_and_no_other_key(layout, tmp_path):
    state = network(layout, 81, R34).state_dict()
    published = read_published(saved(tmp_path / "a.pt", state))
    assert published.num_batches == NUM_BATCHES
    require_equal(to_published(published.tensors, layout, published.num_batches), dict(state))


@pytest.mark.parametrize(("source", "target"), [("asc", "ref"), ("ref", "asc")])
def test_an_export_loads_strictly_into_the_other_layouts_network_and_computes_the_same(source, target, tmp_path):
    published = read_published(saved(tmp_path / "a.pt", network(source).state_dict()))
    other = network(target)
    other.load_state_dict(to_published(published.tensors, target), strict=True)
    require_same_outputs(published, other)
    require_same_outputs(published, network(source))


def test_a_file_without_batch_counters_is_read_and_written_without_them(tmp_path):
    state = {n: t for n, t in network("asc").state_dict().items() if not n.endswith("num_batches_tracked")}
    published = read_published(saved(tmp_path / "a.pt", state))
    assert published.num_batches is None
    require_equal(to_published(published.tensors, "asc", None), state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module_prefix_is_dropped(layout, tmp_path):
    state = network(layout).state_dict()
    plain = read_published(saved(tmp_path / "a.pt", state))
    wrapped = read_published(saved(tmp_path / "b.pt", {f"module.{n}": t for n, t in state.items()}))
    require_equal(wrapped.tensors, plain.tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_compute_what_they_stored(dtype, tmp_path):
    source = network("asc").to(dtype)
    published = read_published(saved(tmp_path / "a.pt", source.state_dict()))
    assert {t.dtype for t in published.tensors.values()} == {torch.float32}
    require_same_outputs(published, source.float())


def padded_heads(state):
    """NVIDIA's heads: up to the next multiple of 8 channels, of which the last 1 to 8 have zero weights."""
    result = dict(state)
    for name in state:
        if name.startswith("mbox."):
            new = torch.zeros if name.endswith("weight") else torch.randn
            result[name] = torch.cat([state[name], new(8 - len(state[name]) % 8, *state[name].shape[1:])])
    return result


def nhwc(state):
    """NVIDIA's channels-last convolutions."""
    return {n: t.permute(0, 2, 3, 1).contiguous() if t.ndim == 4 else t for n, t in padded_heads(state).items()}


def nhwc_with_padded_input(state):
    stem = state["model.0.weight"]
    return nhwc({**state, "model.0.weight": torch.cat([stem, torch.randn(len(stem), 1, 7, 7)], 1)})


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 80, 81])
@pytest.mark.parametrize("form", [padded_heads, nhwc, nhwc_with_padded_input])
def test_padding_and_channels_last_are_undone(num_classes, form, tmp_path):
    state = network("asc", num_classes).state_dict()
    published = read_published(saved(tmp_path / "a.pt", form(state)))
    assert published.model.num_classes == num_classes
    require_equal(to_published(published.tensors, "asc", NUM_BATCHES), dict(state))


def test_the_class_counts_that_padding_confuses_are_among_those_tested():
    def channels(num_classes, change=dict):
        heads = change(network("asc", num_classes).state_dict())
        return [len(heads[f"mbox.{i}.bias"]) for i in range(len(NUM_BOXES))]

    assert channels(81, padded_heads) == [344, 512, 512, 512, 344, 344] == channels(80, padded_heads)
    assert channels(3, padded_heads) == channels(4)


def test_unused_channels_that_are_in_use_are_refused(tmp_path):
    state = padded_heads(network("asc").state_dict())
    state["mbox.2.weight"][-1, 3, 2, 1] = 1e-3
    assert "fit no number of classes" in message(saved(tmp_path / "a.pt", state))


@pytest.mark.parametrize(
    ("label_map", "names"),
    [
        ({0: "background", 1: "cat", 2: "dog"}, ("cat", "dog")),
        ({0: "background", 1: "cat"}, None),
        ({1: 5, 2: 6}, None),
        ("cat, dog", None),
    ],
)
def test_category_names_come_from_a_whole_label_map(label_map, names, tmp_path):
    path = saved(tmp_path / "a.pt", network("ref", 3).state_dict(), label_map=label_map)
    assert read_published(path).category_names == names


def message(path):
    return refusal(read_published, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model.3.0.bn1.weight"), "has no 'model.3.0.bn1.weight'"),
        (lambda s: s.pop("model.4.0.bn2.num_batches_tracked"), "has no 'model.4.0.bn2.num_batches_tracked'"),
        (lambda s: s.pop("mbox.5.bias"), "has no 'mbox.5.bias'"),
        (lambda s: s.pop("mbox.2.weight"), "has no 'mbox.2.weight'"),
        (lambda s: s.update({"loc.0.bias": torch.zeros(16)}), "has 'loc.0.bias', which"),
        (lambda s: s.update({"fc.weight": torch.zeros(1)}), "has 'fc.weight', which"),
        (lambda s: s.update({"mbox.6.weight": torch.zeros(1)}), "has 'mbox.6.weight', which"),
        (lambda s: s.update({"a\nb": torch.zeros(1)}), r"has 'a\nb', which"),
        (lambda s: s.update({5: torch.zeros(1)}), "has '5', which"),
        (lambda s: s.update({"additional_blocks.2.0.weight": torch.zeros(3)}), "'additional_blocks.2.0.weight' has"),
        (lambda s: s.update({"model.0.weight": torch.zeros(())}), "'model.0.weight' has shape ()"),
        (lambda s: s.update({"mbox.1.weight": torch.zeros(())}), "fit no number of classes"),
        (lambda s: s.update({"mbox.3.weight": torch.zeros(7, 64, 3, 3)}), "fit no number of classes"),
        (lambda s: s.update({"mbox.0.weight": torch.zeros(0)}), "fit no number of classes"),
        (lambda s: s.update({"mbox.0.weight": torch.zeros(36)}), "'mbox.0.weight' has shape (36,)"),
        (lambda s: s.update({"mbox.3.bias": torch.zeros(7)}), "'mbox.3.bias' has shape (7,)"),
        (lambda s: s.update({"mbox.3.bias": torch.zeros(())}), "'mbox.3.bias' has shape ()"),
        (lambda s: s.update({"module.mbox.0.bias": torch.zeros(1)}), "'mbox.0.bias' with and without"),
        (lambda s: s.update({"mbox.0.bias": "text"}), "'mbox.0.bias' is not a plain tensor"),
        (lambda s: s.update({"mbox.0.bias": torch.zeros(36, dtype=torch.int64)}), "'mbox.0.bias' is not a plain"),
        (lambda s: s.update({"mbox.0.bias": torch.zeros(36).to(torch.float8_e4m3fn)}), "'mbox.0.bias' is not a plain"),
        (lambda s: s.update({"mbox.0.bias": torch.zeros(36).to_sparse()}), "'mbox.0.bias' is not a plain"),
        (lambda s: s.update({"mbox.0.bias": torch.zeros(36, device="meta")}), "'mbox.0.bias' is not a plain"),
        (lambda s: s.update({"mbox.0.bias": torch.zeros(1).expand(10**12)}), "'mbox.0.bias' is not a plain"),
        (lambda s: s.update({"model.0.weight": torch.zeros(1).expand(10**6, 7, 7, 10**6)}), "'model.0.weight' is not"),
        (lambda s: s.update({"model.1.num_batches_tracked": torch.ones(2, dtype=torch.int64)}), "has shape (2,)"),
        (lambda s: s.update({"model.1.num_batches_tracked": torch.tensor(0.5)}), "tracked' is not a plain"),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(change, words, tmp_path):
    state = dict(network("asc").state_dict())
    change(state)
    assert words in message(saved(tmp_path / "a.pt", state))


def test_a_missing_trunk_tensor_of_the_reference_is_named_as_the_reference_names_it(tmp_path):
    state = dict(network("ref", 5, R34).state_dict())
    del state["model.layer2.0.5.conv2.weight"]
    assert "has no 'model.layer2.0.5.conv2.weight'" in message(saved(tmp_path / "a.pt", state))


def test_a_detector_with_another_trunk_is_refused(tmp_path):
    state = network("ref").state_dict()
    renamed = {n.replace("model.layer1.", "feature_extractor.feature_extractor."): t for n, t in state.items()}
    assert "has no 'model.layer1.0.weight'" in message(saved(tmp_path / "a.pt", renamed))


def test_files_of_other_programs_are_refused(tmp_path):
    for content in ({"conv1.weight": torch.zeros(1)}, {"model": {}}, {"model": [1]}, {}):
        torch.save(content, tmp_path / "a.pt")
        assert "is not a published SSD-ResNet34 checkpoint" in message(tmp_path / "a.pt")
    assert "no file" in message(tmp_path / "gone.pt")


def test_published_files_are_recognised_and_ours_are_not(trained, tmp_path):
    for layout in LAYOUTS:
        state = network(layout).state_dict()
        assert is_published({"model": state})
        torch.save(state, tmp_path / "bare.pt")
        require_equal(
            read_published(tmp_path / "bare.pt").tensors, read_published(saved(tmp_path / "a.pt", state)).tensors
        )
        assert is_published({"model": {f"module.{n}": t for n, t in state.items()}, "label_map": {}})
    assert not is_published(read_weights_file(trained / "last.pth"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_executed(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {**network("asc").state_dict(), "mbox.0.bias": Malicious()}
    torch.save({"model": state}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"model": Malicious()}))
    for name in ("a.pt", "b.pt"):
        assert "damaged or not a weights file" in message(tmp_path / name)
    assert not (tmp_path / "executed").exists()
