"""Proves what becomes of every kind of bad image: what can be read is, all else ends the run with its name or, if
told so, is passed over in the same way whatever the workers, ranks and first step, named once and counted.
"""

import shutil
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.config import NO_AUGMENT, AugmentConfig
from ssd_graph.data import samples
from ssd_graph.data.cache import open_cache
from ssd_graph.data.coco import load_split
from ssd_graph.data.decode import decode, decode_part, preprocess
from ssd_graph.data.loader import Batch, Loader
from tests.data.test_loader import assert_same


def rewrite(path, change):
    with Image.open(path) as image:
        image.load()
        change(image, path)


def rotated(image, path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    image.save(path, "JPEG", exif=exif)


def with_header_size(path, width, height):
    with Image.open(path) as image:
        stated = image.height.to_bytes(2) + image.width.to_bytes(2)
    path.write_bytes(path.read_bytes().replace(stated, height.to_bytes(2) + width.to_bytes(2), 1))


READABLE = {
    "a PNG": lambda path: rewrite(path, lambda image, path: image.save(path, "PNG")),
    "a palette": lambda path: rewrite(path, lambda image, path: image.quantize(200).save(path, "GIF")),
    "greyscale": lambda path: rewrite(path, lambda image, path: image.convert("L").save(path, "JPEG")),
    "CMYK": lambda path: rewrite(path, lambda image, path: image.convert("CMYK").save(path, "JPEG")),
    "progressive": lambda path: rewrite(path, lambda image, path: image.save(path, "JPEG", progressive=True)),
    "EXIF-rotated": lambda path: rewrite(path, rotated),
}
BAD = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4]),
    "without bytes": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_text("not found"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "of another size": lambda path: rewrite(path, lambda image, path: image.crop((0, 0, 90, 90)).save(path, "JPEG")),
    "turned": lambda path: rewrite(path, lambda i, path: i.crop((0, 0, 99, 80)).transpose(4).save(path, "JPEG")),
    "a bomb": lambda path: with_header_size(path, 20_000, 20_000),
}


def batches(split, count, *, first_step=0, batch_size=4, **options):
    loader = Loader(split, batch_size, AugmentConfig(), **options)
    return loader, list(islice(loader.batches(first_step), count))


@pytest.mark.parametrize("kind", READABLE)
def test_an_unusual_image_is_read_as_pillow_reads_it(own_coco, kind):
    split = load_split(own_coco, "train")
    READABLE[kind](split.path(2))
    expected = np.asarray(decode(split.path(2)))
    np.testing.assert_array_equal(decode_part(split.path(2), split.size(2), 50), expected[:50])
    assert batches(split, len(split) // 4 + 1, workers=0)[0].num_skipped == 0


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_refused_by_name(own_coco, kind):
    split = load_split(own_coco, "train")
    BAD[kind](split.path(2))
    with pytest.raises(InputError, match=r"cannot decode .*; replace the file or leave it out") as error:
        batches(split, len(split) // 4 + 1, workers=0)
    assert str(split.path(2)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_can_be_passed_over(own_coco, capsys, kind):
    split = load_split(own_coco, "train")
    BAD[kind](split.path(2))
    loader, found = batches(split, 2 * len(split) // 4, workers=0, on_bad_image="skip")
    assert loader.num_skipped == 2
    error = capsys.readouterr().err
    assert error.count("skipped: ") == 1
    assert str(split.path(2)) in error
    assert all((batch.labels[:, 0] > 0).all() for batch in found)


def test_a_bomb_that_the_annotations_know_of_is_refused_too(own_coco):
    split = load_split(own_coco, "train")
    with_header_size(split.path(2), 20_000, 20_000)
    split.sizes[2] = 20_000
    with pytest.raises(InputError, match="decompression bomb"):
        decode_part(split.path(2), split.size(2), 20_000)


def test_the_next_image_stands_for_a_bad_one(own_coco):
    split = load_split(own_coco, "train")
    expected = preprocess(decode(split.path(3)))
    split.path(2).unlink()
    loader = Loader(split, len(split), NO_AUGMENT, workers=0, on_bad_image="skip")
    batch = next(loader.batches())
    (slot,) = (slot for slot in range(len(split)) if loader.samples.position(0, slot)[1] == 2)
    assert np.abs(batch.images[slot].astype(int) - expected).max() <= 2
    boxes, labels = split.boxes_of(3)
    np.testing.assert_array_equal(batch.boxes[slot, : len(boxes)], boxes)
    assert batch.labels[slot].tolist() == [*labels.tolist(), *[0] * (batch.labels.shape[1] - len(labels))]


def test_the_first_image_stands_for_a_bad_last_one(own_coco):
    split = load_split(own_coco, "train")
    split.path(len(split) - 1).unlink()
    loader, _ = batches(split, len(split) // 4 + 1, workers=0, on_bad_image="skip")
    assert loader.num_skipped >= 1


def test_substitutes_depend_on_neither_workers_nor_ranks_nor_the_first_step(own_coco):
    split = load_split(own_coco, "train")
    for i in (2, 3, 9):
        split.path(i).unlink()
    alone, expected = batches(split, 6, workers=0, on_bad_image="skip")
    assert alone.num_skipped >= 3
    for workers in (1, 3):
        loader, found = batches(split, 6, workers=workers, on_bad_image="skip")
        assert_same(found, expected)
        assert loader.num_skipped == alone.num_skipped
    _, found = batches(split, 3, first_step=3, workers=2, on_bad_image="skip")
    assert_same(found, expected[3:])
    ranks = [batches(split, 6, batch_size=2, rank=r, world_size=2, on_bad_image="skip") for r in range(2)]
    joined = [
        Batch(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*(r[1] for r in ranks), strict=True)
    ]
    assert_same(joined, expected)
    assert sum(loader.num_skipped for loader, _ in ranks) == alone.num_skipped


def test_so_many_bad_images_in_a_row_are_an_error(own_coco, monkeypatch):
    split = load_split(own_coco, "train")
    for i in range(len(split) - 2):
        split.path(i).unlink()
    assert batches(split, 2, workers=0, on_bad_image="skip")
    monkeypatch.setattr(samples, "_MOST_SUBSTITUTES", 2)
    with pytest.raises(InputError, match="cannot decode"):
        batches(split, 4, workers=0, on_bad_image="skip")


def test_a_lost_folder_is_an_error_even_if_bad_images_are_passed_over(own_coco):
    split = load_split(own_coco, "train")
    shutil.rmtree(split.image_dir)
    with pytest.raises(InputError, match="cannot decode"):
        batches(split, 1, on_bad_image="skip")


def test_a_cache_passes_over_the_same_images(own_coco, tmp_path):
    split = load_split(own_coco, "train")
    BAD["truncated"](split.path(2))
    split.path(5).unlink()
    _, expected = batches(split, 6, workers=0, on_bad_image="skip")
    cache = open_cache(str(tmp_path / "cache"), split, skip_bad=True)
    loader, found = batches(split, 6, on_bad_image="skip", cache=cache)
    assert_same(found, expected)
    assert loader.num_skipped == 4
    with pytest.raises(InputError, match="cannot decode"):
        batches(split, 6, cache=cache)
