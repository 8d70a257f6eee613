"""Checkpoints of the published SSD-ResNet34 programs: their names for our tensors.

Two layouts are in use, both saved as `{"model": state_dict, ...}`. "asc", of Ascend's port and NVIDIA's
submission it comes from, has one fused head a feature map, class channels first; "ref", of the MLPerf reference,
has two. Within a head the channels are in our order.
"""

# C classes, n default boxes a cell

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_graph.checkpoints.checkpoint import FLOATS, is_plain, read_weights_file, require_same
from ssd_graph.cli import InputError
from ssd_graph.config import MODELS, SSD300_BOXES, ModelConfig, model_config
from ssd_graph.graph.model import skeleton

LAYOUTS = ("asc", "ref")

_PREFIXES = {
    "trunk.conv1.": ("model.0.", "model.layer1.0."),
    "trunk.bn1.": ("model.1.", "model.layer1.1."),
    "trunk.layer1.": ("model.3.", "model.layer1.4."),
    "trunk.layer2.": ("model.4.", "model.layer1.5."),
    "trunk.layer3.": ("model.5.", "model.layer2.0."),
    # The ReLU between the two convolutions has a number too.
    **{f"extra.{i}.{j}.": (f"additional_blocks.{i}.{2 * j}.",) * 2 for i in range(5) for j in range(2)},
    "class_head.": ("conf.", "conf."),
    "box_head.": ("loc.", "loc."),
}
"""Theirs by ours, in the order of `LAYOUTS`; "asc" then joins `conf` and `loc` to `mbox`."""

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Published:
    """What such a file holds; optimiser, step and epoch are not in it."""

    model: ModelConfig
    tensors: dict[str, Tensor]
    """The state_dict of `SSD300(model)`, float32 on the CPU."""
    num_batches: int | None
    """Training batches its batch normalisations have counted; None without counters."""
    category_names: tuple[str, ...] | None
    """Of classes 1 to C - 1; None without a `label_map` of them."""


def is_published(content: Mapping[str, Any]) -> bool:
    """Whether a loaded file is of one of these programs."""
    model = content.get("model", content)
    names = [str(name).removeprefix("module.") for name in model] if isinstance(model, dict) else []
    return any(name.startswith("additional_blocks.") for name in names)


def read_published(path: Path) -> Published:
    """Read a published checkpoint without executing anything in it.

    A file of nothing but the state_dict is taken too. A `module.` prefix, low precision, and NVIDIA's NHWC form
    (channels last, heads and input padded) are undone.

    Raises:
        InputError: the file is missing, damaged or of another program, or a tensor, which the message names, is
            missing, unknown or of another shape.
    """
    content = read_weights_file(path)
    if content.get("format") == "ssd_graph":
        raise InputError(f"{path} is an ssd_graph checkpoint already; --to asc or --to ref converts it")
    if not is_published(content):
        raise InputError(f"{path} is not a published SSD-ResNet34 checkpoint: give one with 'additional_blocks.*'")
    named = _plain_tensors(content.get("model", content), path)
    layout = "asc" if any(name.startswith("mbox.") for name in named) else "ref"
    _to_nchw(named, _published_name("trunk.conv1.weight", layout))
    num_classes = _unpad_heads(named, layout, path)
    counters = [name for name in named if name.endswith(_COUNTER)]
    model, wanted = _closest_model(named, num_classes, layout, 0 if counters else None)
    require_same(named, wanted, path, "give a whole, unchanged SSD-ResNet34 checkpoint")
    if layout == "asc":
        _split_heads(named, num_classes)
    return Published(
        model,
        {name: named[_published_name(name, layout)].float().contiguous() for name in skeleton(model).state_dict()},
        max((int(named[name]) for name in counters), default=None),
        _category_names(content.get("label_map"), num_classes),
    )


def to_published(tensors: Mapping[str, Tensor], layout: str, num_batches: int | None = 0) -> dict[str, Tensor]:
    """Our state_dict as `layout`, one of `LAYOUTS`, has it.

    Args:
        num_batches: value of every batch normalisation's counter; None leaves the counters out. Nothing here or
            in those programs computes with it.
    """
    named = {_published_name(name, layout): tensor for name, tensor in tensors.items()}
    if num_batches is not None:
        norms = [name.removesuffix("running_mean") for name in named if name.endswith("running_mean")]
        named |= {norm + _COUNTER: torch.tensor(num_batches) for norm in norms}
    if layout == "asc":
        for name in [name.removeprefix("conf.") for name in named if name.startswith("conf.")]:
            named[f"mbox.{name}"] = torch.cat([named.pop(f"conf.{name}"), named.pop(f"loc.{name}")])
    return named


