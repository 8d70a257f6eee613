"""A small YOLO folder, changed by tests, and what the command makes of it."""

import json

import pytest

from tests.data.convert.folders import boxes, convert, write

LABEL = "0 0.5 0.5 0.2 0.5"
"""Of a picture of 100 x 60 the box 40, 15, 20, 30."""
BOX = pytest.approx((40, 15, 20, 30))


def describe(root, **entries):
    write(root / "data.yaml", json.dumps({"names": ["cat", "no"], **entries}))


def label(root, text, split="train"):
    write(root / split / "labels" / f"{split}.txt", text)


def converted(root, *flags, code=0):
    out = root.parent / "out"
    assert convert(root, out, *flags) == code
    return boxes(out)


def only_box(root, **options):
    ((name, *box),) = converted(root, **options)["train.jpg"]
    return name, tuple(box)
