"""One training step, and the network's forward pass, as functions that compile to one static graph each."""

# N images, G boxes an image, A default boxes, C classes, P parameters

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import _functional_collectives as collectives
from torch.func import functional_call, grad_and_value

from ssd_graph.config import Amp, ModelConfig, Recipe
from ssd_graph.data.samples import Batch
from ssd_graph.graph.augment import augment, normalise
from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.graph.loss import Metrics, multibox_loss
from ssd_graph.graph.matcher import match
from ssd_graph.graph.model import skeleton
from ssd_graph.graph.resnet import STAGES, BatchNorm2d
from ssd_graph.graph.state import Run, StateLayout, TrainState

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Convolutions and activations compute in these; parameters, BN statistics and the loss stay float32."""

GROWTH_INTERVAL = 2000
"""Finite steps in a row after which a dynamic loss scale doubles (torch.amp.GradScaler's default)."""


class TrainStep:
    """`step(state, batch, defaults, learning_rate)` trains once; what may change from step to step is a tensor."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        *,
        amp: Amp = "off",
        world_size: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """`world_size` above 1 averages gradients and BN statistics over the default process group.

        `memory_format` is the images' as they enter the network.
        """
        self.model = skeleton(config)  # the weights come from the state
        self.layout = StateLayout.of(self.model)
        self.model.trunk.freeze(recipe.freeze)
        frozen = [f"trunk.{name}" for name in STAGES[recipe.freeze]]
        self.parameter_runs, self.statistic_runs = self.layout.frozen_runs(frozen)
        self.recipe, self.amp_dtype, self.world_size = recipe, AMP_DTYPES.get(amp), world_size
        self.memory_format = memory_format
        self.channel_multiple = 8 if memory_format == torch.channels_last else 1
        self.group: Any = torch.distributed.GroupMember.WORLD if world_size > 1 else None

    def __call__(self, state: TrainState, batch: Batch, defaults: Tensor, learning_rate: Tensor) -> Metrics:
        """Overwrite `state` with the state after this batch.

        Args:
            state: float32, or float64 on the CPU for parity tests; then everything but the matching is.
            batch: torch tensors, see samples.Batch; `recipe.accumulate` times the images of a forward pass.
            defaults: default boxes, float32 cxcywh [A, 4].
            learning_rate: scalar.
        """
        gradients, metrics, bn_statistics = [], [], state.bn_statistics
        for part in _parts(batch, self.recipe.accumulate):
            differentiate = grad_and_value(self._scaled_loss, has_aux=True)
            gradient, (_, (losses, bn_statistics)) = differentiate(
                state.parameters, bn_statistics, state.loss_scale, part, defaults
            )
            gradients.append(gradient)
            metrics.append(losses)
        gradient, bn_statistics = self._average_over_ranks(_mean(gradients), bn_statistics)
        finite = gradient.sum().abs() < float("inf")  # infinities of both signs make NaN, which is not less either

        # torch.optim.SGD's rule; a step with a non-finite gradient is counted and changes nothing else. Few operations,
        # since each reads and writes all parameters where no compiler joins them.
        gradient = (gradient / state.loss_scale).add(self._decayed(state.parameters), alpha=self.recipe.weight_decay)
        momentum = torch.where(finite, gradient.add(state.momentum, alpha=self.recipe.momentum), state.momentum)
        parameters = torch.addcmul(state.parameters, momentum, learning_rate * finite, value=-1.0)
        if state.ema is not None:
            average = self.recipe.ema_decay * state.ema + (1 - self.recipe.ema_decay) * parameters
            # Of what is frozen the average is the value, also in a run that froze it later.
            state.ema.copy_(_merge(self.parameter_runs, state.parameters, torch.where(finite, average, state.ema)))
        bn_statistics = torch.where(finite, bn_statistics, state.bn_statistics)
        state.parameters.copy_(_merge(self.parameter_runs, state.parameters, parameters))
        state.momentum.copy_(_merge(self.parameter_runs, state.momentum, momentum))
        state.bn_statistics.copy_(_merge(self.statistic_runs, state.bn_statistics, bn_statistics))
        self._count(state, finite)
        return Metrics(*(_mean(values) for values in zip(*metrics, strict=True)))

    def _scaled_loss(
        self, parameters: Tensor, bn_statistics: Tensor, loss_scale: Tensor, batch: Batch, defaults: Tensor
    ) -> tuple[Tensor, tuple[Metrics, Tensor]]:
        dtype = parameters.dtype
        images, boxes = augment(batch, self.recipe.augment, dtype)
        targets = match(boxes, batch.labels, defaults, dtype)
        compute_dtype = self.amp_dtype or dtype
        named, heads = self.layout.split_parameters(parameters, compute_dtype)
        # Room for the batch's statistics: an Ascend 950 writes them where it was given the running ones. Frozen
        # layers need the running ones.
        room = _merge(self.statistic_runs, bn_statistics, 0.0 * bn_statistics)
        tensors = named | self.layout.split_buffers(room)
        heads = [head.padded(self.channel_multiple) for head in heads]
        images = images.to(compute_dtype, memory_format=self.memory_format)
        regression, logits = functional_call(self.model, tensors, (images, heads), tie_weights=False)
        losses = multibox_loss(regression.to(dtype), logits.to(dtype), targets)
        of_batch = self.layout.join_buffers(tensors)
        bn_statistics = bn_statistics + BatchNorm2d.MOMENTUM * (of_batch - bn_statistics)
        return losses.loss * loss_scale, (losses, bn_statistics)

    def _average_over_ranks(self, gradient: Tensor, bn_statistics: Tensor) -> tuple[Tensor, Tensor]:
        """One collective for both, so that every rank holds the same state at all times."""
        if self.world_size == 1:
            return gradient, bn_statistics
        both = collectives.all_reduce(torch.cat([gradient, bn_statistics]), "sum", self.group) / self.world_size
        gradient, bn_statistics = both.split((gradient.numel(), bn_statistics.numel()))
        return gradient, bn_statistics

    def _decayed(self, parameters: Tensor) -> Tensor:
        """The parameters [P] that weight decay pulls to zero, and zeros in place of the others."""
        if self.recipe.decay_bias_bn:
            return parameters
        weights, rest = parameters.split((self.layout.num_weights, parameters.numel() - self.layout.num_weights))
        return torch.cat([weights, torch.zeros_like(rest)])

    def _count(self, state: TrainState, finite: Tensor) -> None:
        """Update the counters and, if it is dynamic, the loss scale."""
        skipped = (~finite).long()
        state.num_skipped.add_(skipped)
        state.skip_streak.copy_((state.skip_streak + skipped) * skipped)
        if self.recipe.dynamic_loss_scale and self.amp_dtype == torch.float16:
            streak = (state.finite_streak + 1) * (1 - skipped)
            grown = streak >= GROWTH_INTERVAL
            scale = torch.where(grown, state.loss_scale * 2, state.loss_scale)
            state.loss_scale.copy_(torch.where(finite, scale, (state.loss_scale / 2).clamp(min=1)))
            state.finite_streak.copy_(streak * (~grown).long())


def _merge(runs: Sequence[Run], frozen: Tensor, trained: Tensor) -> Tensor:
    """A flat vector that has the one's values in frozen runs and the other's elsewhere."""
    if not any(run.frozen for run in runs):
        return trained
    lengths = [run.length for run in runs]
    pieces = zip(runs, frozen.split(lengths), trained.split(lengths), strict=True)
    return torch.cat([f if run.frozen else t for run, f, t in pieces])


def _parts(batch: Batch, count: int) -> list[Batch]:
    """The batch in `count` parts of as many images each."""
    if count == 1:
        return [batch]
    return [Batch(*fields) for fields in zip(*(field.chunk(count) for field in batch), strict=True)]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else sum(values[1:], values[0]) / len(values)


class Predict:
    """`predict(parameters, bn_statistics, images)` is the network in evaluation mode."""

    def __init__(
        self, config: ModelConfig, *, amp: Amp = "off", memory_format: torch.memory_format = torch.contiguous_format
    ) -> None:
        self.model = skeleton(config).eval()
        self.layout = StateLayout.of(self.model)
        self.amp_dtype, self.memory_format = AMP_DTYPES.get(amp), memory_format

    def __call__(self, parameters: Tensor, bn_statistics: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A] and class logits [N, C, A] of uint8 RGB images [N, 300, 300, 3]."""
        dtype = parameters.dtype
        compute_dtype = self.amp_dtype or dtype
        named, heads = self.layout.split_parameters(parameters, compute_dtype)
        tensors = named | self.layout.split_buffers(bn_statistics)
        planes = images.permute(0, 3, 1, 2).to(dtype, memory_format=self.memory_format)
        boxes, classes = functional_call(
            self.model, tensors, (normalise(planes).to(compute_dtype), heads), tie_weights=False
        )
        return boxes.to(dtype), classes.to(dtype)


def device_default_boxes(device: torch.device | str) -> Tensor:
    """The default boxes as the step takes them."""
    return torch.from_numpy(default_boxes()).to(device)
