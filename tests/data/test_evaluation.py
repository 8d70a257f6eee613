"""Batches are decoded ahead and in order; results of work beside the network come in order too, or its error does."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import evaluation_input
from ssd_graph.data.evaluation import beside, image_batches


@pytest.fixture
def split(tiny_coco):
    return load_split(tiny_coco, "val")


@pytest.mark.parametrize("batch_size", [1, 4, 6, 7])
@pytest.mark.parametrize("threads", [1, 4])
def test_batches_hold_every_image_once_in_order(split, batch_size, threads):
    images = range(len(split))[::2]
    batches = list(image_batches(split, images, batch_size, threads))
    assert [len(b) for _, b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert np.concatenate([chosen for chosen, _ in batches]).tolist() == list(images)
    expected = np.stack([evaluation_input(split, i) for i in images])
    assert np.array_equal(np.concatenate([pixels for _, pixels in batches]), expected)


def test_a_broken_image_ends_it(split, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    broken = replace(split, image_dir=tmp_path, file_names=np.full(len(split), "broken.jpg"))
    with pytest.raises(InputError, match=r"cannot decode .*broken\.jpg"):
        list(image_batches(broken, range(len(split)), 2, 2))


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_the_order_of_the_calls(threads):
    def slow(number, seconds):
        time.sleep(seconds)
        return number

    calls = [(n, 0.02 * (n % 3 == 0)) for n in range(20)]
    assert list(beside(slow, calls, threads)) == list(range(20))


def test_calls_are_made_while_results_are_computed_and_not_far_ahead():
    made, running = [], threading.Event()

    def wait(number):
        running.wait(10)
        return number

    def calls():
        for n in range(50):
            made.append(n)
            if n == 3:
                running.set()
            yield (n,)

    results = beside(wait, calls(), 2)
    assert next(results) == 0
    assert made == [0, 1, 2, 3]
    assert list(results) == list(range(1, 50))


def test_an_error_comes_to_the_caller():
    def fail(number):
        raise InputError(f"number {number}")

    with pytest.raises(InputError, match="number 0"):
        list(beside(fail, ((n,) for n in range(9)), 2))
