"""Images are looked at before anything long begins: missing, damaged, of another size, stored turned."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.data.image_files import find_images, require_images


@pytest.fixture
def split(tiny_coco, tmp_path):
    """A copy of the validation split whose images may be changed."""
    sound = load_split(tiny_coco, "val")
    for i in range(len(sound)):
        (tmp_path / sound.file_names[i]).write_bytes(sound.path(i).read_bytes())
    return replace(sound, image_dir=tmp_path)


def test_linked_folders_are_searched_once_and_hidden_ones_never(tmp_path):
    for name in ("in/a.jpg", "in/.ipynb_checkpoints/b.jpg", "elsewhere/c.JFIF", "elsewhere/deep/d.jpe"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, target in (("in/link", "elsewhere"), ("in/other", "elsewhere"), ("elsewhere/deep/circle", "in")):
        (tmp_path / link).symlink_to(tmp_path / target)
    names = ["a.jpg", "link/c.JFIF", "link/deep/d.jpe"]
    assert find_images([tmp_path / "in"]) == [tmp_path / "in" / name for name in names]


def test_sound_images_are_accepted(split):
    assert require_images(split) == []


def test_faults_are_counted_and_the_first_is_named(split):
    split.path(1).unlink()
    split.path(3).write_bytes(b"\xff\xd8")
    Image.new("RGB", (7, 7)).save(split.path(4), "JPEG")
    with pytest.raises(InputError) as error:
        require_images(split)
    assert f"3 of {len(split)} images of instances_val2017.json cannot be used, the first is" in str(error.value)
    assert str(split.path(1)) in str(error.value)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_photo_that_is_stored_turned_is_told_of_the_flag_and_accepted_with_it(split, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    Image.new("RGB", split.size(0)[::-1]).save(split.path(0), kind, exif=exif)
    if split.size(0)[0] == split.size(0)[1]:
        split = replace(split, sizes=split.sizes + np.array([1, 0], np.int32))
    with pytest.raises(InputError, match="EXIF orientation 8"):
        require_images(split)
    require_images(replace(split, upright=True))


def test_mirrored_photos_are_counted_unless_they_are_turned(split):
    sizes = split.sizes.copy()
    sizes[2] = (30, 20)  # annotated as it is stored
    split = replace(split, sizes=sizes)
    for i, orientation in ((1, 3), (2, 6), (4, 2)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", split.size(i)).save(split.path(i), ("JPEG", "PNG")[i == 4], exif=exif)
    Image.new("RGB", split.size(3)).save(split.path(3), "PNG")
    (line,) = require_images(split)
    assert line.startswith(f"2 of {len(split)} images of instances_val2017.json are stored turned or mirrored")
    split.path(2).unlink()
    Image.new("RGB", split.size(2)).save(split.path(2), "JPEG")
    assert require_images(replace(split, upright=True)) == []
