"""The two packages that compute COCO's numbers; tests/scoring/test_evaluate.py holds them to the same twelve."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_graph.cli import InputError

SCORERS = ("pycocotools", "faster")
"""The second is faster-coco-eval, an optional package."""


def scorer_classes(scorer: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """COCO and COCOeval of `scorer`, one of SCORERS.

    Raises:
        InputError: it is not installed.
    """
    if scorer == "pycocotools":
        return COCO, COCOeval
    try:
        import faster_coco_eval
    except ImportError as error:
        raise InputError(
            "--scorer faster needs faster-coco-eval: `pip install faster-coco-eval`, or use --scorer pycocotools"
        ) from error
    return faster_coco_eval.COCO, partial(faster_coco_eval.COCOeval_faster, print_function=print)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collects what the scorers print."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield printed
