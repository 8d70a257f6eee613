"""Every count of the matrix is on the page, as a cell of a table or in the words of a heat map."""

import re

import numpy as np
import pytest

from ssd_graph.report.confusion import MAX_TABLE_CLASSES, NUM_PAIRS, confusion

# Rows: what is there. Columns: what was detected.
MATRIX = np.array([[7, 2, 1], [0, 3, 4], [5, 0, 0]])


def lists(text):
    """Title -> entries of each list."""
    found = re.findall(r"<h3>(.*?)</h3>(.*?)</div>", text, re.DOTALL)
    return {
        title: [re.sub("<.*?>", " ", item).split() for item in re.findall("<li>.*?</li>", body)]
        for title, body in found
    }


def test_the_table_has_every_count_in_its_place():
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', confusion(MATRIX, ["cat", "dog"]))
    assert [(name, re.findall("<td[^>]*>(.*?)</td>", cells)) for name, cells in rows] == [
        ("cat", ["7", "2", "1"]),
        ("dog", ["·", "3", "4"]),
        ("nothing", ["5", "·", ""]),
    ]


def test_a_cell_is_tinted_by_its_share_of_the_row():
    shares = re.findall(r"--share:([\d.]+)", confusion(MATRIX, ["cat", "dog"]))
    assert [float(share) for share in shares] == [0.7, 0.2, 0.1, 0, 0.429, 0.571, 1, 0]


def test_the_shares_are_of_the_objects():
    text = re.sub("<.*?>", " ", confusion(MATRIX, ["cat", "dog"]))
    assert re.search(r"Of 17 objects\s+10\s+found\s+59%\s+2\s+taken for another class\s+12%\s+5\s+missed\s+29%", text)
    assert "5 detections are false" in text


def test_the_largest_entries_come_first():
    assert lists(confusion(MATRIX, ["cat", "dog"])) == {
        "Most confused": [["\u2068cat\u2069", "→", "\u2068dog\u2069", "2", "of", "10"]],
        "Most missed": [["dog", "4", "of", "7"], ["cat", "1", "of", "10"]],
        "Most often false": [["cat", "5"]],
    }


@pytest.mark.parametrize("num_classes", [30, 80, 365, 1203])
def test_of_many_classes_those_are_named_that_have_room(num_classes):
    """No two names come nearer than the height of a letter, nor to what is behind them, which has its name."""
    text = confusion(np.diag([*[9] * num_classes, 0]), [str(k) for k in range(num_classes)])
    letter = float(re.search(r"font-size:([\d.]+)px", text)[1])
    rows = [float(y) for y in re.findall(r'<text x="-.6" y="([\d.]+)"', text)]
    assert min(np.diff(rows)) >= 0.99 * letter
    assert rows[-1] > num_classes
    assert letter * int(re.search(r"--width:(\d+)px", text)[1]) / (num_classes + 1) > 5  # pixels


@pytest.mark.parametrize("num_classes", [MAX_TABLE_CLASSES + 1, 80])
def test_many_classes_are_a_heat_map_that_says_every_count(num_classes):
    rng = np.random.default_rng(0)
    matrix = rng.poisson(0.3, (num_classes + 1, num_classes + 1)) + np.diag(np.r_[np.full(num_classes, 9), 0])
    matrix[-1, -1] = 0
    names = [f"class {k}" for k in range(num_classes)]
    text = confusion(matrix, names)
    found = np.zeros_like(matrix)
    for x, y, words in re.findall(r'<rect [^>]*x="(\d+)" y="(\d+)"[^>]*><title>(.*?)</title>', text):
        found[int(y), int(x)] = int(re.search(r": (\d+)", words)[1])
        if int(y) < num_classes:
            assert words.startswith(f"class {y}, ")
            assert words.endswith(f" of {matrix[int(y)].sum()}")
    np.testing.assert_array_equal(found, matrix)
    assert len(lists(text)["Most confused"]) == NUM_PAIRS


def test_nothing_at_all_is_no_error():
    assert lists(confusion(np.zeros((3, 3), np.int64), ["cat", "dog"])) == {
        "Most confused": [],
        "Most missed": [],
        "Most often false": [],
    }


@pytest.mark.parametrize("count", [2, 20])
def test_names_are_escaped(count):
    matrix = np.ones((count + 1, count + 1), np.int64)
    matrix[-1, -1] = 0
    assert "<b>x" not in confusion(matrix, ["<b>x"] * count)
