"""The training step as a good engineer writes it without compiling, which the compiled step is measured against."""

# N images

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_graph.config import Amp, model_config
from ssd_graph.data.samples import Batch
from ssd_graph.graph.loss import mine_negatives
from ssd_graph.graph.matcher import Targets, match
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.resnet import BatchNorm2d
from ssd_graph.graph.step import AMP_DTYPES, device_default_boxes


def eager_step(
    preset: str, num_classes: int, batch: Batch, amp: Amp, device: torch.device, learning_rate: float
) -> Callable[[], Any]:
    """What trains once on `batch`: autocast, channels_last, torch's fused SGD and its own BatchNorm2d.

    Images are normalised and targets encoded beforehand.
    """
    model = SSD300(model_config(preset, num_classes))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.weight.numel()))
    model = model.to(device).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=1.3e-4, fused=True)
    targets = match(batch.boxes, batch.labels, device_default_boxes(device), torch.float32)
    images = batch.images.permute(0, 3, 1, 2).float().sub(114).div(57).to(memory_format=torch.channels_last)
    dtype = AMP_DTYPES.get(amp)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            boxes, logits = model(images)
        loss = plain_loss(boxes.float(), logits.float(), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def plain_loss(box_regression: Tensor, class_logits: Tensor, targets: Targets) -> Tensor:
    """The value of loss.multibox_loss by torch's own losses, which eager runs fastest."""
    positive = targets.labels > 0
    num_positive = positive.sum(1)
    cross_entropy = F.cross_entropy(class_logits, targets.labels, reduction="none")
    weight = positive + mine_negatives(cross_entropy.detach(), positive.float(), num_positive.float())
    box = (F.smooth_l1_loss(box_regression, targets.boxes, reduction="none").sum(1) * positive).sum(1)
    return ((box + (cross_entropy * weight).sum(1)) / num_positive.clamp_min(1)).mean()
