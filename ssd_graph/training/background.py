"""COCO scores computed beside the training, in a process of its own; without torch, so that it starts fast."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from ssd_graph.data.coco import CocoSplit
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import CocoScorer, CocoScores

_DEAF_TO = (signal.SIGINT, signal.SIGTERM)


class BackgroundScorer:
    """pycocotools' minute of work in a process of its own, one validation at a time."""

    def __init__(self, split: CocoSplit) -> None:
        self._split = split
        self._process: BaseProcess | None = None
        self._receiver: Connection | None = None

    def begin(self, rows: DetectionRows) -> None:
        """Start scoring; the one before must have been collected."""
        assert self._receiver is None, "collect the scores of the last validation first"
        # A forked process would inherit the device's driver; a spawned one imports numpy and pycocotools only.
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        args = (self._split.annotation_file, rows, self._split.image_ids, sender)
        self._process = context.Process(target=_score, args=args, daemon=True)
        # Both signals go to all processes of a group and are the trainer's to answer, so this one is born deaf to them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEAF_TO)
        sender.close()

    def close(self) -> None:
        """End a process whose scores nobody waits for any more."""
        if self._process is not None:
            self._process.kill()

    def collect(self, *, wait: bool) -> CocoScores | None:
        """The scores, once; None if there is nothing to collect or, without `wait`, if they are not ready.

        Raises:
            RuntimeError: the process was killed.
        """
        if self._receiver is None or not (wait or self._receiver.poll()):
            return None
        assert self._process is not None
        try:
            scores = self._receiver.recv()
        except EOFError as error:
            self._process.join()
            raise RuntimeError(f"the scoring process ended with code {self._process.exitcode}") from error
        self._process.join()
        self._receiver = None
        return scores


def _score(annotation_file: Path, rows: DetectionRows, image_ids: np.ndarray, sender: Connection) -> None:
    sender.send(CocoScorer(annotation_file).score(rows, image_ids))
