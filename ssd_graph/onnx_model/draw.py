"""Detections drawn on images, with Pillow alone."""

# D detections

import colorsys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssd_graph.cli import say_once

_GOLDEN_ANGLE = 0.381966
"""In turns; hues this far apart stay distinct however many there are."""

_WIDE_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc"),
    *("wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "uming.ttc", "msyh.ttc", "simsun.ttc"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf"),
)
"""Where Linux distributions, Windows and macOS keep the characters of most languages; Pillow knows their folders."""


def class_colour(index: int) -> tuple[int, int, int]:
    """RGB of the class number `index`, the same in every image; neighbours differ in hue and lightness."""
    red, green, blue = colorsys.hls_to_rgb(index * _GOLDEN_ANGLE % 1, (0.42, 0.58)[index % 2], 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Image.Image, boxes_xyxy: np.ndarray, captions: Sequence[str], class_indices: Sequence[int]
) -> Image.Image:
    """A copy of an RGB image with a box and its caption for each detection, the first on top.

    Args:
        boxes_xyxy: [D, 4] in pixels.
        captions: D texts.
        class_indices: D numbers that choose the colours.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    size = max(11, round(min(image.size) / 32))
    others = frozenset(c for c in "".join(captions) if not c.isascii())
    font, line = _font_for(others, size), max(2, size // 7)
    for box, caption, index in reversed(list(zip(boxes_xyxy.tolist(), captions, class_indices, strict=True))):
        colour = class_colour(index)
        left, top, right, bottom = _visible(box, image.size)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        place = _caption_place(draw.textbbox((0, 0), caption, font), (left, top, bottom), image.size)
        filled = draw.textbbox(place, caption, font)
        draw.rectangle((filled[0] - 2, filled[1] - 2, filled[2] + 2, filled[3] + 2), fill=colour)
        draw.text(place, caption, ink(colour), font)
    return drawn


# A video asks for the same in each frame.
@lru_cache
def _font_for(characters: frozenset[str], size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which has ASCII, where it has these characters too, else one of the system that has them."""
    font = ImageFont.load_default(size)
    if _draws(font, characters):
        return font
    for name in _WIDE_FONTS:
        with suppress(OSError):
            if _draws(other := ImageFont.truetype(name, size), characters):
                return other
    say_once(
        "no font was found that has all characters of the class names, so some are drawn as squares; install one "
        "such as Noto Sans CJK (Debian: fonts-noto-cjk)"
    )
    return font


def _draws(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, characters: Iterable[str]) -> bool:
    """Whether a font has glyphs for all characters: what it has none for looks like a character that nobody has."""
    return all(_look(font, c) != _look(font, "\U0010fffd") for c in characters)


def _look(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, character: str) -> bytes:
    picture = Image.new("L", (200, 200))
    ImageDraw.Draw(picture).text((0, 0), character, 255, font)
    return picture.tobytes()


def _visible(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box kept inside the image, and not inside out where it lies wholly beside it."""
    left, right = sorted(min(max(x, 0), size[0] - 1) for x in box[0::2])
    top, bottom = sorted(min(max(y, 0), size[1] - 1) for y in box[1::2])
    return left, top, right, bottom


def _caption_place(
    text: tuple[float, float, float, float], box: tuple[float, float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Where to draw text of extent `text` for a box (left, top, bottom): above it, else within, in the image."""
    left, top, bottom = box
    width, height = text[2] + 4, text[3] + 4
    above, below = top - height, min(top + 3, bottom)
    y = above if above >= 0 else min(below, size[1] - height)
    return max(2, min(left + 2, size[0] - width)), max(0, y)


def ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is easier to read on `colour` (WCAG's contrast of relative luminances)."""
    linear = [(c / 255) ** 2.2 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"
