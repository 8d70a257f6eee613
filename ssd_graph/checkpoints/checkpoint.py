"""Checkpoints: written atomically, read without executing anything, self-describing."""

import hashlib
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ssd_graph
from ssd_graph.cli import InputError, reason_of
from ssd_graph.config import ModelConfig
from ssd_graph.data.coco import Categories
from ssd_graph.files import atomic_write, write_whole
from ssd_graph.graph.model import skeleton
from ssd_graph.graph.state import StateLayout, TrainState

SCHEMA = 3
"""Version of the file's layout."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_OF_A_RUN = "a training run leaves best.pth and last.pth in its --out folder"
_OF_TORCHVISION = "torchvision's is at https://download.pytorch.org/models/resnet34-333f7ec4.pth"
_NO_TRUNK = f"give a plain state_dict, no prefixes ({_OF_TORCHVISION}), or a whole network by --checkpoint"
_OTHER_PRESET = "choose the --preset that fits the file"

_OPTIMIZER = ("momentum", "loss_scale", "num_skipped", "skip_streak", "finite_streak")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training state with all that is needed to use or to continue it."""

    model: ModelConfig
    categories: Categories
    tensors: dict[str, Tensor]
    """The model's `state_dict`, on the CPU."""
    optimizer: dict[str, Tensor]
    """The rest of the training state by its field names."""
    ema: Tensor | None
    """Moving average of the flat parameters."""
    step: int
    """Steps done."""
    run: dict[str, Any]
    """What the run was started with: options, recipe, world size, fingerprints of the annotations."""
    sha256: str
    """Of the file."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The `state_dict` to score and to export: with the moving average if the run kept one."""
        if self.ema is None:
            return self.tensors
        layout = StateLayout.of(skeleton(self.model))
        return self.tensors | layout.split_parameters(self.ema, self.ema.dtype).named

    def state(self, layout: StateLayout, device: torch.device) -> TrainState:
        """The training state, on `device`."""
        state = layout.load({name: tensor.detach().to(device) for name, tensor in self.tensors.items()})
        optimizer = {name: tensor.detach().to(device) for name, tensor in self.optimizer.items()}
        return state._replace(**optimizer, ema=None if self.ema is None else self.ema.detach().to(device))


