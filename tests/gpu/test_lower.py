"""Inductor compiles the step for a GPU that is not there, and what is counted is what it wrote."""

import json
import re
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from ssd_graph.bench.step import train_flops_per_image
from ssd_graph.cli import InputError
from ssd_graph.compilers.backend import keep_addresses
from ssd_graph.gpu import stand_in
from ssd_graph.gpu.lower import lower, lower_step
from tests.run import exit_code

pytest.importorskip("triton", reason="inductor writes GPU kernels with Triton")


@pytest.fixture(scope="module")
def step():
    return lower_step("ssd300-nano", 2, "bf16", world_size=2)


def test_nothing_of_the_step_comes_from_the_host_and_it_can_be_a_cuda_graph(step):
    assert step.host_constants == ()
    assert step.cuda_graph_refused is None


def test_both_heads_of_a_level_are_one_convolution(step):
    kinds = [kernel.kind for kernel in step.kernels]
    assert kinds.count("convolution") == kinds.count("convolution_backward") == 9 + 10 + 6
    assert kinds.count("sort") == 1


def test_ranks_talk_once(step):
    assert [kernel.kind for kernel in step.kernels].count("all_reduce_") == 1


def test_every_part_of_the_step_has_kernels(step):
    stages = {"augment", "match", "unpack", "network", "loss", "backward", "reduce", "update"}
    assert {kernel.stage for kernel in step.kernels} >= stages


def test_the_convolutions_are_those_of_the_network(step):
    counted = train_flops_per_image("ssd300-nano")
    # The step's heads have up to seven channels more.
    assert counted < step.flops / 2 < 1.03 * counted


def test_the_state_is_read_and_written_at_least_once(step):
    update = sum(kernel.num_bytes for kernel in step.kernels if kernel.stage == "update")
    num_parameters = 2_362_086
    assert update > 4 * 4 * num_parameters


def test_bytes_of_a_kernel_counted_by_hand(fakes):
    def scale(x, factor):
        return (x * factor + 1.0).relu(), x.sum(1)

    lowering = lower(scale, (fakes(256, 1024), fakes(1024)), 1)
    read_twice = sum(kernel.num_bytes for kernel in lowering.kernels)
    assert {kernel.kind for kernel in lowering.kernels} == {"triton"}
    elements = 256 * 1024
    fused = 4 * (elements + 1024 + elements + 256)
    assert read_twice in (fused, fused + 4 * elements)


def test_contiguous_images_have_every_map_turned(fakes):
    def network(images, *weights):
        for weight in weights:
            images = F.conv2d(images, weight, padding=1).relu()
        return images

    weights = [fakes(16, 16, 3, 3) for _ in range(3)]
    loss = torch.func.grad(lambda weights, images: network(images, *weights).sum())
    images = fakes(8, 16, 32, 32)
    last = images.to(memory_format=torch.channels_last)
    turned, straight = (lower(loss, (weights, images), 8) for images in (images, last))
    assert turned.num_bytes > 1.3 * straight.num_bytes


def test_the_gradient_of_pooling_is_gathered(fakes):
    images = fakes(8, 16, 32, 32, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    gradient = torch.func.grad(lambda x: F.max_pool2d(x, 3, 2, 1).square().sum())
    # Read the images, write and read what pooling leaves and where it was, write the gradient; nothing in float32.
    assert lower(gradient, (images,), 8).num_bytes < 3.2 * 2 * images.numel()


def test_a_tensor_literal_is_a_constant_of_the_host(fakes):
    def shift(x):
        return x + torch.tensor([1.0, 2.0])

    assert len(lower(shift, (fakes(3, 2),), 1).host_constants) == 1


def test_an_overwritten_argument_must_stay_in_place_for_a_cuda_graph(fakes):
    def overwrite(x, y):
        x.copy_(x + y)

    x, y = fakes(8), fakes(8)
    refused = "1 of its inputs are overwritten and may be moved"
    assert lower(overwrite, (x, y), 1).cuda_graph_refused == refused
    keep_addresses([x, None])
    assert lower(overwrite, (x, y), 1).cuda_graph_refused is None


def test_a_graph_break_is_an_error(fakes):
    def broken(x):
        y = x * 2
        torch._dynamo.graph_break()
        return y + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        lower(broken, (fakes(3),), 1)


def test_nothing_of_the_stand_in_is_left(step):
    assert not torch.cuda.is_available()
    doubled = torch.compile(lambda x: 2 * x, backend="aot_eager", fullgraph=True)
    assert torch.equal(doubled(torch.ones(3)), torch.full((3,), 2.0))


def test_without_triton_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(stand_in, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"run `pip install 'ssd_graph\[gpu\]'`"):
        lower_step("ssd300-nano", 2, "bf16")


def test_with_a_gpu_it_is_to_be_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match=r"measure with `tools/bench\.py step --gpus`"):
        lower_step("ssd300-nano", 2, "bf16")


def test_the_command_prints_a_table_or_an_object(step, tmp_path, capsys):
    asked = []
    fake_step = partial(lambda *args, mended: asked.append((*args, mended)) or step)
    with patch("ssd_graph.gpu.lower.lower_step", fake_step):
        for flags, text in (
            (["--json", "-"], "{"),
            (["-b", "2", "--plain", "--json", str(tmp_path / "a.json")], "compiled for"),
        ):
            assert exit_code("tools/lower_gpu.py", *flags) == 0
            assert capsys.readouterr().out.startswith(text)
    assert asked[0][-1]
    assert asked[1] == ("ssd300-r34", 2, "bf16", 1, torch.channels_last, False)
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["kernels"]["convolution"] == 25
    assert written["megabytes_per_image"] == pytest.approx(
        sum(written["megabytes_per_image_by_stage"].values()), abs=0.1
    )


def test_the_command_writes_the_code_and_assembles_it(fakes, tmp_path, capsys):
    small = lower(lambda x: x.relu(), (fakes(300),), 1)
    flags = ("--assemble", "--out", tmp_path / "code.py", "--json", tmp_path / "a.json")
    with patch("ssd_graph.gpu.lower.lower_step", lambda *args, mended: small):
        exit_code("tools/lower_gpu.py", *flags)
    assert "machine code    1 different kernels" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["machine_code"]["kernels"] == 1
    assert "triton.jit" in (tmp_path / "code.py").read_text()


def test_saved_statistics_of_a_half_precision_map_are_float32_as_on_a_gpu(fakes):
    def saved(x, mean, variance):
        norm = torch.ops.aten._native_batch_norm_legit_functional
        return norm(x, None, None, mean, variance, True, 0.1, 1e-5)[1:3]

    lowering = lower(saved, (fakes(2, 4, 8, 8, dtype=torch.bfloat16), fakes(4), fakes(4)), 1)
    allocated = re.findall(r"empty_strided_cuda\(.*?(torch\.\w+)\)", lowering.code)
    assert set(allocated) == {"torch.float32"}
