"""Every number of the model, its default boxes, the recipe and the evaluation, and the named presets.

Sources: the MLPerf SSD reference (mlcommons/training, retired_benchmarks/ssd-v1), called REF below, and
the SSD paper (Liu et al., arXiv 1512.02325).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

IMAGE_SIZE = 300
"""Height and width of the network's input in pixels."""

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet statistics of RGB in [0, 1], which the trunk's weights expect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of the network; the defaults are the reference's SSD-ResNet34."""

    preset: str = "ssd300-r34"
    num_classes: int = 81
    """Categories plus the background, which is class 0."""
    trunk_blocks: tuple[int, int, int] = (3, 4, 6)
    """Basic blocks in conv2_x, conv3_x and conv4_x."""
    trunk_channels: tuple[int, int, int] = (64, 128, 256)
    extra_channels: tuple[tuple[int, int], ...] = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256))
    """(1x1, 3x3) output channels of the five blocks behind the trunk."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes is {self.num_classes}; it counts the background, so give at least 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class DefaultBoxConfig:
    """Geometry of the default boxes (REF utils.DefaultBoxes, train.dboxes300_coco), in pixels of 300."""

    feature_sizes: tuple[int, ...] = (38, 19, 10, 5, 3, 1)
    steps: tuple[int, ...] = (8, 16, 32, 64, 100, 300)
    scales: tuple[int, ...] = (21, 45, 99, 153, 207, 261, 315)
    aspect_ratios: tuple[tuple[int, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    scale_xy: float = 0.1
    scale_wh: float = 0.2

    @property
    def num_per_cell(self) -> tuple[int, ...]:
        """Default boxes at each position of each feature map: two squares and two boxes a ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)


SSD300_BOXES = DefaultBoxConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes of training images (REF utils.SSDTransformer and SSDCropping)."""

    crop: bool = True
    crop_attempts: int = 1
    """Crops tried before the minimum IoU is drawn again; the MLPerf rules allow 1 and 50."""
    flip_probability: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05
    """Largest hue shift in turns."""

    @property
    def jitters_colour(self) -> bool:
        """Whether any colour change is drawn at all."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


NO_AUGMENT = AugmentConfig(crop=False, flip_probability=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Optimisation: SGD with momentum, linear warm-up and multi-step decay."""

    name: str = "mlperf-256"
    learning_rate: float = 2.5e-3
    """For a global batch of 32 images; the rate in force grows with the global batch."""
    momentum: float = 0.9
    weight_decay: float = 1.3e-4
    """Applied to every parameter, biases and BN included, as in the references."""
    warmup_epochs: float = 5.0
    decay_epochs: tuple[float, ...] = (44.0, 55.0)
    decay_factor: float = 0.1
    epochs: float = 80.0
    validate_every: float = 5.0
    """Epochs between validations."""
    batch_size: int = 32
    """Images a device and step."""
    loss_scale: float = 128.0
    """Static factor on the loss in fp16 (REF NVIDIA v0.7 and the seed's one-card recipe)."""
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Postprocessing (REF utils.Encoder.decode_batch as called by train.coco_eval)."""

    score_threshold: float = 0.05
    """A detection's class probability must be above this."""
    iou_threshold: float = 0.5
    """A box overlapping a better one of its class by this IoU or more is dropped."""
    candidates_per_class: int = 200
    detections_per_image: int = 200


MODELS = {
    model.preset: model
    for model in (
        ModelConfig(),
        ModelConfig(preset="ssd300-r18", trunk_blocks=(2, 2, 2)),
        ModelConfig(
            preset="ssd300-nano",
            trunk_blocks=(1, 1, 1),
            trunk_channels=(16, 32, 64),
            extra_channels=((64, 128), (64, 128), (32, 64), (32, 64), (32, 64)),
        ),
    )
}
"""Networks by preset name."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(),
        Recipe(
            name="shapes",
            learning_rate=0.04,
            weight_decay=5e-4,
            warmup_epochs=0.5,
            decay_epochs=(9.5, 11.5),
            epochs=12.0,
            validate_every=3.0,
            batch_size=8,
            # The colour tells the categories apart, so it stays as it is.
            augment=AugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
        ),
    )
}
"""Recipes by name; `shapes` teaches `ssd300-nano` the generated data set in minutes on two CPU cores."""


def model_config(preset: str, num_classes: int) -> ModelConfig:
    """The preset's network for `num_classes` classes, background included."""
    return replace(MODELS[preset], num_classes=num_classes)
