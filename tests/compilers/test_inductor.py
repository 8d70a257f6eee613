"""What inductor's kernels for a GPU read and write, counted in maps, after what compilers/inductor.py mends."""

import numpy as np
import pytest
import torch
from torch._inductor import config, ir
from torch._inductor.decomposition import select_decomp_table
from torch.nn import functional as F

from ssd_graph.cli import say_once
from ssd_graph.compilers import inductor
from ssd_graph.config import AugmentConfig
from ssd_graph.data.loader import Batch
from ssd_graph.gpu.lower import lower, lower_step
from ssd_graph.gpu.machine_code import assemble
from ssd_graph.graph.augment import augment
from ssd_graph.graph.loss import multibox_loss
from ssd_graph.graph.matcher import Targets

pytest.importorskip("triton", reason="inductor writes GPU kernels with Triton")

IMAGES, CHANNELS, SIDE = 64, 32, 48
MAP_BYTES = 2 * IMAGES * CHANNELS * SIDE**2


def normalised(x, weight, gamma, beta):
    return F.batch_norm(F.conv2d(x, weight, padding=1), None, None, gamma, beta, training=True)


def maps(network, fakes, dtype=torch.bfloat16, **options):
    """Maps that kernels move for the gradients of a network of three layers, convolutions not counted."""
    x = fakes(IMAGES, CHANNELS, SIDE, SIDE, dtype=dtype).to(memory_format=torch.channels_last)
    layer = (fakes(CHANNELS, CHANNELS, 3, 3, dtype=dtype), fakes(CHANNELS), fakes(CHANNELS))
    last = fakes(8, CHANNELS, 1, 1, dtype=dtype)

    def loss(layers, last, x):
        return F.conv2d(network(x, layers), last).square().sum()

    lowering = lower(torch.func.grad(loss, (0, 1)), ([layer] * 3, last, x), IMAGES, **options)
    return lowering.num_bytes / (MAP_BYTES * dtype.itemsize / 2)


def plain(x, layers):
    for layer in layers:
        x = F.relu(normalised(x, *layer))
    return x


def residual(x, layers):
    for layer in layers:
        x = F.relu(normalised(x, *layer) + x)
    return x


BOTHER = 8 / CHANNELS * 4
"""Around the last convolution: its result is read, squared and summed, and its gradient written."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_backward_pass_of_a_normalised_layer_reads_its_map_and_its_gradient(fakes, dtype):
    # Read for the statistics, read and written to normalise; backwards both read, then both read and one written.
    assert 3 * 8 <= maps(plain, fakes, dtype) < 3 * 8 + BOTHER


def test_the_gradient_of_a_sum_is_written_once(fakes):
    # The shortcut is read too. Backwards mask and both gradients become one, which the other kernels read.
    assert 3 * 13 - 1 <= maps(residual, fakes) < 3 * 13 + BOTHER


def test_without_it_more_is_moved(fakes, monkeypatch):
    monkeypatch.setattr(inductor, "MAP_BYTES", float("inf"))
    assert maps(residual, fakes) > 3 * 13 + BOTHER


def test_a_torch_that_nobody_checked_is_left_as_it_is_and_that_is_said_once(fakes, monkeypatch, capsys):
    say_once.cache_clear()
    monkeypatch.setattr(inductor, "CHECKED_TORCH", ("1.0",))
    lower(torch.relu, (fakes(3),), 1)
    assert maps(residual, fakes) == maps(residual, fakes, mended=False)
    assert capsys.readouterr().err.splitlines() == [
        f"inductor of torch {torch.__version__} is left as it is: its kernels were checked with torch 1.0 only"
    ]


def test_what_is_compiled_afterwards_is_inductors_own():
    storage_box, table = ir.StorageBox, select_decomp_table()
    before = dict(vars(storage_box)), dict(table), config.post_grad_custom_post_pass
    with inductor.mended_inductor():
        assert vars(storage_box) != before[0]
        assert torch.ops.aten.max_pool2d_with_indices_backward.default not in table
    assert (dict(vars(storage_box)), dict(table), config.post_grad_custom_post_pass) == before


def test_logits_are_read_twice_and_their_gradient_is_written(fakes):
    images, classes, anchors = 64, 81, 8732
    targets = Targets(fakes(images, 4, anchors), fakes(images, anchors, dtype=torch.int64))
    logits = fakes(images, classes, anchors, dtype=torch.bfloat16)

    def loss(logits, boxes, targets):
        return multibox_loss(boxes, logits.float(), targets).loss

    lowering = lower(torch.func.grad(loss), (logits, fakes(images, 4, anchors), targets), images)
    assert 3 <= lowering.num_bytes / (2 * logits.numel()) < 3.6


def test_levels_stay_bytes_between_changes_of_colour(fakes):
    layout = Batch.layout(64, 8).values()
    batch = Batch(*(fakes(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype) for shape, dtype in layout))
    lowering = lower(lambda batch: augment(batch, AugmentConfig(), torch.float32)[0].bfloat16(), (batch,), 64)
    # Six blends read them for the mean and once more, and write them; the first one's luma is float32.
    assert lowering.num_bytes < 40 * batch.images.numel()


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "size"),
    [
        ((3, 3), (2, 2), (1, 1), (10, 10)),
        ((3, 3), (2, 2), (1, 1), (11, 9)),
        ((2, 2), (2, 2), (0, 0), (9, 8)),  # the last row is in no window
        ((3, 2), (1, 2), (1, 0), (7, 9)),
        ((3, 3), (3, 2), (0, 1), (11, 13)),
        ((5, 3), (2, 1), (2, 1), (12, 7)),
    ],
)
def test_the_gradient_of_pooling_is_torch_s(kernel_size, stride, padding, size):
    images = torch.randint(0, 4, (2, 3, *size)).double().requires_grad_()  # with equal maxima in many windows
    pooled, indices = F.max_pool2d(images, kernel_size, stride, padding, return_indices=True)
    gradient = torch.randn_like(pooled)
    (expected,) = torch.autograd.grad(pooled, images, gradient)
    rows, columns = (torch.arange(num) * s - p for num, s, p in zip(pooled.shape[2:], stride, padding, strict=True))
    offsets = (indices // size[1] - rows[:, None]) * kernel_size[1] + indices % size[1] - columns
    ours = inductor.pooling_gradient(gradient, offsets.to(torch.int8), size, kernel_size, stride, padding)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_every_kernel_of_a_large_batch_becomes_machine_code():
    """What was gathered in one loop of a kernel and used in another was not known to Triton at this size only."""
    assert assemble(lower_step("ssd300-r34", 128, "bf16").code).binaries
