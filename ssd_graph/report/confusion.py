"""The confusion matrix as HTML: a table with counts for few classes, a heat map for many, and its largest entries."""

# K classes; row and column K of a matrix [K + 1, K + 1] are "nothing"

import html
import math
from collections.abc import Sequence

import numpy as np

MAX_TABLE_CLASSES = 8
"""Beyond this a table of counts does not fit a phone."""
NUM_PAIRS = 10

_HEAT_SIDE = 900
_LEAST_LETTER = 7
"""Pixels of a heat map on a wide screen."""
_LABEL_LETTERS = 18


def confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """The matrix, int64 [K + 1, K + 1] with truth in rows (see diagnosis.confusion_matrix), and who is who in it."""
    drawn = _table(matrix, names) if len(names) <= MAX_TABLE_CLASSES else _heat_map(matrix, names)
    return _shares(matrix) + drawn + _pairs(matrix, names)


def _shares(matrix: np.ndarray) -> str:
    """What became of the objects, as a bar and in words."""
    objects, found, missed = matrix[:-1].sum(), np.trace(matrix[:-1, :-1]), matrix[:-1, -1].sum()
    parts = [("found", found), ("taken for another class", objects - found - missed), ("missed", missed)]
    bar = "".join(f'<i class="p{n}" style="flex-grow:{count}"></i>' for n, (_, count) in enumerate(parts) if count)
    legend = "".join(
        f'<li><i class="p{n}"></i><b>{count:,}</b> {text} <small>{count / max(objects, 1):.0%}</small></li>'
        for n, (text, count) in enumerate(parts)
    )
    return (
        f'<div class="shares"><p>Of {objects:,} objects</p><div aria-hidden="true">{bar}</div>'
        f"<ul>{legend}</ul><p>Besides, {matrix[-1].sum():,} detections are false: on nothing, or on an object that is "
        "found already.</p></div>"
    )


def _tint(matrix: np.ndarray) -> np.ndarray:
    """Shares of each truth's objects [K + 1, K + 1]; in the last row, of all false detections."""
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def _table(matrix: np.ndarray, names: Sequence[str]) -> str:
    shares = _tint(matrix)

    def cell(truth: int, detected: int) -> str:
        if truth == detected == len(names):
            return "<td></td>"
        kind = ' class="right"' if truth == detected else ""
        return f'<td{kind} style="--share:{shares[truth, detected]:.3f}">{matrix[truth, detected] or "·"}</td>'

    heads = "".join(f'<th scope="col"><span>{html.escape(n)}</span></th>' for n in (*names, "missed"))
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cell(t, d) for d in range(len(names) + 1))}</tr>'
        for t, name in enumerate((*names, "nothing"))
    )
    return (
        f'<figure class="confusion" style="--columns:{len(names) + 1}"><table>'
        "<caption>Rows: what is there. Columns: what was detected.</caption>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></figure>"
    )


def _heat_map(matrix: np.ndarray, names: Sequence[str]) -> str:
    side, shares = len(matrix), _tint(matrix)
    cell = min(_HEAT_SIDE / side, 28)
    step = math.ceil(_LEAST_LETTER / (0.8 * cell))  # of many classes not every one has room for its name
    letter = min(0.8 * step, 12 / cell)  # in cells
    squares = "".join(
        f'<rect class="{"right" if t == d else "wrong"}" x="{d}" y="{t}" width="1" height="1" '
        f'opacity="{max(shares[t, d] ** 0.5, 0.12):.2f}"><title>{_in_words(matrix, names, t, d)}</title></rect>'
        for t, d in np.argwhere(matrix).tolist()
    )
    lines = "".join(f"M0 {n}H{side}M{n} 0V{side}" for n in (*range(0, side, 10), side - 1, side))
    labels = "".join(
        f'<text x="-.6" y="{n + 0.5 + letter / 3:.2f}" text-anchor="end">{_short(name)}</text>'
        f'<text transform="translate({n + 0.5 + letter / 3:.2f} -.6) rotate(-90)">{_short(column)}</text>'
        for n, (name, column) in enumerate(zip((*names, "nothing"), (*names, "missed"), strict=True))
        if n == len(names) or (n % step == 0 and n + step <= len(names))
    )
    return (
        '<figure class="heat"><figcaption>Rows: what is there. Columns: what was detected. The stronger the '
        "colour, the larger the share of the row.</figcaption>"
        f'<svg viewBox="0 0 {side} {side}" style="font-size:{letter:.3f}px;--width:{side * cell:.0f}px" role="img" '
        f'aria-label="Confusion matrix of {len(names)} classes; its largest entries are listed below.">'
        f'{squares}<path class="grid" d="{lines}"/>{labels}</svg></figure>'
    )


def _short(name: str) -> str:
    return html.escape(name if len(name) <= _LABEL_LETTERS else f"{name[: _LABEL_LETTERS - 1]}…")


def _in_words(matrix: np.ndarray, names: Sequence[str], truth: int, detected: int) -> str:
    count, nothing = matrix[truth, detected], len(names)
    if truth == nothing:
        return f"{html.escape(names[detected])}, false: {count}"
    fate = "missed" if detected == nothing else "found" if detected == truth else f"taken for {names[detected]}"
    return f"{html.escape(f'{names[truth]}, {fate}')}: {count} of {matrix[truth].sum()}"


def _pairs(matrix: np.ndarray, names: Sequence[str]) -> str:
    """The largest entries off the diagonal, as three lists."""
    nothing, objects = len(names), matrix.sum(1)
    mixed = matrix[:-1, :-1] * (1 - np.eye(nothing, dtype=np.int64))
    confused = [
        # Isolated, or names that run from right to left would turn the arrow's meaning round.
        (
            f"\u2068{names[truth]}\u2069 → \u2068{names[detected]}\u2069",
            int(mixed[truth, detected]),
            f"of {objects[truth]}",
        )
        for truth, detected in np.argwhere(mixed).tolist()
    ]
    missed = [(name, int(matrix[k, -1]), f"of {objects[k]}") for k, name in enumerate(names)]
    false = [(name, int(matrix[-1, k]), "") for k, name in enumerate(names)]
    lists = (("Most confused", confused), ("Most missed", missed), ("Most often false", false))
    return f'<div class="pairs">{"".join(_largest(title, entries) for title, entries in lists)}</div>'


def _largest(title: str, entries: Sequence[tuple[str, int, str]]) -> str:
    largest = sorted((entry for entry in entries if entry[1]), key=lambda entry: -entry[1])[:NUM_PAIRS]
    items = "".join(
        f"<li><span>{html.escape(text)}</span><b>{count}</b><small>{of}</small></li>" for text, count, of in largest
    )
    return f"<div><h3>{title}</h3>{f'<ol>{items}</ol>' if items else '<p>None.</p>'}</div>"
