"""Every number of the model, its default boxes, the recipe and the evaluation, and the named presets.

Sources: the MLPerf SSD reference (mlcommons/training, retired_benchmarks/ssd-v1), called REF below, and
the SSD paper (Liu et al., arXiv 1512.02325).
"""

from dataclasses import dataclass, replace
from typing import Literal

Amp = Literal["off", "bf16", "fp16"]
"""Mixed precision: the type that convolutions compute in, float32 if off."""

OnBadImage = Literal["error", "skip"]
"""What becomes of a training image that cannot be used: the run ends, or the next usable one stands for it."""

EmptyImages = Literal["drop", "keep"]
"""What becomes of images without boxes; REF drops them, for training and scoring alike."""

Freeze = Literal["none", "stem", "layer1", "layer2", "trunk"]
"""How much of the trunk keeps its weights: from the first convolution up to this stage, `trunk` being all of it."""

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
    """Optimisation: SGD with momentum, linear warm-up, multi-step decay; as `mlperf-256` but without a threshold."""

    name: str = "mlperf-256"
    learning_rate: float = 3.157e-3
    """For a global batch of 32 images; the rate in force grows with the global batch."""
    momentum: float = 0.9
    weight_decay: float = 1.3e-4
    decay_bias_bn: bool = True
    """Whether weight decay reaches biases and batch normalisation too, as in all the references."""
    warmup_epochs: float = 5.0
    decay_epochs: tuple[float, ...] = (44.0, 55.0)
    decay_factor: float = 0.1
    epochs: float = 80.0
    evaluation_epochs: tuple[float, ...] = tuple(range(5, 85, 5))
    """After these many epochs the model is scored; after the last step it always is."""
    threshold: float | None = None
    """The run ends when a validation reaches this AP."""
    batch_size: int = 32
    """Images of a device and forward pass."""
    accumulate: int = 1
    """Forward and backward passes whose gradients are averaged for one update."""
    loss_scale: float = 128.0
    """Factor on the loss in fp16 (REF NVIDIA v0.7 and the seed's one-card recipe)."""
    dynamic_loss_scale: bool = False
    """Whether the factor halves at each overflow and doubles after step.GROWTH_INTERVAL steps without one."""
    ema_decay: float = 0.0
    """Share of the old value in each step's moving average of the parameters; 0 keeps no average."""
    patience: int | None = None
    """The run ends after as many validations in a row without a better AP."""
    freeze: Freeze = "none"
    augment: AugmentConfig = AugmentConfig()

    @property
    def images_a_step(self) -> int:
        """Of one device."""
        return self.batch_size * self.accumulate


def epochs_every(interval: float, last: float) -> tuple[float, ...]:
    """The multiples of `interval` up to `last`."""
    return tuple(interval * n for n in range(1, int(last / interval + 1e-9) + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Postprocessing (REF utils.Encoder.decode_batch as called by train.coco_eval)."""

    score_threshold: float = 0.05
    """A detection's class probability must be above this."""
    iou_threshold: float = 0.5
    """A box overlapping a better one of its class by this IoU or more is dropped."""
    candidates_per_class: int = 200
    detections_per_image: int = 200

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 to 1")
        for name in ("candidates_per_class", "detections_per_image"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 to 100,000")


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

_REFERENCE_32 = Recipe(
    name="mlperf-ref-32",  # REF's one-GPU run
    learning_rate=2.5e-3,
    weight_decay=5e-4,
    warmup_epochs=0.0,
    decay_epochs=(40.0, 50.0),
    epochs=70.0,
    evaluation_epochs=epochs_every(5, 70),
    threshold=0.23,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # MLPerf v1.0 results at a global batch of 256 reach 0.23 at epoch 50 with this.
        Recipe(threshold=0.23),
        _REFERENCE_32,
        # The reference convergence points of MLPerf 1.1.0; 300 warm-up steps.
        replace(
            _REFERENCE_32,
            name="mlperf-1024",
            batch_size=128,
            warmup_epochs=2.619685,
            augment=AugmentConfig(crop_attempts=50),
        ),
        # The seed rounds --lr 2.68e-3 and 3.2e-3 to whole multiples of 2.5e-3 for the global batch: 0.0025, 0.025.
        Recipe(
            name="seed-1p",
            learning_rate=2.5e-3,
            weight_decay=5e-4,
            warmup_epochs=0.0,
            epochs=90.0,
            evaluation_epochs=(40.0, *range(50, 90, 5)),
            threshold=0.23,
        ),
        Recipe(
            name="seed-8p",
            learning_rate=0.025 / 8,
            weight_decay=7.5e-4,
            warmup_epochs=0.0,
            decay_epochs=(45.0, 58.0, 84.0),
            epochs=90.0,
            evaluation_epochs=tuple(range(60, 90, 5)),
            threshold=0.23,
            loss_scale=32.0,
        ),
        # For some hundred images of one's own, from a checkpoint. No AP ends it: 0.23 is a goal for COCO.
        Recipe(
            name="finetune",
            learning_rate=0.01,
            weight_decay=5e-4,
            warmup_epochs=1.0,
            decay_epochs=(40.0, 52.0),
            epochs=60.0,
            evaluation_epochs=epochs_every(2, 60),
            batch_size=8,
        ),
        Recipe(
            name="shapes",
            learning_rate=0.04,
            weight_decay=5e-4,
            warmup_epochs=0.5,
            decay_epochs=(9.5, 11.5),
            epochs=12.0,
            evaluation_epochs=epochs_every(3, 12),
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
