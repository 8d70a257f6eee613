"""Published checkpoint file -> ssd_graph checkpoint file, and back."""

from pathlib import Path

import torch

from ssd_graph.checkpoints.checkpoint import Checkpoint, load_checkpoint, read_weights_file, save_checkpoint, sha256_of
from ssd_graph.checkpoints.published import Published, is_published, read_published, to_published
from ssd_graph.cli import InputError
from ssd_graph.data.coco import Categories, load_split
from ssd_graph.data.coco80 import COCO80
from ssd_graph.data.shapes import data_root
from ssd_graph.files import atomic_write
from ssd_graph.graph.model import SSD300, refit_heads, skeleton
from ssd_graph.graph.state import StateLayout


def import_published(path: Path, out: Path, data: str | None = None) -> Published:
    """Write an ssd_graph checkpoint of step 0 with the weights of `path`; returns what was in there.

    Args:
        data: COCO folder, or `shapes`, whose validation annotations list the classes' categories in order; None
            for COCO's 80.

    Raises:
        InputError: `path` is not such a file, the categories do not fit it, or `out` cannot be written.
    """
    published = read_published(path)
    categories = _categories(published, path, data)
    layout = StateLayout.of(skeleton(published.model))
    save_checkpoint(
        out,
        layout.load(published.tensors),
        layout,
        model=published.model,
        categories=categories,
        step=0,
        run={"imported": path.name, "num_batches": published.num_batches},
    )
    return published


def export_published(path: Path, out: Path, layout: str) -> None:
    """Write the weights of ssd_graph checkpoint `path` in `layout`, one of `published.LAYOUTS`.

    The batch counters get the value they were imported with, else the number of steps trained.

    Raises:
        InputError: `path` is not an ssd_graph checkpoint, or `out` cannot be written.
    """
    checkpoint = load_checkpoint(path)
    num_batches = checkpoint.run.get("num_batches", checkpoint.step)
    if num_batches is not None and not (type(num_batches) is int and 0 <= num_batches < 2**63):
        raise InputError(f"{path} is damaged: it counts {num_batches!r} batches; train it again")
    content: dict[str, object] = {"model": to_published(checkpoint.weights, layout, num_batches)}
    if layout == "ref":
        content["label_map"] = dict(enumerate(("background", *checkpoint.categories.names)))
    with atomic_write(out) as temporary:
        # The programs of these layouts run on torch 1.5 and 1.8, older than or as old as the zip format.
        torch.save(content, temporary, _use_new_zipfile_serialization=False)


def load_scorable(path: Path, data: str) -> Checkpoint:
    """A checkpoint to score: ours, or a published one, of COCO's categories or else of those that `data` lists.

    Raises:
        InputError: `path` is neither, or `data` has another number of categories.
    """
    published = read_any(path)
    if isinstance(published, Checkpoint):
        return published
    is_coco = (published.model.num_classes, published.category_names or COCO80.names) == (81, COCO80.names)
    return Checkpoint(
        model=published.model,
        categories=_categories(published, path, None if is_coco else data),
        tensors=published.tensors,
        optimizer={},
        ema=None,
        step=0,
        run={},
        sha256=sha256_of(path),
    )


def read_any(path: Path) -> Checkpoint | Published:
    """A checkpoint, ours or published.

    Raises:
        InputError: `path` is neither.
    """
    return read_published(path) if is_published(read_weights_file(path)) else load_checkpoint(path)


def load_weights(path: Path, model: SSD300, categories: Categories) -> bool:
    """Begin with the weights of a checkpoint, ours or published, in place; whether the heads are the checkpoint's.

    Heads that were trained for other categories than `categories`, or for unnamed ones, stay as they are initialised.

    Raises:
        InputError: `path` is neither, or of another preset.
    """
    found = read_any(path)
    if isinstance(found, Published):
        tensors, names = found.tensors, found.category_names
        if names is None and found.model.num_classes == COCO80.num_classes:
            names = COCO80.names
    else:
        tensors, names = found.weights, found.categories.names
    same = names == categories.names
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    fits = wanted == {name: tensor.shape for name, tensor in tensors.items()}
    model.load_state_dict(tensors if same and fits else refit_heads(tensors, model))
    return same and fits


def _categories(published: Published, path: Path, data: str | None) -> Categories:
    num_classes = published.model.num_classes
    if data is None and num_classes != COCO80.num_classes:
        raise InputError(
            f"{path} has {num_classes - 1} categories, not COCO's 80: give --data the folder it was trained on"
        )
    categories = COCO80 if data is None else load_split(data_root(data), "val").categories
    if categories.num_classes != num_classes:
        raise InputError(
            f"{path} has {num_classes - 1} categories, --data {data} has {categories.num_classes - 1}; "
            "give the folder it was trained on"
        )
    for ours, theirs in zip(categories.names, published.category_names or categories.names, strict=True):
        if ours != theirs:
            raise InputError(f"{path} names '{theirs}' where the data set has '{ours}'; give --data the right folder")
    return categories
