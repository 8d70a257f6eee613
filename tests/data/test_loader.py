"""Proves that training batches are one fixed stream of samples: the same for any number of workers and ranks
and from any first step on, every epoch complete and in a new order.
"""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from ssd_graph.config import NO_AUGMENT, AugmentConfig
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.loader import Batch, Loader


@pytest.fixture(scope="module")
def split(tiny_coco):
    return load_split(tiny_coco, "train")


def first_batches(split, count, *, first_step=0, batch_size=3, augment=None, **options):
    loader = Loader(split, batch_size, augment or AugmentConfig(), **options)
    return list(islice(loader.batches(first_step), count))


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for batch, other in zip(found, expected, strict=True):
        for name, field, other_field in zip(batch._fields, batch, other, strict=True):
            np.testing.assert_array_equal(field, other_field, err_msg=name)


def samples(loader, num_steps):
    return [loader.samples.position(step, slot) for step in range(num_steps) for slot in range(loader.batch_size)]


def test_a_batch_has_the_contracts_shapes_and_dtypes(split):
    (batch,) = first_batches(split, 1, batch_size=2)
    described = {name: (field.shape, str(field.dtype)) for name, field in batch._asdict().items()}
    assert described == {
        "images": ((2, 300, 300, 3), "uint8"),
        "boxes": ((2, 8, 4), "float32"),
        "labels": ((2, 8), "int64"),
        "flip": ((2,), "bool"),
        "blends": ((2, 6, 3), "float32"),
        "hue": ((2,), "float32"),
    }


@pytest.mark.parametrize(("name", "most", "num_boxes"), [("train", 51, 56), ("val", 45, 48)])
def test_box_slots_are_the_largest_count_rounded_up_to_eight(shared, name, most, num_boxes):
    real = load_split(shared / "coco_mini", name)
    assert (real.max_boxes, Loader(real, 1, NO_AUGMENT).num_boxes) == (most, num_boxes)


def test_without_augmentation_a_sample_is_the_resized_image_and_its_boxes(split):
    loader = Loader(split, 4, NO_AUGMENT, workers=0)
    batch = next(loader.batches())
    for slot in range(4):
        _, i = loader.samples.position(0, slot)
        difference = np.abs(batch.images[slot].astype(int) - preprocess(decode(split.path(i))))
        assert difference.max() <= 2
        assert difference.mean() < 0.2
        boxes, labels = split.boxes_of(i)
        np.testing.assert_array_equal(batch.boxes[slot, : len(boxes)], boxes)
        assert batch.labels[slot].tolist() == [*labels.tolist(), *[0] * (8 - len(labels))]
    assert not batch.flip.any()
    assert not batch.hue.any()


def test_padding_is_label_zero_and_an_empty_box(split):
    for batch in first_batches(split, 4):
        padded = batch.labels == 0
        assert padded.any()
        assert not padded[:, 0].any()
        assert not batch.boxes[padded].any()
        assert (batch.boxes[~padded][:, 2:] > batch.boxes[~padded][:, :2]).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_batches(split, workers):
    assert_same(first_batches(split, 5, workers=workers), first_batches(split, 5, workers=0))


def test_ranks_share_out_the_batches_of_one_process(split):
    alone = first_batches(split, 3, batch_size=4)
    ranks = [first_batches(split, 3, batch_size=2, rank=r, world_size=2) for r in range(2)]
    for batch, *parts in zip(alone, *ranks, strict=True):
        assert_same([Batch(*map(np.concatenate, zip(*parts, strict=True)))], [batch])


def test_batch_size_cuts_the_same_stream_elsewhere(split):
    whole, halves = first_batches(split, 4, batch_size=6), first_batches(split, 8, batch_size=3)
    for batch, *parts in zip(whole, halves[0::2], halves[1::2], strict=True):
        assert_same([Batch(*map(np.concatenate, zip(*parts, strict=True)))], [batch])


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 5), (2, 3), (3, 4)])
def test_ranks_are_disjoint_and_cover_each_epoch_once(split, world_size, batch_size):
    seen = Counter()
    for rank in range(world_size):
        seen.update(samples(Loader(split, batch_size, NO_AUGMENT, rank=rank, world_size=world_size), 20))
    assert max(seen.values()) == 1
    for epoch in range(20 * world_size * batch_size // len(split)):
        assert {i for e, i in seen if e == epoch} == set(range(len(split)))


def test_second_epoch_is_reshuffled(split):
    stream = samples(Loader(split, len(split), NO_AUGMENT), 3)
    orders = [tuple(i for e, i in stream if e == epoch) for epoch in range(3)]
    assert len({*orders, tuple(range(len(split)))}) == 4


def test_another_seed_gives_another_order(split):
    orders = {tuple(samples(Loader(split, 10, NO_AUGMENT, seed=s), 1)) for s in (0, 1, 2**40)}
    assert len(orders) == 3


def test_the_same_image_is_augmented_anew_each_epoch(split):
    only = replace(split, image_ids=split.image_ids[:1])
    batch, following = first_batches(only, 2, batch_size=1)
    assert batch.hue[0] != following.hue[0]
    assert (batch.blends != following.blends).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_at_a_step_equals_skipping_to_it(split, workers):
    expected = first_batches(split, 7)[4:]
    assert_same(first_batches(split, 3, first_step=4, workers=workers), expected)


def test_a_batch_can_span_two_epochs(split):
    size = len(split) - 1
    loader = Loader(split, size, NO_AUGMENT, workers=0)
    assert [epoch for epoch, _ in samples(loader, 2)][size:] == [0] + [1] * (size - 1)
    batch = next(loader.batches(1))
    for slot in range(size):
        labels = split.boxes_of(loader.samples.position(1, slot)[1])[1]
        assert batch.labels[slot, : len(labels)].tolist() == labels.tolist()


def test_a_batch_can_be_larger_than_the_split(split):
    (batch,) = first_batches(split, 1, batch_size=2 * len(split) + 1, augment=NO_AUGMENT)
    assert (batch.labels[:, 0] > 0).all()


def test_half_of_the_images_are_flipped(split):
    flips = np.concatenate([batch.flip for batch in first_batches(split, 20, batch_size=10)])
    assert 75 <= flips.sum() <= 125
