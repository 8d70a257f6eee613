"""The packages that compute COCO's numbers; tests/scoring/test_evaluate.py holds them to the same bits."""

from collections.abc import Callable
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

from ssd_graph.cli import InputError

_PLACES = {
    "hotcoco": ("hotcoco:COCO", "hotcoco:COCOeval"),
    "pycocotools": ("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    "faster": ("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
}

SCORERS = tuple(_PLACES)
"""The quickest comes first; the last is faster-coco-eval, an optional package."""

DEFAULT_SCORER = "hotcoco" if find_spec("hotcoco") else "pycocotools"


def scorer_classes(scorer: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """COCO and COCOeval of `scorer`, one of SCORERS.

    Raises:
        InputError: it is not installed.
    """
    try:
        coco, evaluation = map(resolve_name, _PLACES[scorer])
    except ImportError as error:
        package = {"faster": "faster-coco-eval"}.get(scorer, scorer)
        raise InputError(f"--scorer {scorer} needs `pip install {package}`; or give --scorer pycocotools") from error
    return coco, evaluation
