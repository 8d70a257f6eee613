"""Detections of a training state on a split, sharded over the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ssd_graph.backend import compile_graph
from ssd_graph.coco import CocoSplit
from ssd_graph.config import EvalConfig, ModelConfig
from ssd_graph.distributed import World
from ssd_graph.evaluate import CocoScorer, CocoScores, DetectionRows, detection_rows, join_rows
from ssd_graph.postprocess import Postprocess
from ssd_graph.state import TrainState
from ssd_graph.step import Amp, Predict
from ssd_graph.transforms import decode, preprocess


class Validator:
    """Scores states on one split; the network runs on the device, the postprocessing on the host."""

    def __init__(
        self,
        split: CocoSplit,
        model: ModelConfig,
        *,
        batch_size: int,
        amp: Amp = "off",
        backend: str = "eager",
        world: World = World(),  # noqa: B008 (frozen)
        workers: int = 2,
    ) -> None:
        """`batch_size` counts a device's images; each process takes every `world.size`-th image."""
        self.split, self.batch_size, self.world, self.workers = split, batch_size, world, max(1, workers)
        self._predict = compile_graph(Predict(model, amp=amp).__call__, backend)
        self._postprocess = Postprocess(split.categories.ids, EvalConfig())
        self._scorer = CocoScorer(split.annotation_file) if world.is_main else None

    def score(self, state: TrainState) -> CocoScores | None:
        """COCO numbers on rank 0, None on the others; every process must call it."""
        rows = self.detect(state)
        return self._scorer.score(rows, self.split.image_ids) if self._scorer else None

    def detect(self, state: TrainState) -> DetectionRows:
        """Detections of the whole split, on every rank; every process must call it."""
        return join_rows(self.world.gather(join_rows(list(self._detect_mine(state)))))

    @torch.no_grad()
    def _detect_mine(self, state: TrainState) -> Iterator[DetectionRows]:
        mine = np.arange(self.world.rank, len(self.split), self.world.size)
        device = state.parameters.device
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(mine), self.batch_size):
                chosen = mine[start : start + self.batch_size]
                images = np.stack(list(pool.map(lambda i: preprocess(decode(self.split.path(i))), chosen)))
                # The last batch is filled up: the graph knows one batch size.
                padded = np.pad(images, ((0, self.batch_size - len(images)), *((0, 0),) * 3))
                outputs = self._predict(state.parameters, state.bn_statistics, torch.from_numpy(padded).to(device))
                found = self._postprocess(*(o[: len(chosen)].float().cpu() for o in outputs))
                yield detection_rows(
                    self.split.image_ids[chosen], self.split.sizes[chosen], *(t.numpy() for t in found)
                )
