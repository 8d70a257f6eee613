"""Proves that decoding only the upper rows of a JPEG gives the pixels that decoding all of it gives, for every
kind of file, and that files which are not ordinary are left to Pillow.
"""

import io

import numpy as np
import pytest
from PIL import Image

from ssd_graph.data import jpeg
from ssd_graph.data.decode import read_file
from ssd_graph.data.jpeg import decode_rows, find_frame

NOISE = np.random.default_rng(0).integers(0, 256, (141, 107, 3), np.uint8)


def encode(picture=NOISE, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", **options)
    return memoryview(bytearray(file.getvalue()))


def whole(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 63, 64, 65, 140, 141])
@pytest.mark.parametrize(
    "options",
    [
        *({"subsampling": s} for s in ("4:4:4", "4:2:2", "4:2:0")),
        {"quality": 5, "subsampling": "4:2:0"},
        {"restart_marker_blocks": 3},
        {"keep_rgb": True},
        {"picture": NOISE[..., 0]},
        {"exif": Image.Exif().tobytes(), "comment": b"\xff\xc0 no frame"},
    ],
)
def test_upper_rows_are_those_of_the_whole_picture(num_rows, options):
    data = encode(**options)
    frame = find_frame(data)
    assert (frame.width, frame.height) == (107, 141)
    expected = whole(data)[:num_rows]
    np.testing.assert_array_equal(decode_rows(data, frame, num_rows), expected)


def test_every_real_file_decodes_to_pillows_pixels(shared):
    rng = np.random.default_rng(1)
    for path in sorted((shared / "coco_mini" / "val2017").iterdir())[::4]:
        data = read_file(path)
        frame = find_frame(data)
        num_rows = int(rng.integers(1, frame.height + 1))
        expected = whole(data)[:num_rows]
        np.testing.assert_array_equal(decode_rows(data, frame, num_rows), expected)


@pytest.mark.parametrize(("subsampling", "num_decoded"), [("4:4:4", 72), ("4:2:2", 72), ("4:2:0", 96)])
def test_little_more_is_decoded_than_is_needed(monkeypatch, subsampling, num_decoded):
    data, decoded = encode(subsampling=subsampling), []
    decode = jpeg.decode_ordinary
    monkeypatch.setattr(jpeg, "decode_ordinary", lambda file: decoded.append(decode(file)) or decoded[0])
    decode_rows(data, find_frame(data), 66)
    assert len(decoded[0]) == num_decoded


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty", b""),
        ("no image", b"no image"),
        ("start only", b"\xff\xd8\xff"),
        ("progressive", encode(progressive=True)),
        ("truncated", encode()[:-2]),
        ("cut in its header", encode()[:170]),
        ("without height", encode().obj.replace((141).to_bytes(2) + (107).to_bytes(2), bytes(2) + (107).to_bytes(2))),
        ("huge", encode().obj.replace((141).to_bytes(2) + (107).to_bytes(2), 2 * (20_000).to_bytes(2))),
    ],
)
def test_what_is_not_ordinary_has_no_frame(name, data):
    assert find_frame(data) is None


def test_cmyk_has_no_frame():
    file = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(file, "JPEG")
    assert find_frame(file.getvalue()) is None


def test_a_thumbnail_is_not_taken_for_the_picture():
    thumbnail = encode(NOISE[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    data = bytes(encode())
    frame = find_frame(data[:2] + segment + data[2:])
    assert (frame.width, frame.height) == (107, 141)
    assert find_frame((data[:2] + segment + data[2:])[:-2]) is None  # though the thumbnail has an end
