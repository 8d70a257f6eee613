"""Proves that batches reach the device as tensors, on the CPU without a copy and with the stream's end passed on."""

import numpy as np
import pytest
import torch

from ssd_graph.config import AugmentConfig
from ssd_graph.data.coco import load_split
from ssd_graph.data.loader import Batch, Loader
from ssd_graph.training.feed import feed, to_device

CPU = torch.device("cpu")


def test_on_the_cpu_tensors_are_the_arrays_memory():
    batch = Batch.empty(2, 8)
    tensors = to_device(batch, CPU)
    for array, tensor in zip(batch, tensors, strict=True):
        assert tensor.data_ptr() == array.ctypes.data
        assert tensor.numpy().dtype == array.dtype


NEEDS_ONE = pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.accelerator.current_accelerator(), marks=NEEDS_ONE)])
def test_the_feed_hands_on_every_batch_in_order(tiny_coco, device):
    split = load_split(tiny_coco, "train")
    expected = Loader(split, 3, AugmentConfig(), workers=0).batches()
    batches = feed(Loader(split, 3, AugmentConfig(), workers=2).batches(), device)
    for _ in range(10):
        for tensor, array in zip(next(batches), next(expected), strict=True):
            np.testing.assert_array_equal(tensor.cpu().numpy(), array)
    batches.close()


def test_closing_the_feed_closes_the_loader():
    closed = []

    def batches():
        try:
            while True:
                yield Batch.empty(1, 8)
        finally:
            closed.append(True)

    fed = feed(batches(), CPU)
    next(fed)
    fed.close()
    assert closed
