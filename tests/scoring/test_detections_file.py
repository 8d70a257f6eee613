"""Detections survive the way to disk and back bit by bit."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.cli import InputError
from ssd_graph.scoring.detections_file import detections_json, load_detections, sha256_of
from tests.scoring.test_detections import assert_equal_rows, random_rows, rows_of

finite = st.floats(allow_nan=False, allow_infinity=False)
detections = st.tuples(st.integers(0, 2**62), st.integers(0, 2**62), st.tuples(*[finite] * 4), finite)


@given(st.lists(detections, max_size=4))
def test_detections_read_back_are_equal_bit_by_bit(tmp_path_factory, found):
    rows, path = rows_of(*found), tmp_path_factory.getbasetemp() / "detections.json"
    path.write_text(detections_json(rows))
    assert_equal_rows(load_detections(path), rows)


def test_sha256_is_that_of_the_written_file(tmp_path):
    text = detections_json(random_rows(1))
    (tmp_path / "detections.json").write_text(text)
    assert sha256_of(text) == hashlib.sha256((tmp_path / "detections.json").read_bytes()).hexdigest()


def test_a_detection_is_a_line_in_cocos_result_format():
    line = detections_json(rows_of((139, 62, (1.5, 2, 30.25, 4), 0.125))).splitlines()[1]
    assert json.loads(line) == {"image_id": 139, "category_id": 62, "bbox": [1.5, 2, 30.25, 4], "score": 0.125}


@pytest.mark.parametrize("text", ["", "[1]", '[{"image_id": 1}]', '{"images": []}', "[" * 100_000])
def test_a_file_without_detections_is_refused_by_name(tmp_path, text):
    (tmp_path / "found.json").write_text(text)
    with pytest.raises(InputError, match=r"cannot read detections from .*found\.json"):
        load_detections(tmp_path / "found.json")
