"""Image files of every kind are decoded to RGB, or refused by name."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ssd_graph.cli import InputError
from ssd_graph.data.decode import decode, decode_part, orientation

COLOUR = (200, 30, 60)
DEEP = np.array([[0, 255, 256, 32768], [65535, 65280, 4096, 1]], np.uint16)


@pytest.mark.parametrize(
    ("mode", "name"), [("RGB", "a.jpg"), ("CMYK", "a.jpg"), ("P", "a.png"), ("P", "a.gif"), ("RGBA", "a.png")]
)
def test_every_colour_mode_decodes_to_rgb(tmp_path, mode, name):
    Image.new("RGB", (40, 20), COLOUR).convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / name)
    image = decode(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert np.abs(np.asarray(image) - np.array(COLOUR)).max() <= 3


def test_greyscale_decodes_to_three_equal_channels(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8), (8, 1))
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "grey.png")), np.stack([ramp] * 3, -1))


def test_a_png_named_jpg_decodes(tmp_path):
    Image.new("RGB", (4, 4), COLOUR).save(tmp_path / "image.jpg", format="PNG")
    assert decode(tmp_path / "image.jpg").getpixel((0, 0)) == COLOUR


@pytest.fixture
def stored_turned(tmp_path):
    """A photo of 40 x 20 pixels, red on the left, that a camera stored as 20 x 40."""
    upright = Image.new("RGB", (40, 20), "red")
    upright.paste("blue", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    return tmp_path / "a.jpg"


def test_a_png_is_decoded_for_its_orientation_only_if_there_may_be_one_behind_its_pixels(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "early.png", exif=exif)
    content = (tmp_path / "early.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    (tmp_path / "late.png").write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    (tmp_path / "none.png").write_bytes(content[:start] + content[end:])
    decoded = []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda image: decoded.append(Path(image.filename).stem) or load(image))
    for name, tag in (("early", 6), ("late", 6), ("none", 1)):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert orientation(image) == tag
    assert decoded == ["late"]
    assert decode(tmp_path / "late.png", upright=True).size == (20, 30)


def test_the_orientation_that_other_programs_write_as_text_into_a_png_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lines = exif.tobytes().hex()
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for name, text in (
        ("Raw profile type exif", f"\nexif\n{len(lines) // 2:8}\n{lines}\n"),
        ("XML:com.adobe.xmp", xmp),
    ):
        info = PngInfo()
        info.add_itxt(name, text) if name.startswith("XML") else info.add_text(name, text, zip=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "a.png", pnginfo=info)
        with Image.open(tmp_path / "a.png") as image:
            assert orientation(image) == 6, name


def test_exif_orientation_is_ignored_unless_asked_for(stored_turned):
    assert decode(stored_turned).size == (20, 40)
    upright = np.asarray(decode(stored_turned, (40, 20), upright=True)).astype(int)
    assert (upright[:, 2:18, 0] > 240).all()
    assert (upright[:, 22:38, 2] > 240).all()
    part = decode_part(stored_turned, (40, 20), 12, upright=True)
    np.testing.assert_array_equal(part, upright[:12])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_orientation_is_undone_or_ignored(tmp_path, kind, tag):
    """Pillow itself turns a TIFF when it is loaded, and says its size as if it were turned before."""
    stored = np.random.default_rng(tag).integers(0, 256, (2, 3, 3), np.uint8)
    rows = stored.transpose(1, 0, 2) if tag >= 5 else stored
    upright = rows[:: -1 if tag in (3, 4, 7, 8) else 1, :: -1 if tag in (2, 3, 6, 7) else 1]
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(stored).save(tmp_path / "a", kind, exif=exif, lossless=True)
    for turn, expected in ((False, stored), (True, upright)):
        size = expected.shape[1::-1]
        np.testing.assert_array_equal(decode(tmp_path / "a", size, upright=turn), expected)
        np.testing.assert_array_equal(decode_part(tmp_path / "a", size, 2, upright=turn), expected[:2])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, as every command does
@pytest.mark.parametrize("kind", range(1, 14))
@pytest.mark.parametrize("tag", [0x010E, 0x011A, 0x8769, 0x8825])
def test_other_tags_may_hold_anything(tmp_path, tag, kind):
    """Text for a number, a fraction for text, and a folder of tags that is none."""
    entries = struct.pack("<HHI4sHHI4s", 0x0112, 3, 1, b"\6\0", tag, kind, 3, b"72\0\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + bytes(16)
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg", upright=True).size == (20, 40)


def test_a_size_that_a_tag_explains_is_refused_with_the_flag_that_helps(stored_turned):
    for read in (decode, lambda *of: decode_part(*of, 20)):
        with pytest.raises(
            InputError, match=r"has 20 x 40 pixels.* say 40 x 20; .*orientation 6\), --upright turns it"
        ):
            read(stored_turned, (40, 20))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, as every command does
@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [(3, 1, b"\0\0"), (3, 1, b"\x09\0"), (2, 4, b"six"), (5, 1, b"\xff\xff\xff\xff"), (99, 1, b"")],
)
def test_an_orientation_that_makes_no_sense_is_none(tmp_path, kind, count, value):
    entry = struct.pack("<HHI4s", 0x0112, kind, count, value)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    for upright in (False, True):
        assert decode(tmp_path / "a.jpg", (40, 20), upright=upright).size == (40, 20)
        assert decode_part(tmp_path / "a.jpg", (40, 20), 5, upright=upright).shape == (5, 40, 3)
        with pytest.raises(InputError, match="40 x 20 pixels, the annotations say 20 x 40"):
            decode(tmp_path / "a.jpg", (20, 40), upright=upright)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_16_bits_are_scaled_to_8(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        file.write_bytes(b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(file)
    np.testing.assert_array_equal(np.asarray(decode(file))[..., 0], DEEP >> 8)
    assert decode(file).mode == "RGB"


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused(tmp_path, dtype):
    Image.fromarray(DEEP.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: it has 32 bits a pixel .* convert it to 8 or 16 bits"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_truncated_file_is_refused_by_name(tmp_path, kind):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg", format=kind)
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot decode .*cut\.jpg: .*; replace the file"):
        decode(tmp_path / "cut.jpg")


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff"])
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "odd.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot decode .*odd\.jpg"):
        decode(tmp_path / "odd.jpg")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"cannot decode .*gone\.jpg"):
        decode(tmp_path / "gone.jpg")


def test_a_part_is_the_upper_rows_of_the_whole(shared):
    path = shared / "coco_mini" / "train2017" / "000000000009.jpg"
    whole = np.asarray(decode(path))
    found = decode_part(path, (640, 480), 201)
    np.testing.assert_array_equal(found, whole[:201])
    found[0] = 0  # writeable


def test_another_size_than_expected_is_refused(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg", (40, 20)).size == (40, 20)
    for call in (lambda: decode(tmp_path / "a.jpg", (20, 40)), lambda: decode_part(tmp_path / "a.jpg", (20, 40), 5)):
        with pytest.raises(InputError, match=r"a\.jpg: it has 40 x 20 pixels, the annotations say 20 x 40"):
            call()


def test_an_image_that_would_run_another_program_is_refused(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript; a file named .jpg must not get there."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\nexit 1\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    picture = tmp_path / "a.jpg"
    picture.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 100\n%%EndComments\n%%EOF\n")
    with pytest.raises(InputError, match=r"a\.jpg"):
        decode(picture)
    assert not (tmp_path / "executed").exists()
