"""Decodes an image file, or its upper rows, to RGB pixels, as it is stored or as it is meant to be seen.

`preprocess` is the one definition of an evaluation input; training validation and the onnxruntime
evaluator both call it, always on Pillow's pixels.
"""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from ssd_graph.cli import InputError
from ssd_graph.config import IMAGE_SIZE
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.jpeg import decode_rows, find_frame

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's decoders of photographs. It has others that should not meet a stranger's file: EPS runs Ghostscript."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises where an image cannot be decoded."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image of each EXIF orientation becomes upright."""


def decode(path: Path, size: tuple[int, int] | None = None, *, upright: bool = False) -> Image.Image:
    """Decode an image file to RGB; greyscale, palette, CMYK and 16-bit files are converted.

    Args:
        size: width and height that the image must have, any if None; looked at before anything is decoded.
        upright: turn it as its EXIF orientation says, before its size is looked at; else the tag is ignored.

    Raises:
        InputError: the file is missing, is not a readable image, has more than 16 bits, or another size.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            require_size(image, size, upright)
            return to_rgb(image, upright=upright)
    except UNREADABLE as error:
        raise InputError(f"cannot decode {path}: {error}; replace the file or leave it out") from error


def decode_part(path: Path, size: tuple[int, int], num_rows: int, *, upright: bool = False) -> np.ndarray:
    """The upper rows of `decode`, uint8 RGB [num_rows, width, 3], without decoding all that lies below.

    Raises:
        InputError: as `decode`; damage below the last row may go unnoticed.
    """
    with suppress(OSError, ValueError):  # for Pillow to name what is wrong
        data = read_file(path)
        frame = find_frame(data)
        if frame and (frame.width, frame.height) == size and not (upright and _is_turned(data)):
            return decode_rows(data, frame, num_rows)
    return np.array(decode(path, size, upright=upright))[:num_rows]


def read_file(path: Path) -> memoryview:
    """A file's bytes, to be changed by whoever asked for them."""
    with open(path, "rb", buffering=0) as file:
        data = np.empty(os.fstat(file.fileno()).st_size, np.uint8).data
        return data[: file.readinto(data)]


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image: 1 is upright, 5 to 8 lie on a side; 1 if the tag makes no sense."""
    try:
        if image.format == "PNG" and not _png_may_be_turned(image):
            return 1
        tag: Any = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a stranger's tags can make their reader raise anything
        return 1
    return int(tag) if tag in range(1, 9) else 1


def _png_may_be_turned(image: Image.Image) -> bool:
    """Whether Pillow could find an orientation; for one behind the pixels it would decode these."""
    if (file := getattr(image, "fp", None)) is None or "exif" in image.info:
        return True
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return any(name in content for name in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"))


def shown_size(image: Image.Image, upright: bool) -> tuple[int, int]:
    """Width and height of an image that was opened and not yet loaded, as stored or turned as its orientation says."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # whose `size` may be turned already
        width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
    return (height, width) if upright and orientation(image) >= 5 else (width, height)


def require_size(image: Image.Image, wanted: tuple[int, int] | None, upright: bool = False) -> None:
    """Raise ValueError if an opened image, turned upright or not, does not have the wanted width and height."""
    if wanted is None or (found := shown_size(image, upright)) == tuple(wanted):
        return
    tag = orientation(image)
    turned = f"; it is stored turned (EXIF orientation {tag}), --upright turns it" if tag >= 5 and not upright else ""
    raise ValueError("it has {} x {} pixels, the annotations say {} x {}".format(*found, *wanted) + turned)


def _is_turned(jpeg: memoryview) -> bool:
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return orientation(image) != 1


def to_rgb(image: Image.Image, *, upright: bool = False) -> Image.Image:
    """RGB of an image of whatever mode; of 16 bits a channel the upper 8 are taken, as OpenCV does.

    `upright` turns it as its EXIF orientation says; of the tags no other is looked at.

    Raises:
        ValueError: it has more than 16 bits; others of UNREADABLE: its pixels were not yet read, and cannot be.
    """
    is_tiff = isinstance(image, TiffImageFile)
    tag = orientation(image) if upright != is_tiff else 1
    if is_tiff:  # Pillow turns it as it is loaded, which is to be undone
        tag = {6: 8, 8: 6}.get(tag, tag)
    if tag != 1:
        image = image.transpose(_TURNS[tag])
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("it has 32 bits a pixel and no range that means white; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow itself would cut off all levels above 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns unless it goes through RGBA
        image = image.convert("RGBA")
    rgb = image.convert("RGB")
    rgb.info.clear()  # its orientation too, by which somebody might turn it again
    return rgb


def preprocess(image: Image.Image) -> np.ndarray:
    """The whole image as uint8 RGB [300, 300, 3], antialiased bilinear, aspect ratio not kept (REF val transform)."""
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))


def evaluation_input(split: CocoSplit, i: int) -> np.ndarray:
    """Image i as evaluation gives it to the network, uint8 RGB [300, 300, 3].

    Raises:
        InputError: as `decode`; the size must be the annotations'.
    """
    return preprocess(decode(split.path(i), split.size(i), upright=split.upright))
