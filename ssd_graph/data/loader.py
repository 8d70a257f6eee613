"""Training batches of fixed shape, the same for any number of workers and ranks.

Step s of a run takes samples `s * B` to `s * B + B - 1` of an endless stream (samples.py), of which each rank takes
its own slice. So every epoch is covered in full, batches never run short (they may span two epochs), and any step can
be produced without producing the ones before it.
"""

# N images of this rank's batch, G boxes an image, B images of all ranks' batch

import sys
from collections.abc import Generator
from contextlib import closing

from ssd_graph.config import AugmentConfig, OnBadImage
from ssd_graph.data.cache import PackedImages
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.samples import Batch, Samples
from ssd_graph.data.workers import Workers


class Loader:
    """Batches of a split for one rank of a run."""

    def __init__(
        self,
        split: CocoSplit,
        batch_size: int,
        augment: AugmentConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        offset: int = 0,
        workers: int = 2,
        on_bad_image: OnBadImage = "error",
        cache: PackedImages | None = None,
    ) -> None:
        """`batch_size` counts this rank's images; `workers` are processes, 0 decodes in the caller's.

        `offset` is the number of step 0's first sample, which a run that changed its global batch moves.
        """
        self.batch_size, self.workers = batch_size, workers
        self.samples = Samples(
            split=split,
            augment=augment,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            offset=offset,
            skip_bad=on_bad_image == "skip",
            cache=cache,
        )
        self.num_boxes = -(-split.max_boxes // 8) * 8
        """G, the same for the whole run: the split's largest count rounded up to a multiple of 8."""
        self.num_skipped = 0
        """Images passed over in the batches handed out; whoever counts them may set it back."""
        self._reported: set[str] = set()

    def batches(self, first_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of steps `first_step`, `first_step + 1`, ... without end.

        A batch is never written to while anything refers to its arrays.

        Raises:
            InputError: an image cannot be used, or a worker was killed; the message names the file.
        """
        step = first_step
        if not self.workers:
            while True:
                yield self._fill(step)
                step += 1
        with closing(Workers(self.samples, self.workers, self.num_boxes)) as workers:
            while True:
                while workers.wants_step:
                    workers.begin(step)
                    step += 1
                batch, skipped = workers.finish()
                self._count(skipped)
                yield batch
                del batch  # or this frame would hold its buffer while the next one is waited for

    def _fill(self, step: int) -> Batch:
        batch = Batch.empty(self.batch_size, self.num_boxes)
        for plan in self.samples.plan(batch, step, range(self.batch_size)):
            self._count(self.samples.write(batch, plan))
        return batch

    def _count(self, skipped: list[str]) -> None:
        """Count images passed over; each is named once."""
        self.num_skipped += len(skipped)
        for message in skipped:
            if message not in self._reported:
                self._reported.add(message)
                sys.stderr.write(f"skipped: {message}\n")
