"""Proves that the benchmark measures what it says on a few images, and prints it as one json object or a table."""

import json
import subprocess
import sys
from argparse import ArgumentParser

import pytest

from ssd_graph.bench import pipeline
from ssd_graph.data import jpeg
from tests import REPOSITORY

TOOL = REPOSITORY / "tools" / "bench.py"


@pytest.fixture(scope="module")
def speed(tiny_coco):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_WARM_UP", 0)
        patch.setattr(pipeline, "_BATCH_SIZE", 3)  # so that the last batch is a smaller one
        pipeline.add_flags(parser := ArgumentParser())
        return pipeline.run(parser.parse_args(["--data", str(tiny_coco), "--images", "8", "--rounds", "3"]))


def test_every_part_was_measured(speed):
    assert set(speed["stages"]) == {"read", "decode", "crop", "resize", "collate", "copy"}
    assert set(speed["workers"]) == {"1", "2"}
    assert {"decode Pillow", "decode simplejpeg"} < set(speed["alternatives"])
    figures = [speed["baseline"], speed["decode_only"], speed["pipeline"]]
    figures += [*speed["stages"].values(), *speed["workers"].values(), *speed["alternatives"].values()]
    assert all(figure > 0 for figure in figures)


def test_the_whole_is_slower_than_its_parts(speed):
    # Of three rounds the best: one alone may meet whatever else the machine does.
    assert speed["baseline"] < speed["pipeline"] < min(speed["stages"]["decode"], speed["stages"]["resize"])


def test_the_resize_is_near_the_references(speed):
    assert 0 <= speed["resize_difference"]["mean"] < 0.2
    assert speed["resize_difference"]["max"] <= 2


def test_the_decoder_in_use_is_left_as_it_was(speed):
    assert speed["environment"]["decoder"] == "simplejpeg"
    assert jpeg.decode_ordinary.__module__ == "ssd_graph.data.jpeg"


def test_the_table_shows_the_ratios(speed):
    assert f"pipeline / decode only: {speed['pipeline'] / speed['decode_only']:.3f}" in pipeline.table(speed)


def test_json_is_one_object_with_every_field(tiny_coco, speed):
    flags = ["input", "--data", tiny_coco, "--images", 3, "--rounds", 1, "--workers", 1, "--json", "-"]
    done = subprocess.run([sys.executable, TOOL, *map(str, flags)], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == set(speed)
