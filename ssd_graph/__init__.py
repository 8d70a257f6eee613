"""SSD-ResNet34 300x300 whose whole training step is one static graph.

Importing the package pulls in nothing heavy. Its folders are wings, each of which imports only from those below it in
`README.md`'s table.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd_graph.cli import InputError
    from ssd_graph.config import RECIPES
    from ssd_graph.onnx_model.api import Detections, Detector
    from ssd_graph.training.options import TrainOptions
    from ssd_graph.training.train import train

__version__ = "0.1.0"

__all__ = ["RECIPES", "Detections", "Detector", "InputError", "TrainOptions", "train"]

_HOMES = {
    "Detections": "onnx_model.api",
    "Detector": "onnx_model.api",
    "InputError": "cli",
    "RECIPES": "config",
    "TrainOptions": "training.options",
    "train": "training.train",
}
"""Where the names that the package lends live; each is imported when it is asked for (docs/python.md)."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
