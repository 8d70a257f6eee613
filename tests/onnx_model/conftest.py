"""What tests of exported models share: the model, a detector of it, and the images to score."""

import onnx
import pytest

from ssd_graph.data.coco import load_split
from ssd_graph.onnx_model.api import Detector


@pytest.fixture
def model(trained):
    """The exported model, which a test may change."""
    return onnx.load(trained / "model.onnx")


@pytest.fixture(scope="session")
def detector(trained):
    return Detector(trained / "model.onnx", threads=1)


@pytest.fixture(scope="session")
def split(tiny_coco):
    return load_split(tiny_coco, "val")
