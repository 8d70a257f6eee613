"""Learning rate as a pure function of the step, so that a resumed run needs no saved schedule."""

from dataclasses import dataclass
from math import ceil

from ssd_graph.config import Recipe


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then multi-step decay (REF train.lr_warmup and train.train300_mlperf_coco)."""

    recipe: Recipe
    global_batch: int
    """Images of all devices in a step."""
    num_images: int
    """Images of an epoch."""
    offset: int = 0
    """What a run that went on with another global batch has seen more (or less) than its steps would have now."""

    def images_before(self, step: int) -> int:
        """Images that the run has seen after `step` steps."""
        return step * self.global_batch + self.offset

    def epochs_done(self, step: int) -> int:
        """Whole epochs that are over after `step` steps."""
        return self.images_before(step) // self.num_images

    def step_of_epoch(self, epoch: float) -> int:
        """The first step that starts after `epoch` epochs' worth of images."""
        return ceil(round((epoch * self.num_images - self.offset) / self.global_batch, 6))

    @property
    def base_rate(self) -> float:
        """Rate after warm-up; it grows with the global batch."""
        return self.recipe.learning_rate * self.global_batch / 32

    def rate(self, step: int) -> float:
        """Learning rate of `step`, counted from 0; step 0 of a warm-up has rate 0, as in REF with factor 0."""
        warmup_steps = round(self.recipe.warmup_epochs * self.num_images / self.global_batch)
        steps_done = self.images_before(step) / self.global_batch
        if steps_done < warmup_steps:
            return self.base_rate * steps_done / warmup_steps
        num_decays = sum(step >= self.step_of_epoch(epoch) for epoch in self.recipe.decay_epochs)
        return self.base_rate * self.recipe.decay_factor**num_decays