def save_checkpoint(
    path: Path,
    state: TrainState,
    layout: StateLayout,
    *,
    model: ModelConfig,
    categories: Categories,
    step: int,
    run: dict[str, Any],
) -> None:
    """Write `path`, then its SHA-256 beside it; a reader sees the old file or the new one, with its own sum or none.

    Raises:
        InputError: the folder cannot be written.
    """
    path = path.resolve()  # behind a link it is the file that is replaced, and its sum is beside it
    content = {
        "format": "ssd_graph",
        "schema": SCHEMA,
        "ssd_graph_version": ssd_graph.__version__,
        "model_config": asdict(model),
        "category_ids": list(categories.ids),
        "category_names": list(categories.names),
        "model": {name: tensor.cpu().clone() for name, tensor in layout.state_dict(state).items()},
        "optimizer": {name: getattr(state, name).cpu() for name in _OPTIMIZER},
        "ema": None if state.ema is None else state.ema.cpu(),
        "step": step,
        "run": run,
    }
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's archive writer gives no OSError on a full disk
            full = shutil.disk_usage(path.parent).free < 1e9
            reason = "No space left on device" if full else reason_of(error)
            raise InputError(f"cannot write {path}: {reason}; make room and go on with --resume auto") from error
        sha256 = sha256_of(temporary)
        if path.is_file():  # killed from here on, it has no sum rather than another file's
            _sum_file(path).unlink(missing_ok=True)
    write_whole(_sum_file(path), f"{sha256}  {path.name}\n")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote.

    Raises:
        InputError: the file is missing, damaged, of another program or of another version.
    """
    # A run's last.pth and best.pth are links, which it may switch now, and the sums are beside the files.
    path = path.resolve() if path.is_file() else path
    content = read_weights_file(path)
    sha256 = sha256_of(path)
    if _sum_file(path).is_file() and _sum_file(path).read_text(errors="replace").split()[:1] != [sha256]:
        raise InputError(f"{path} is damaged: its SHA-256 is not the one in {_sum_file(path).name}; copy it again")
    if content.get("format") != "ssd_graph":
        first = next(iter(content), "nothing")
        advice = "give one that training wrote, or convert a published one with tools/convert_checkpoint.py"
        if "conv1.weight" in content:
            advice = "weights of a trunk go to training's --backbone"
        raise InputError(f"{path} is not an ssd_graph checkpoint (it begins with '{first}'); {advice}")
    try:
        if content["schema"] != SCHEMA:
            raise InputError(
                f"{path} has schema {content['schema']} (ssd_graph {content.get('ssd_graph_version', '?')}), this "
                f"version reads {SCHEMA}; use the ssd_graph that wrote it"
            )
        checkpoint = Checkpoint(
            model=ModelConfig(**{k: _tuples(v) for k, v in content["model_config"].items()}),
            categories=Categories(tuple(content["category_ids"]), tuple(content["category_names"])),
            tensors=dict(content["model"]),
            optimizer={name: content["optimizer"][name] for name in _OPTIMIZER},
            ema=content["ema"],
            step=content["step"],
            run=content["run"],
            sha256=sha256,
        )
        _require_entries(checkpoint)
        network = skeleton(checkpoint.model)
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged: its entries are not a checkpoint's ({error}); train it again") from error
    require_same(checkpoint.tensors, network.state_dict(), path)
    state = StateLayout.of(network).load(network.state_dict())._asdict()
    require_same(checkpoint.optimizer, {name: state[name] for name in _OPTIMIZER}, path)
    if checkpoint.ema is not None:
        require_same({"ema": checkpoint.ema}, {"ema": state["parameters"]}, path)
    return checkpoint


def load_trunk(path: Path, trunk: nn.Module) -> None:
    """Copy ImageNet weights (torchvision's `resnet34-333f7ec4.pth`) into `trunk`, in place.

    torchvision's conv5_x and classifier (`layer4.*`, `fc.*`) have no counterpart and are left out.

    Raises:
        InputError: the file is missing or damaged, or a key is missing, unknown or of another shape.
    """
    given = {
        name: tensor
        for name, tensor in read_weights_file(path, _OF_TORCHVISION).items()
        if not str(name).startswith(("layer4.", "fc.")) and not str(name).endswith("num_batches_tracked")
    }
    advice = _OTHER_PRESET if "conv1.weight" in given else _NO_TRUNK
    require_same(given, trunk.state_dict(), path, advice)
    trunk.load_state_dict(given)


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_entries(checkpoint: Checkpoint) -> None:
    """Raise ValueError for what is not a tensor and not what `save_checkpoint` wrote."""
    ids, names = checkpoint.categories.ids, checkpoint.categories.names
    if not (all(type(i) is int for i in ids) and all(isinstance(name, str) for name in names)):
        raise ValueError("category_ids are not integers, or category_names no text")
    if not len(set(ids)) == len(ids) == len(names) == checkpoint.model.num_classes - 1:
        raise ValueError(f"{len(ids)} category ids and {len(names)} names for {checkpoint.model.num_classes} classes")
    if type(checkpoint.step) is not int or not 0 <= checkpoint.step < 2**53 or not isinstance(checkpoint.run, dict):
        raise ValueError("no step, or no settings of the run")
    # Else a few bytes could ask for a network of millions of layers.
    if sum(checkpoint.model.trunk_blocks) > len(checkpoint.tensors):
        raise ValueError(f"trunk_blocks {checkpoint.model.trunk_blocks} are more than it has tensors")


def is_plain(tensor: Any, dtypes: tuple[torch.dtype, ...]) -> bool:
    """Whether `tensor` is a dense tensor of one of `dtypes` on the CPU, with memory for each of its numbers."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    # With a stride of 0 a few bytes can claim any shape.
    return tensor.dtype in dtypes and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def require_same(given: dict[str, Any], wanted: dict[str, Tensor], path: Path, advice: str = _OTHER_PRESET) -> None:
    """Raise InputError for the first name, shape or kind of number of `given` that is not `wanted`."""
    for name in [*wanted, *given]:
        if name not in given:
            raise InputError(f"{path} has no {name!r}; {advice}")
        if name not in wanted:
            raise InputError(f"{path} has {name!r}, which this network has not; {advice}")
        shape, wanted_shape = tuple(getattr(given[name], "shape", ())), tuple(wanted[name].shape)
        if shape != wanted_shape:
            raise InputError(f"{path}: {name!r} has shape {shape}, this network needs {wanted_shape}; {advice}")
        if not is_plain(given[name], FLOATS if wanted[name].is_floating_point() else (wanted[name].dtype,)):
            raise InputError(f"{path}: {name!r} is not a plain tensor of numbers; copy or train the file again")


def read_weights_file(path: Path, origin: str = _OF_A_RUN) -> dict[str, Any]:
    """The dictionary in a file that torch.save wrote, without executing anything in it; `origin` says where from.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise InputError(f"no file {path}; {origin}")
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can make the unpickler raise anything
        if "torch_npu" in str(error):
            raise InputError(
                f"{path} holds tensors of an NPU; load it there, and save it again with its tensors on the CPU "
                "(`tensor.cpu()`)"
            ) from error
        # torch's words go on with advice to unpickle what a stranger wrote.
        reason = str(error).partition("\n")[0].partition(". ")[0].partition("weights_only")[0][:200].rstrip(" ,;(")
        raise InputError(
            f"{path} is damaged or not a weights file ({reason or type(error).__name__}); get it again, as torch.save "
            "writes it and not as safetensors"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not named weights")
    return content


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
