"""Charts as HTML: lines are SVG stretched to the width at hand, words are text of one size at any width.

Colours and dashes are those of style.css, so charts follow the reader's light or dark scheme.
"""

# P points

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_POINTS = 400
"""Longer lines are drawn as averages of neighbouring points."""
MAX_DOTS = 12
"""The points of lines this short are marked."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values and what they are."""

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def position(self, values: np.ndarray | float) -> np.ndarray:
        """Values as percentages of the axis, clipped to it."""
        if self.log:
            share = np.log(np.maximum(values, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (np.asarray(values) - self.low) / (self.high - self.low)
        return 100 * np.clip(share, 0, 1)

    def ticks(self) -> list[float]:
        """About five round values."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if self.high / self.low < 200 else (1,)
            values = [f * 10.0**d for d in decades for f in factors]
            return [v for v in values if self.low <= v * (1 + 1e-9) and v <= self.high * (1 + 1e-9)]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or with `filled` the area under it."""

    label: str
    x: np.ndarray
    """[P]."""
    y: np.ndarray
    """[P]; NaN interrupts the line."""
    style: str
    """Colour and dash, a class of style.css: `s0` to `s5`, `true` or `false`."""
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled vertical line."""

    label: str
    x: float


def chart(title: str, alt: str, x: Axis, y: Axis, lines: Sequence[Line], marks: Sequence[Mark] = ()) -> str:
    """A figure; `alt` says in words what it shows."""
    grid = "".join(f'<path class="grid" d="M0 {100 - y.position(t):.2f}H100"/>' for t in y.ticks())
    grid += "".join(f'<path class="mark" d="M{x.position(m.x):.2f} 0V100"/>' for m in marks)
    ticks = "".join(f'<i class="x" style="left:{x.position(t):.2f}%">{number(t)}</i>' for t in x.ticks())
    ticks += "".join(f'<i class="y" style="bottom:{y.position(t):.2f}%">{number(t)}</i>' for t in y.ticks())
    ticks += "".join(_mark_label(mark, float(x.position(mark.x)), row) for row, mark in enumerate(marks))
    drawn = "".join(_path(line, x, y) for line in lines)
    legend = "".join(f"<li>{_sample(line)}{html.escape(line.label)}</li>" for line in lines)
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
        f'<div role="img" aria-label="{html.escape(alt)}"><b class="y">{html.escape(y.label)}</b><div class="plot">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{grid}{drawn}</svg>{ticks}</div>'
        f'<b class="x">{html.escape(x.label)}</b></div>'
        + (f'<ul class="legend">{legend}</ul>' if len(lines) > 1 else "")
        + "</figure>"
    )


def outline(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y) of a histogram's outline; `edges` [P + 1], `counts` [P]."""
    return np.repeat(edges, 2), np.pad(np.repeat(counts, 2), 1)


def number(value: float) -> str:
    """A tick's text: 0.25, 1, 20,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _path(line: Line, x: Axis, y: Axis) -> str:
    horizontal, vertical = _thinned(line)
    points, move = [], "M"
    for left, top, known in zip(x.position(horizontal), 100 - y.position(vertical), ~np.isnan(vertical), strict=True):
        points.append(f"{move}{left:.4g} {top:.4g}" if known else "")
        move = "L" if known else "M"
    d = "".join(points)
    drawn = f'<path class="{line.style}" d="{d}"/>'
    if line.filled:
        drawn = f'<path class="area {line.style}" d="{d}Z"/>{drawn}'
    if len(points) <= MAX_DOTS:
        dots = "".join(f"M{point[1:]}h0" for point in points if point)
        drawn += f'<path class="dot {line.style}" d="{dots}"/>'
    return drawn


def _thinned(line: Line) -> tuple[np.ndarray, np.ndarray]:
    if len(line.x) <= MAX_POINTS:
        return line.x, line.y
    starts = np.linspace(0, len(line.x), MAX_POINTS, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(line.x)])
    return np.add.reduceat(line.x, starts) / sizes, np.add.reduceat(line.y, starts) / sizes


def _sample(line: Line) -> str:
    return f'<svg viewBox="0 0 24 10" aria-hidden="true"><path class="{line.style}" d="M0 5H24"/></svg>'


def _mark_label(mark: Mark, left: float, row: int) -> str:
    """Beside the line, on the side with more room; each mark's label a row lower."""
    side = f"left:{left:.2f}%" if left < 68 else f"right:{100 - left:.2f}%"
    return f'<i class="mark" style="{side};top:{1.3 * row:.1f}em">{html.escape(mark.label)}</i>'
