"""Proves that shared arrays have the layout asked for and tell just when nothing refers to them any more."""

import gc

import numpy as np
import torch

from ssd_graph.data.shared import SharedArrays

LAYOUT = {"a": ((3, 5), np.uint8), "b": ((2,), np.float32), "none": ((0, 4), np.int64), "flags": ((7,), np.bool_)}


def test_arrays_have_their_shapes_and_dtypes_and_begin_as_zeros():
    views = SharedArrays(LAYOUT).views()
    assert {n: (v.shape, v.dtype.type) for n, v in views.items()} == LAYOUT
    assert not any(v.any() for v in views.values())
    assert all(v.ctypes.data % 64 == views["a"].ctypes.data % 64 for v in views.values())


def test_views_are_the_same_memory_and_do_not_overlap():
    shared = SharedArrays(LAYOUT)
    for number, view in enumerate(shared.views().values()):
        view[...] = number + 1
    assert shared.views()["a"].tolist() == [[1] * 5] * 3
    assert shared.views()["b"].tolist() == [2, 2]
    assert shared.views()["flags"].all()


def test_release_waits_for_everything_made_of_the_arrays():
    released = []
    views = SharedArrays(LAYOUT).views(lambda: released.append(True))
    row, tensor = views["a"][1], torch.from_numpy(views["b"])
    del views
    gc.collect()
    assert not released
    row[0] = 9
    del row
    assert not released
    tensor = tensor[:1].view(1, 1)
    assert not released
    del tensor
    assert released == [True]


def test_arrays_outlive_the_object_that_made_them():
    view = SharedArrays(LAYOUT).views()["a"]
    gc.collect()
    view[...] = 3
    assert view.sum() == 45
