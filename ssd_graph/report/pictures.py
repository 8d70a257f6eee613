"""Images with their ground truth (dashed) and detections (solid): a small JPEG under boxes and words."""

# N images

import base64
import html
import io
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.decode import decode
from ssd_graph.scoring.diagnosis import Outcome, f1_of, image_counts
from ssd_graph.scoring.matching import Matches

MAX_SIDE = 640
MAX_BYTES = 110_000
"""Limits of an embedded JPEG, in pixels and bytes."""

_QUALITIES = (85, 75, 60, 40, 20)
# What a label takes of a picture shown 330 pixels wide, the width on a phone and in the page's three columns.
_SHOWN_WIDTH, _LETTER, _LINE = 330, 6.2, 15
_WIDE = 10.5 / _LETTER  # of a Chinese letter


class Box(NamedTuple):
    """A box of a picture."""

    kind: str
    """Class of style.css: `missed`, `false`, `found`, or `truth` for the ground truth of a found object."""
    xyxy: np.ndarray
    """float64 [4], relative to the image, within it."""
    text: str


def ranked_images(matches: Matches, at: Outcome, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the best and of the worst images, at most `count` each, none in both.

    The score of an image is its F1 at the outcome's threshold; among equals the image with more found objects
    is better, then the one with fewer mistakes. Images with neither objects nor detections are left out.
    """
    counts = image_counts(matches, at)
    f1 = f1_of(counts)
    order = np.lexsort((counts[:, 1:].sum(1), -counts[:, 0], -f1))
    order = order[~np.isnan(f1[order])]
    best = order[: min(count, (len(order) + 1) // 2)]
    return best, order[len(best) :][::-1][:count]


def picture(split: CocoSplit, matches: Matches, at: Outcome, i: int) -> str:
    """Image `i` of the split as a figure.

    Raises:
        InputError: the image cannot be read.
    """
    width, height = (int(v) for v in split.sizes[i])
    boxes = list(_boxes(split, matches, at, i))
    found, false, missed = (sum(box.kind == kind for box in boxes) for kind in ("found", "false", "missed"))
    counts = f"{found} found, {false} false, {missed} missed"
    name = html.escape(str(split.file_names[i]))
    shapes = "".join(_rectangle(box, width, height) for box in boxes)
    labels = "".join(
        f'<span class="{box.kind}" style="left:{100 * spot[0]:.2f}%;top:{100 * spot[1] * width / height:.2f}%">'
        f"{html.escape(box.text)}</span>"
        for box, spot in label_spots([box for box in boxes if box.kind != "truth"], height / width)
    )
    f1 = f1_of(np.array([found, false, missed]))
    return (
        f'<figure class="picture"><div style="aspect-ratio:{width}/{height}">'
        f'<img alt="{name}: {counts}" src="data:image/jpeg;base64,{_jpeg(split, i)}">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{shapes}</svg>'
        f'<div aria-hidden="true">{labels}</div></div>'
        f"<figcaption><b>F1 {f1:.2f}</b> {counts}<small>{name}</small></figcaption></figure>"
    )


def _boxes(split: CocoSplit, matches: Matches, at: Outcome, i: int) -> Iterator[Box]:
    """Boxes of image i in drawing order, mistakes last."""
    name_of = dict(zip(split.categories.ids, split.categories.names, strict=True))
    rows, objects = matches.rows, matches.objects

    def box(kind: str, xywh: np.ndarray, text: str) -> Box:
        corners = np.concatenate([xywh[:2], xywh[:2] + xywh[2:]]) / np.tile(split.sizes[i], 2)
        return Box(kind, corners.clip(0, 1), text)

    for g in np.flatnonzero(objects.image_ids == split.image_ids[i]):
        name = name_of[int(objects.category_ids[g])]
        yield box("missed" if at.missed[g] else "truth", objects.boxes_xywh[g], f"missed {name}")
    for kind, chosen in (("found", at.found), ("false", at.false)):
        for row in np.flatnonzero(chosen & (rows.image_ids == split.image_ids[i])):
            name = name_of[int(rows.category_ids[row])]
            text = f"{'✕ ' * (kind == 'false')}{name} {rows.scores[row]:.2f}"
            yield box(kind, rows.boxes_xywh[row], text)


def _rectangle(box: Box, width: int, height: int) -> str:
    x1, y1, x2, y2 = box.xyxy * np.tile((width, height), 2)
    title = f"<title>{html.escape(box.text)}</title>" if box.kind != "truth" else ""
    return (
        f'<rect class="{box.kind}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}">'
        f"{title}</rect>"
    )


def label_spots(boxes: Sequence[Box], aspect: float) -> Iterator[tuple[Box, np.ndarray]]:
    """Where labels go: xyxy, float64 [4], in units of the picture's width, without covering each other.

    Mistakes choose first, larger boxes before smaller; a box for whose label no place is left has none. `aspect`
    is the picture's height over its width.
    """
    line, placed = _LINE / _SHOWN_WIDTH, np.empty((0, 4))
    for box in sorted(boxes, key=lambda box: (box.kind == "found", -np.prod(box.xyxy[2:] - box.xyxy[:2]))):
        x1, y1, x2, y2 = box.xyxy * (1, aspect, 1, aspect)
        letters = sum(_WIDE if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in box.text)
        width = (_LETTER * letters + 8) / _SHOWN_WIDTH
        for left, top in ((x1, y1 - line), (x1, y1), (x2 - width, y2 - line), (x1, y2)):
            left = min(max(left, 0.0), 1 - width)
            spot = np.array([left, top, left + width, top + line])
            free = (placed[:, :2] >= spot[2:]).any(1) | (placed[:, 2:] <= spot[:2]).any(1)
            if left >= 0 and top >= 0 and top + line <= aspect and free.all():
                placed = np.concatenate([placed, spot[None]])
                yield box, spot
                break


def _jpeg(split: CocoSplit, i: int) -> str:
    """The image in base64, as good as fits the limits."""
    image = decode(split.path(i), upright=split.upright)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    for quality in _QUALITIES:
        buffer.seek(0)
        buffer.truncate()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_BYTES:
            break
    return base64.b64encode(buffer.getvalue()).decode()
