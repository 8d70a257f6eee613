"""Decode a JPEG only as far down as a crop reaches.

The frame header says how many rows follow, and a decoder stops there. So a file whose header is changed to a
smaller height decodes to the same upper rows in less time, whatever the decoder.
"""

import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

_BASELINE, _SCAN = 0xC0, 0xDA
_END = b"\xff\xd9"
_TAIL = 64
"""Bytes in which a file's end is looked for: some programs write a few more behind it."""


class Frame(NamedTuple):
    """Where and what a JPEG file says of its picture."""

    offset: int
    """Position of the height, two bytes, in the file."""
    width: int
    height: int
    block: int
    """Rows that are decoded together; chroma at half height also needs the next block's first row."""

    def rows_for(self, num_rows: int) -> int:
        """The fewest rows whose decoding gives the upper `num_rows` as decoding all does."""
        whole = -(-num_rows // self.block) * self.block
        return min(self.height, whole if self.block == 8 else whole + self.block)


def find_frame(data: memoryview) -> Frame | None:
    """The frame of an ordinary JPEG: baseline, colour or grey, complete, of a size Pillow does not warn of.

    Anything else is None and is for Pillow to decode or refuse.
    """
    position, frame = 2, None
    if data[:2] != b"\xff\xd8":
        return None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if marker == _SCAN:
            return frame if bytes(data[max(position, len(data) - _TAIL) :]).rfind(_END) >= 0 else None
        if marker == _BASELINE and position + 20 <= len(data):
            frame = _frame(data, position)
        position += 2 + length
    return None


def _frame(data: memoryview, position: int) -> Frame | None:
    """The frame whose marker is at `position`."""
    precision, height, width, num_components = struct.unpack_from(">BHHB", data, position + 4)
    size = height * width
    if precision != 8 or num_components not in (1, 3) or not 0 < size <= (Image.MAX_IMAGE_PIXELS or size):
        return None
    samplings = [data[position + 11 + 3 * c] & 15 for c in range(num_components)]
    # A scan of one component has blocks of 8 rows whatever its sampling says.
    return Frame(position + 5, width, height, 8 * max(samplings) if num_components == 3 else 8)


def decode_rows(data: memoryview, frame: Frame, num_rows: int) -> np.ndarray:
    """The upper rows of a picture, uint8 RGB [num_rows, width, 3]; its height in `data` becomes what is decoded.

    Raises:
        ValueError, OSError: the file is damaged.
    """
    data[frame.offset : frame.offset + 2] = frame.rows_for(num_rows).to_bytes(2)
    return decode_ordinary(data)[:num_rows]


def decode_ordinary(data: memoryview) -> np.ndarray:
    """An ordinary JPEG file to uint8 RGB [height, width, 3], with Pillow's pixels."""
    # Not strict: as Pillow does, it then says nothing of libjpeg's warnings, of which rows left out cause one.
    return simplejpeg.decode_jpeg(data, strict=False)
