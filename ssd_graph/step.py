"""One training step, and the network's forward pass, as functions that compile to one static graph each."""

# N images, G boxes an image, A default boxes, C classes, P parameters

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributed import _functional_collectives as collectives
from torch.func import functional_call, grad_and_value

from ssd_graph.augment import augment, normalise
from ssd_graph.config import ModelConfig, Recipe
from ssd_graph.default_boxes import default_boxes
from ssd_graph.loader import Batch
from ssd_graph.loss import multibox_loss
from ssd_graph.matcher import match
from ssd_graph.model import SSD300
from ssd_graph.state import StateLayout, TrainState

Amp = Literal["off", "bf16", "fp16"]

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Convolutions and activations compute in these; parameters, BN statistics and the loss stay float32."""


class Metrics(NamedTuple):
    """This rank's numbers of one step, scalars on the device."""

    loss: Tensor
    box_loss: Tensor
    class_loss: Tensor
    num_positive: Tensor


class TrainStep:
    """`step(state, batch, learning_rate)` trains once; everything that may change from step to step is a tensor."""

    def __init__(self, config: ModelConfig, recipe: Recipe, *, amp: Amp = "off", world_size: int = 1) -> None:
        """`world_size` above 1 averages gradients over the default process group."""
        with torch.device("meta"):  # a skeleton: the weights come from the state
            self.model = SSD300(config)
        self.layout = StateLayout.of(self.model)
        self.recipe, self.amp_dtype, self.world_size = recipe, AMP_DTYPES.get(amp), world_size
        self.group: Any = torch.distributed.GroupMember.WORLD if world_size > 1 else None

    def __call__(self, state: TrainState, batch: Batch, defaults: Tensor, learning_rate: Tensor) -> Metrics:
        """Overwrite `state` with the state after this batch.

        Args:
            state: float32, or float64 on the CPU for parity tests; then everything but the matching is.
            batch: torch tensors, see loader.Batch.
            defaults: default boxes, float32 cxcywh [A, 4].
            learning_rate: scalar.
        """
        dtype = state.parameters.dtype
        images, boxes = augment(batch, self.recipe.augment, dtype)
        targets = match(boxes, batch.labels, defaults, dtype)

        def scaled_loss(parameters: Tensor) -> tuple[Tensor, tuple[Metrics, Tensor]]:
            compute_dtype = self.amp_dtype or dtype
            tensors = self.layout.split_parameters(parameters, compute_dtype)
            tensors |= self.layout.split_buffers(state.bn_statistics)
            boxes, logits = functional_call(self.model, tensors, images.to(compute_dtype))
            losses = multibox_loss(boxes.to(dtype), logits.to(dtype), targets)
            return losses.total * state.loss_scale, (Metrics(*losses), self.layout.join_buffers(tensors))

        gradient, (_, (metrics, bn_statistics)) = grad_and_value(scaled_loss, has_aux=True)(state.parameters)
        if self.world_size > 1:
            gradient = collectives.all_reduce(gradient, "sum", self.group)
        gradient = gradient / (state.loss_scale * self.world_size)
        finite = gradient.abs().sum() < float("inf")  # False for NaN as well

        # torch.optim.SGD's rule; a step with a non-finite gradient is counted and changes nothing else.
        gradient = gradient + self.recipe.weight_decay * state.parameters
        momentum = self.recipe.momentum * state.momentum + gradient
        parameters = state.parameters - learning_rate * momentum
        state.parameters.copy_(torch.where(finite, parameters, state.parameters))
        state.momentum.copy_(torch.where(finite, momentum, state.momentum))
        state.bn_statistics.copy_(torch.where(finite, bn_statistics, state.bn_statistics))
        state.num_skipped.add_((~finite).long())
        return metrics


class Predict:
    """`predict(state, images)` is the network in evaluation mode."""

    def __init__(self, config: ModelConfig, *, amp: Amp = "off") -> None:
        with torch.device("meta"):
            self.model = SSD300(config).eval()
        self.layout = StateLayout.of(self.model)
        self.amp_dtype = AMP_DTYPES.get(amp)

    def __call__(self, parameters: Tensor, bn_statistics: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box regression [N, 4, A] and class logits [N, C, A] of uint8 RGB images [N, 300, 300, 3]."""
        dtype = parameters.dtype
        compute_dtype = self.amp_dtype or dtype
        tensors = self.layout.split_parameters(parameters, compute_dtype)
        tensors |= self.layout.split_buffers(bn_statistics)
        planes = images.permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)
        boxes, classes = functional_call(self.model, tensors, normalise(planes).to(compute_dtype))
        return boxes.to(dtype), classes.to(dtype)


def device_default_boxes(device: torch.device | str) -> Tensor:
    """The default boxes as the step takes them."""
    return torch.from_numpy(default_boxes()).to(device)