def _published_name(name: str, layout: str) -> str:
    ours = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[ours][LAYOUTS.index(layout)] + name.removeprefix(ours)


def _plain_tensors(model: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """The file's tensors by name without `module.`."""
    named: dict[str, Tensor] = {}
    for key, tensor in model.items():
        name = str(key).removeprefix("module.")
        if name in named:
            raise InputError(f"{path} has {name!r} with and without 'module.'; give an unchanged checkpoint")
        if not is_plain(tensor, (torch.int64,) if name.endswith(_COUNTER) else FLOATS):
            raise InputError(f"{path}: {name!r} is not a plain tensor of numbers; give an unchanged checkpoint")
        named[name] = tensor
    return named


def _to_nchw(named: dict[str, Tensor], stem: str) -> None:
    """Undo NVIDIA's channels-last form of the convolutions, in place."""
    if stem not in named or named[stem].ndim != 4 or named[stem].shape[1:3] != (7, 7):
        return
    named |= {name: tensor.permute(0, 3, 1, 2) for name, tensor in named.items() if tensor.ndim == 4}
    if named[stem].shape[1] == 4:  # the images' fourth channel is zero
        named[stem] = named[stem][:, :3]


def _unpad_heads(named: dict[str, Tensor], layout: str, path: Path) -> int:
    """Drop the heads' unused channels, in place, and return C."""
    head, num_coordinates = ("mbox", 4) if layout == "asc" else ("conf", 0)
    names = [f"{head}.{i}.weight" for i in range(len(SSD300_BOXES.num_per_cell))]
    missing = next((name for name in names if name not in named), None)
    if missing:
        raise InputError(f"{path} has no {missing!r}: give a whole SSD-ResNet34 checkpoint")
    weights = [named[name] for name in names]
    guess = weights[0].shape[:1].numel() // SSD300_BOXES.num_per_cell[0] - num_coordinates
    for num_classes in range(max(2, guess - 2), guess + 1):
        used = [n * (num_coordinates + num_classes) for n in SSD300_BOXES.num_per_cell]
        if _fit(weights, used):
            for name, weight, k in zip(names, weights, used, strict=True):
                bias = name.replace("weight", "bias")
                named |= {
                    n: named[n][:k] for n in (name, bias) if n in named and named[n].shape[:1] == weight.shape[:1]
                }
            return num_classes
    raise InputError(f"{path}: the channels of {head}.0 to {head}.5 fit no number of classes; give another file")


def _fit(weights: list[Tensor], used: list[int]) -> bool:
    """Whether the heads have the used channels and no others but NVIDIA's padding.

    Its NHWC form adds 1 to 8 channels, up to a multiple of 8. Several C can come out at the same number, 80 and 81
    among them; that the weights of unused channels stay zero tells them apart.
    """
    channels = [weight.shape[:1].numel() for weight in weights]
    padded = [k + 8 - k % 8 for k in used]
    return channels == used or (
        channels == padded and not any(weight[k:].any() for weight, k in zip(weights, used, strict=True))
    )


def _closest_model(
    named: dict[str, Tensor], num_classes: int, layout: str, num_batches: int | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The preset whose names differ least from the file's, and its tensors as the file should have them."""
    models = [model_config(preset, num_classes) for preset in MODELS]
    wanted = [to_published(skeleton(model).state_dict(), layout, num_batches) for model in models]
    return min(zip(models, wanted, strict=True), key=lambda pair: len(pair[1].keys() ^ named.keys()))


def _split_heads(named: dict[str, Tensor], num_classes: int) -> None:
    for i, n in enumerate(SSD300_BOXES.num_per_cell):
        for part in (f"{i}.weight", f"{i}.bias"):
            named[f"conf.{part}"], named[f"loc.{part}"] = named.pop(f"mbox.{part}").split([n * num_classes, n * 4])


def _category_names(label_map: Any, num_classes: int) -> tuple[str, ...] | None:
    if not isinstance(label_map, dict) or not all(isinstance(label_map.get(c), str) for c in range(1, num_classes)):
        return None
    return tuple(label_map[c] for c in range(1, num_classes))
