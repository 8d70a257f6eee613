"""The training state: a few flat tensors, and the names and shapes of what lies in them.

One vector of parameters makes the optimiser, the cast to low precision and the gradient reduction one
operation each, where 131 tensors would make 131.
"""

# P parameters, S batch-normalisation channels

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssd_graph.graph.model import JointHead
from ssd_graph.graph.resnet import BatchNorm2d


class TrainState(NamedTuple):
    """What a step reads and overwrites in place."""

    parameters: Tensor
    """float32 (or float64) [P], in the order of `StateLayout.parameters`."""
    momentum: Tensor
    """Same dtype, [P]."""
    bn_statistics: Tensor
    """Same dtype, [2S]: running means and variances in the order of `StateLayout.buffers`."""
    loss_scale: Tensor
    """float32 [], factor on the loss before the backward pass; 1 unless the step computes in fp16."""
    num_skipped: Tensor
    """int64 [], steps whose gradient was not finite; they change none of the above but a dynamic loss scale."""
    skip_streak: Tensor
    """int64 [], skipped steps in a row."""
    finite_streak: Tensor
    """int64 [], other steps in a row since a dynamic loss scale changed; 0 with a static one."""
    ema: Tensor | None = None
    """Same dtype as the parameters, [P]: their moving average, if the recipe has one."""

    @property
    def scored_parameters(self) -> Tensor:
        """[P], what validation scores and the export takes: the moving average if there is one."""
        return self.parameters if self.ema is None else self.ema


class Parameters(NamedTuple):
    """Views of a flat vector of parameters."""

    named: dict[str, Tensor]
    """With the names of the model's own `state_dict`."""
    heads: list[JointHead]
    """The heads among them, by level."""


class Run(NamedTuple):
    """Neighbours in a flat vector."""

    frozen: bool
    length: int


Entry = tuple[str, torch.Size]
"""Name and shape."""


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Names and shapes in the flat tensors.

    Parameters lie in three runs: convolution weights (weight decay may stop behind them), convolution biases (low
    precision stops behind them), batch-normalisation weights and biases. In the first two the heads come last, level
    by level, so that a level's two heads are one piece as well.
    """

    blocks: tuple[tuple[Entry, ...], ...]
    """Parameters in their order; both heads of a level are one block, all others are one each."""
    sizes: tuple[int, ...]
    """Elements of each block; counted here, as whoever captures the step would else capture the counting."""
    buffers: tuple[Entry, ...]
    num_weights: int
    """Elements of convolution weights."""
    num_convolution: int
    """Elements of convolution weights and biases."""
    num_convolution_blocks: int

    @staticmethod
    def of(model: nn.Module) -> "StateLayout":
        """The layout for `model`, which may live on the meta device."""
        norms = {name for name, module in model.named_modules() if isinstance(module, BatchNorm2d)}

        def run(name: str, parameter: Tensor) -> int:
            return 2 if name.rpartition(".")[0] in norms else 0 if parameter.ndim > 1 else 1

        runs: list[list[Entry]] = [[], [], []]
        for name, parameter in sorted(model.named_parameters(), key=lambda item: _level(item[0])):
            runs[run(name, parameter)].append((name, parameter.shape))
        blocks = [[tuple(block) for _, block in groupby(entries, key=_block)] for entries in runs]
        sizes = [[sum(shape.numel() for _, shape in block) for block in of_run] for of_run in blocks]
        return StateLayout(
            blocks=(*blocks[0], *blocks[1], *blocks[2]),
            sizes=(*sizes[0], *sizes[1], *sizes[2]),
            buffers=tuple((name, buffer.shape) for name, buffer in model.named_buffers()),
            num_weights=sum(sizes[0]),
            num_convolution=sum(sizes[0] + sizes[1]),
            num_convolution_blocks=len(blocks[0]) + len(blocks[1]),
        )

    @property
    def parameters(self) -> tuple[Entry, ...]:
        """All of them in their order."""
        return tuple(entry for block in self.blocks for entry in block)

    def split_parameters(self, flat: Tensor, compute_dtype: torch.dtype) -> Parameters:
        """Views of flat parameters [P]; convolutions in `compute_dtype`, the rest as they are."""
        convolution, norm = flat.split((self.num_convolution, flat.numel() - self.num_convolution))
        num = self.num_convolution_blocks
        pieces = (*convolution.to(compute_dtype).split(self.sizes[:num]), *norm.split(self.sizes[num:]))
        named, joint = {}, []
        for block, piece in zip(self.blocks, pieces, strict=True):
            if len(block) == 1:
                ((name, shape),) = block
                named[name] = piece.view(shape)
                continue
            joint.append(piece.view(-1, *block[0][1][1:]))
            parts = piece.split([shape.numel() for _, shape in block])
            named |= {name: part.view(shape) for (name, shape), part in zip(block, parts, strict=True)}
        half = len(joint) // 2  # the weights of all levels, then the biases
        return Parameters(named, list(map(JointHead, joint[:half], joint[half:])))

    def split_buffers(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of flat statistics [2S]."""
        pieces = flat.split([shape.numel() for _, shape in self.buffers])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.buffers, pieces, strict=True)}

    def join_buffers(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Flat statistics [2S] from named tensors."""
        return torch.cat([tensors[name] for name, _ in self.buffers])

    def frozen_runs(self, modules: Iterable[str]) -> tuple[list[Run], list[Run]]:
        """The flat parameters and the flat statistics, cut where they begin or cease to be of `modules`."""
        prefixes = tuple(f"{name}." for name in modules)

        def runs(entries: Iterable[Entry]) -> list[Run]:
            groups = groupby(entries, key=lambda entry: entry[0].startswith(prefixes))
            return [Run(frozen, sum(shape.numel() for _, shape in group)) for frozen, group in groups]

        return runs(self.parameters), runs(self.buffers)

    def load(
        self, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, loss_scale: float = 1.0
    ) -> TrainState:
        """A state without momentum from a network's `state_dict`, on its device."""
        parameters = torch.cat([tensors[name].reshape(-1).to(dtype) for name, _ in self.parameters])
        statistics = self.join_buffers(tensors).to(dtype)
        return TrainState(
            parameters,
            torch.zeros_like(parameters),
            statistics,
            torch.tensor(loss_scale, device=parameters.device),
            *(torch.zeros((), dtype=torch.int64, device=parameters.device) for _ in range(3)),
        )

    def state_dict(self, state: TrainState) -> dict[str, Tensor]:
        """Named views of the parameters and statistics, with the names of the model's own `state_dict`."""
        named = self.split_parameters(state.parameters, state.parameters.dtype).named
        return {**named, **self.split_buffers(state.bn_statistics)}


def _level(name: str) -> int:
    """Of a head; -1 of all else."""
    head, level, *_ = name.split(".")
    return int(level) if head.endswith("_head") else -1


def _block(entry: Entry) -> tuple[str, ...]:
    """The same for both heads of a level."""
    head, *rest = entry[0].split(".")
    return ("head" if head.endswith("_head") else head, *rest)
