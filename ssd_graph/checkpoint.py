"""Checkpoints: written atomically, read without executing anything, self-describing."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ssd_graph
from ssd_graph.cli import InputError, atomic_write
from ssd_graph.coco import Categories
from ssd_graph.config import ModelConfig
from ssd_graph.model import SSD300
from ssd_graph.state import StateLayout, TrainState

SCHEMA = 1
"""Version of the file's layout."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training state with all that is needed to use or to continue it."""

    model: ModelConfig
    categories: Categories
    tensors: dict[str, Tensor]
    """The model's `state_dict`, on the CPU."""
    momentum: Tensor
    loss_scale: Tensor
    num_skipped: Tensor
    step: int
    """Steps done."""
    best_ap: float
    """Best validation AP so far, -1 before the first."""
    run: dict[str, Any]
    """What the run was started with, for the reader."""
    sha256: str
    """Of the file."""

    def state(self, layout: StateLayout, device: torch.device) -> TrainState:
        """The training state, on `device`."""
        state = layout.load({name: tensor.to(device) for name, tensor in self.tensors.items()})
        saved = (self.momentum, self.loss_scale, self.num_skipped)
        momentum, loss_scale, num_skipped = (tensor.to(device) for tensor in saved)
        return state._replace(momentum=momentum, loss_scale=loss_scale, num_skipped=num_skipped)


def save_checkpoint(
    path: Path,
    state: TrainState,
    layout: StateLayout,
    *,
    model: ModelConfig,
    categories: Categories,
    step: int,
    best_ap: float,
    run: dict[str, Any],
) -> None:
    """Write `path`; a reader sees the old file or the new one.

    Raises:
        InputError: the folder cannot be written.
    """
    content = {
        "format": "ssd_graph",
        "schema": SCHEMA,
        "ssd_graph_version": ssd_graph.__version__,
        "model_config": asdict(model),
        "category_ids": list(categories.ids),
        "category_names": list(categories.names),
        "model": {name: tensor.cpu().clone() for name, tensor in layout.state_dict(state).items()},
        "momentum": state.momentum.cpu(),
        "loss_scale": state.loss_scale.cpu(),
        "num_skipped": state.num_skipped.cpu(),
        "step": step,
        "best_ap": best_ap,
        "run": run,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote.

    Raises:
        InputError: the file is missing, damaged, of another program or of a newer version.
    """
    content = _load(path)
    if content.get("format") != "ssd_graph":
        first = next(iter(content), "nothing")
        raise InputError(
            f"{path} is not an ssd_graph checkpoint (it begins with '{first}'); give one that training wrote"
        )
    try:
        if content["schema"] > SCHEMA:
            raise InputError(f"{path} has schema {content['schema']}, this version reads {SCHEMA}; update ssd_graph")
        checkpoint = Checkpoint(
            model=ModelConfig(**{k: _tuples(v) for k, v in content["model_config"].items()}),
            categories=Categories(tuple(content["category_ids"]), tuple(content["category_names"])),
            tensors=content["model"],
            momentum=content["momentum"],
            loss_scale=content["loss_scale"],
            num_skipped=content["num_skipped"],
            step=content["step"],
            best_ap=content["best_ap"],
            run=content["run"],
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        with torch.device("meta"):
            wanted = SSD300(checkpoint.model).state_dict()
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: its entries are not a checkpoint's ({error}); train it again") from error
    _require_same(checkpoint.tensors, wanted, path)
    return checkpoint


def load_trunk(path: Path, trunk: nn.Module) -> None:
    """Copy ImageNet weights (torchvision's `resnet34-333f7ec4.pth`) into `trunk`, in place.

    torchvision's conv5_x and classifier (`layer4.*`, `fc.*`) have no counterpart and are left out.

    Raises:
        InputError: the file is missing or damaged, or a key is missing, unknown or of another shape.
    """
    given = {
        name: tensor
        for name, tensor in _load(path).items()
        if not str(name).startswith(("layer4.", "fc.")) and not str(name).endswith("num_batches_tracked")
    }
    _require_same(given, trunk.state_dict(), path)
    trunk.load_state_dict(given)


def _require_same(given: dict[str, Any], wanted: dict[str, Tensor], path: Path) -> None:
    """Raise InputError for the first name or shape of `given` that is not `wanted`."""
    for name in [*wanted, *given]:
        if name not in given:
            raise InputError(
                f"{path} has no '{name}': it does not fit this network; choose the --preset that fits the file"
            )
        if name not in wanted:
            raise InputError(f"{path} has '{name}', which this network has not; choose the --preset that fits the file")
        shape, wanted_shape = tuple(getattr(given[name], "shape", ())), tuple(wanted[name].shape)
        if shape != wanted_shape:
            raise InputError(
                f"{path}: '{name}' has shape {shape}, this network needs {wanted_shape}; "
                "choose the --preset that fits the file"
            )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can make the unpickler raise anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or not a weights file ({reason}); copy or train it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not named weights")
    return content


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
