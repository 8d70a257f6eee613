"""A chart shows the numbers it was given: positions, ticks, gaps and words."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.report.charts import MAX_POINTS, Axis, Line, Mark, chart, outline

UNIT = Axis("unit")


def paths(text, style):
    """The `d` of every path of a style in the plot itself, not in the legend."""
    return re.findall(rf'<path class="{style}" d="([^"]*)"', text.split("</svg>")[0])


def drawn(line, x=UNIT, y=UNIT):
    return paths(chart("title", "alt", x, y, [line]), line.style)[0]


def line(*points, **changes):
    x, y = np.array(points, float).T
    return Line("name", x, y, "s0", **changes)


def test_points_lie_where_their_values_say():
    assert drawn(line((0, 0), (0.5, 0.25), (1, 1))) == "M0 100L50 75L100 0"


def test_values_outside_the_axis_stay_at_its_edge():
    assert drawn(line((-1, 2), (2, -1))) == "M0 0L100 100"


def test_a_gap_interrupts_the_line():
    assert drawn(line((0, 0), (0.5, np.nan), (1, 1))) == "M0 100M100 0"


def test_decades_of_a_logarithmic_axis_are_equally_wide():
    axis = Axis("log", 1, 1000, log=True)
    np.testing.assert_allclose(axis.position(np.array([1, 10, 100, 1000])), [0, 100 / 3, 200 / 3, 100])


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (UNIT, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("", 0, 2000), [0, 500, 1000, 1500, 2000]),
        (Axis("", 135, 286), [150, 200, 250]),
        (Axis("", 0.5, 1000, log=True), [1, 10, 100, 1000]),
        (Axis("", 1.3, 14, log=True), [2, 5, 10]),
    ],
)
def test_ticks_are_round(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_every_axis_has_a_few_ticks_and_all_within(low, width):
    axis = Axis("", low, low + width)
    ticks = np.array(axis.ticks())
    assert 2 <= len(ticks) <= 8
    assert (ticks >= low - 1e-6 * width).all()
    assert (ticks <= low + width + 1e-6 * width).all()


def test_an_outline_starts_and_ends_on_the_ground_and_follows_the_counts():
    x, y = outline(np.array([0, 1, 2]), np.array([3, 5]))
    assert list(zip(x, y, strict=True)) == [(0, 0), (0, 3), (1, 3), (1, 5), (2, 5), (2, 0)]


def test_long_lines_are_averaged_and_keep_their_mean():
    values = np.random.default_rng(0).random(10 * MAX_POINTS)
    d = drawn(Line("", np.linspace(0, 1, len(values)), values, "s0"))
    heights = [100 - float(point.split()[1]) for point in re.split("[ML]", d)[1:]]
    assert len(heights) == MAX_POINTS
    assert np.mean(heights) == pytest.approx(100 * values.mean(), abs=0.01)


def test_short_lines_have_dots_and_a_single_point_is_seen():
    assert paths(chart("", "a", UNIT, UNIT, [line((0.5, 0.5))]), "dot s0") == ["M50 50h0"]
    assert paths(chart("", "a", UNIT, UNIT, [line(*[(0.5, 0.5)] * 20)]), "dot s0") == []


def test_several_lines_have_a_legend_and_one_has_none():
    assert chart("", "a", UNIT, UNIT, [line((0, 0))] * 2).count("<li>") == 2
    assert "<li>" not in chart("", "a", UNIT, UNIT, [line((0, 0))])


def test_marks_are_labelled_on_the_side_with_room():
    text = chart("", "a", UNIT, UNIT, [], [Mark("low", 0.25), Mark("high", 0.75)])
    assert 'style="left:25.00%;top:0.0em">low' in text
    assert 'style="right:25.00%;top:1.3em">high' in text
    assert paths(text, "mark") == ["M25.00 0V100", "M75.00 0V100"]


def test_words_are_escaped():
    text = chart("<a>", '"<b>', Axis("<c>"), Axis("<d>"), [Line("<e>", *np.zeros((2, 1)), "s0")] * 2, [Mark("<f>", 0)])
    assert not re.findall("<[a-f]>", text)
    assert 'aria-label="&quot;&lt;b&gt;"' in text
