"""Validation during a run: detections on all processes, scores and records by rank 0."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ssd_graph.compilers.backend import compile_graph
from ssd_graph.config import IMAGE_SIZE, Amp, EvalConfig, ModelConfig
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.evaluation import beside, image_batches
from ssd_graph.graph.postprocess import Postprocess
from ssd_graph.graph.state import TrainState
from ssd_graph.graph.step import Predict
from ssd_graph.scoring.detections import DetectionRows, detection_rows, join_rows
from ssd_graph.scoring.evaluate import CocoScorer, CocoScores
from ssd_graph.training.distributed import World
from ssd_graph.training.metrics import RunLog
from ssd_graph.training.mlperf_log import MLPerfLog
from ssd_graph.training.plan import RunPlan
from ssd_graph.training.run_folder import RunFolder


class Validator:
    """Detects on one split; the network runs on the device, the postprocessing on the host."""

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
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """`batch_size` counts a device's images; each process takes every `world.size`-th image."""
        self.split, self.batch_size, self.world, self.workers = split, batch_size, world, max(1, workers)
        self.amp: Amp = amp
        self._predict = compile_graph(Predict(model, amp=amp, memory_format=memory_format).__call__, backend)
        self._postprocess = Postprocess(split.categories.ids, EvalConfig())

    def compile(self, state: TrainState) -> None:
        """Compile for the device of `state`, so that nothing fails for that only after hours of training."""
        shape = (self.batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
        images = torch.zeros(shape, dtype=torch.uint8, device=state.parameters.device)
        with torch.no_grad():
            self._predict(state.scored_parameters, state.bn_statistics, images)

    def detect(self, state: TrainState) -> DetectionRows:
        """Detections of the whole split, on every rank; every process must call it."""
        mine = beside(self._found, self._outputs(state), self.workers)
        return join_rows(self.world.gather(join_rows(list(mine))))

    def _outputs(self, state: TrainState) -> Iterator[tuple[np.ndarray, tuple[Tensor, ...]]]:
        """Images of a batch and what the network says of them, on the host."""
        mine = range(self.world.rank, len(self.split), self.world.size)
        device = state.parameters.device
        batches = image_batches(self.split, mine, self.batch_size, self.workers)
        num_batches = -(-len(mine) // self.batch_size)
        hidden = None if self.world.is_main else True  # else tqdm asks whether there is a terminal
        for chosen, images in tqdm(batches, "images", num_batches, leave=False, disable=hidden, unit="batch"):
            # The last batch is filled up: the graph knows one batch size.
            padded = np.pad(images, ((0, self.batch_size - len(images)), *((0, 0),) * 3))
            with torch.no_grad():
                pixels = torch.from_numpy(padded).to(device)
                outputs = self._predict(state.scored_parameters, state.bn_statistics, pixels)
                on_host = tuple(output[: len(chosen)].float().cpu() for output in outputs)
            yield chosen, on_host

    @torch.no_grad()
    def _found(self, chosen: np.ndarray, outputs: tuple[Tensor, ...]) -> DetectionRows:
        found = self._postprocess(*outputs)
        return detection_rows(self.split.image_ids[chosen], self.split.sizes[chosen], *(t.numpy() for t in found))


class Validations:
    """A run's validations and what becomes of their scores; none that lies behind a checkpoint is ever lost."""

    def __init__(
        self,
        plan: RunPlan,
        validator: Validator,
        scorer: CocoScorer | None,
        folder: RunFolder,
        log: RunLog,
        mlperf: MLPerfLog,
    ) -> None:
        """`scorer` is there on rank 0."""
        self.scores: CocoScores | None = None
        """Of the last validation, on rank 0."""
        self._plan, self._validator, self._scorer = plan, validator, scorer
        self._folder, self._log, self._mlperf = folder, log, mlperf
        self._aps = [plan.validated[step] for step in sorted(plan.validated)]
        self.best_ap = plan.validated.get(folder.best_step(), -1.0) if plan.world.is_main else -1.0
        """Of `best.pth`, on rank 0; a resumed run may have lost the best one."""

    def run(self, state: TrainState, step: int) -> bool:
        """Validate `state`, of which the checkpoint is written, on all processes; whether the run is to end."""
        self._mlperf.eval_start(step)
        rows = self._validator.detect(state)
        if self._scorer:
            self._record(self._scorer.score(rows, self._validator.split.image_ids), step)
        return self._plan.world.from_main(self._plan.reason_to_end(self._aps) is not None)

    def make_up_for(self, state: TrainState, step: int) -> bool:
        """The same if the run that wrote `state` was killed before it had scores."""
        missing = step in self._plan.validation_steps and step not in self._plan.validated
        return self._plan.world.from_main(missing) and self.run(state, step)

    def _record(self, scores: CocoScores, step: int) -> None:
        """The best checkpoint first, so that none is lost."""
        self.scores, ap = scores, scores.stats["AP"]
        if ap > self.best_ap:
            self._folder.mark_best(step)
            self.best_ap = ap
        self._aps.append(ap)
        self._log.record("validation", step, **scores.stats, per_class=scores.per_class)
        self._mlperf.eval_stop(step, ap)
        numbers = " ".join(f"{name} {value:.4f}" for name, value in scores.stats.items())
        self._log.say(f"validation at step {step} | {numbers}")
        if reason := self._plan.reason_to_end(self._aps):
            self._log.say(reason)
