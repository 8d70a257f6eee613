"""The network is the published one: sizes, cost, output layout and initialisation frozen from the facts."""

import pytest
import torch
from torch import nn

from ssd_graph.cli import InputError
from ssd_graph.config import MODELS, ModelConfig, model_config
from ssd_graph.graph.model import SSD300, refit_heads
from tests import reference


@pytest.fixture(scope="module")
def r34():
    torch.manual_seed(0)
    return SSD300(ModelConfig())


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_r34_has_the_published_parameters(r34):
    assert count(r34) == 19_972_534
    assert (count(r34.trunk), count(r34.extra)) == (8_170_304, 3_574_400)
    assert count(r34.box_head) + count(r34.class_head) == 8_227_830
    assert len(list(r34.parameters())) == 119 + 6 * 2  # the published count is of fused heads: 12 tensors fewer


def test_r34_has_29_norms_of_9856_channels_and_the_published_one_dimensional_parameters(r34):
    statistics = dict(r34.named_buffers())
    assert sum(b.numel() for b in statistics.values()) == 9_856
    assert len(statistics) == 29 * 2
    assert sum(p.numel() for p in r34.parameters() if p.ndim == 1) == 15_094


def test_r34_costs_15_862_gmac_an_image():
    with torch.device("meta"):
        model = SSD300(ModelConfig()).eval()
    macs, sizes = [], []

    def record(module, inputs, output):
        macs.append(module.weight.numel() * output.shape[2] * output.shape[3])
        sizes.append(tuple(output.shape[1:]))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    boxes, classes = model(torch.empty(1, 3, 300, 300, device="meta"))
    assert round(sum(macs) / 1e9, 3) == 15.862
    assert (boxes.shape, classes.shape) == ((1, 4, 8732), (1, 81, 8732))
    for feature_map in [(256, 38, 38), (512, 19, 19), (512, 10, 10), (256, 5, 5), (256, 3, 3), (256, 1, 1)]:
        assert feature_map in sizes


def test_outputs_equal_a_plain_network_with_the_same_weights():
    torch.manual_seed(1)
    config = model_config("ssd300-nano", 7)
    ours, plain = SSD300(config).eval(), reference.network(config).eval()
    reference.load_ours(plain, ours.state_dict())
    images = torch.randn(2, 3, 300, 300)
    with torch.no_grad():
        for a, b in zip(ours(images), plain(images), strict=True):
            assert torch.equal(a, b)


def test_a_head_channel_is_coordinate_major_and_an_anchor_is_box_row_column():
    torch.manual_seed(2)
    config = model_config("ssd300-nano", 3)
    model = SSD300(config).eval()
    with torch.no_grad():
        for head in model.class_head:
            nn.init.zeros_(head.weight)
            head.bias.copy_(torch.arange(len(head.bias)))
        _, classes = model(torch.zeros(1, 3, 300, 300))
    # Level 1 (19 x 19, six boxes) begins at anchor 5776; its channel for class c and box b is 6 c + b.
    for c in range(3):
        for b in range(6):
            assert classes[0, c, 5776 + b * 361 + 200] == 6 * c + b


def test_head_and_extra_weights_are_xavier_uniform_of_unfused_heads(r34):
    for module, bound in ((r34.box_head[0], 0.04951), (r34.class_head[0], 0.03390)):
        assert module.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    conv = r34.extra[0][0]
    assert conv.weight.abs().max().item() == pytest.approx((6 / 512) ** 0.5, rel=1e-3)
    assert conv.bias.abs().max().item() <= 256**-0.5


def test_trunk_names_are_torchvisions(r34):
    names = set(r34.trunk.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.2.conv2.weight", "layer3.0.downsample.0.weight"} <= names
    assert r34.trunk.layer3[0].conv1.stride == (1, 1)


def test_training_mode_replaces_statistics_by_the_batchs_as_pytorchs_momentum_of_one_does():
    torch.manual_seed(3)
    config = model_config("ssd300-nano", 4)
    ours, plain = SSD300(config).train(), reference.network(config).train()
    names = reference.load_ours(plain, ours.state_dict())
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    images = torch.randn(2, 3, 300, 300)
    ours(images)
    plain(images)
    for theirs, mine in names.items():
        assert torch.equal(plain.state_dict()[theirs], ours.state_dict()[mine]), mine


@pytest.mark.parametrize("preset", MODELS)
def test_every_preset_covers_all_default_boxes(preset):
    with torch.device("meta"):
        boxes, classes = SSD300(model_config(preset, 5))(torch.empty(2, 3, 300, 300))
    assert (boxes.shape, classes.shape) == ((2, 4, 8732), (2, 5, 8732))


def test_fewer_than_two_classes_are_refused():
    with pytest.raises(ValueError, match="background"):
        model_config("ssd300-r34", 1)


def test_refitting_to_other_categories_keeps_all_but_the_heads_and_takes_those_as_the_target_has_them():
    torch.manual_seed(4)
    trained = SSD300(model_config("ssd300-nano", 4)).state_dict()
    target = SSD300(model_config("ssd300-nano", 9))
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    refitted = refit_heads(trained, target)
    assert refitted.keys() == fresh.keys()
    for name, tensor in refitted.items():
        assert torch.equal(tensor, (fresh if "head" in name else trained)[name]), name
    target.load_state_dict(refitted)


def test_refitting_another_preset_is_refused():
    tensors = SSD300(model_config("ssd300-nano", 4)).state_dict()
    with pytest.raises(InputError, match=r"'trunk.conv1.weight' does not fit ssd300-r18"):
        refit_heads(tensors, SSD300(model_config("ssd300-r18", 4)))
