"""What the tests of YOLO's layout share; those of other layouts have a `root` of their own."""

import pytest

from tests.data.convert.folders import picture, write
from tests.data.convert.yolo import LABEL, describe


@pytest.fixture
def root(tmp_path):
    """One training and one validation image, as Roboflow lays them out."""
    for split in ("train", "valid"):
        picture(tmp_path / "in" / split / "images" / f"{split}.jpg")
        write(tmp_path / "in" / split / "labels" / f"{split}.txt", f"{LABEL}\n")
    describe(tmp_path / "in", train="../train/images", val="../valid/images")
    return tmp_path / "in"
