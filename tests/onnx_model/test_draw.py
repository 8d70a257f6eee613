"""Boxes are drawn where they are, in their class's colour, with captions one can read inside the image."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from ssd_graph.cli import say_once
from ssd_graph.onnx_model import draw
from ssd_graph.onnx_model.draw import class_colour, draw_detections, ink

GREY = (128, 128, 128)


def drawn(*boxes, size=(200, 160), classes=None):
    image = Image.new("RGB", size, GREY)
    classes = classes or list(range(len(boxes)))
    return image, np.asarray(
        draw_detections(image, np.array(boxes, float).reshape(-1, 4), ["cat 0.90"] * len(boxes), classes)
    )


def has_colour(pixels, index):
    return (pixels == class_colour(index)).all(-1)


def test_a_box_is_drawn_on_its_edges_and_not_inside():
    _, pixels = drawn([50, 60, 150, 140])
    marked = has_colour(pixels, 0)
    for y, x in ((60, 100), (140, 100), (100, 50), (100, 150)):
        assert marked[y, x]
    assert (pixels[100, 100] == GREY).all()


def test_the_image_itself_stays_as_it_was():
    image, _ = drawn([50, 60, 150, 140])
    assert image.getcolors() == [(200 * 160, GREY)]


@pytest.mark.parametrize(
    "box", [[-50, -50, 400, 400], [0, 0, 199, 159], [190, 150, 260, 300], [300, 300, 400, 400], [150, 140, 50, 60]]
)
def test_boxes_that_leave_the_image_are_drawn_at_its_edge_with_their_caption(box):
    _, pixels = drawn(box)
    assert has_colour(pixels, 0).sum() > 100


def test_no_detection_leaves_the_picture_unchanged():
    _, pixels = drawn()
    assert (pixels == GREY).all()


def test_the_first_detection_is_on_top():
    _, pixels = drawn([50, 60, 150, 140], [50, 60, 150, 140], classes=[3, 4])
    assert has_colour(pixels, 3).sum() > 300
    assert not has_colour(pixels, 4).any()


def test_eighty_classes_have_eighty_colours():
    colours = np.array([class_colour(i) for i in range(80)])
    assert len(np.unique(colours, axis=0)) == 80
    neighbours = np.abs(colours[1:] - colours[:-1]).sum(1)
    assert neighbours.min() > 100


def test_captions_have_a_contrast_of_at_least_four():
    def luminance(colour):
        red, green, blue = ((c / 255) ** 2.2 for c in colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for index in range(80):
        colour = class_colour(index)
        light, dark = sorted((luminance(colour), {"black": 0.0, "white": 1.0}[ink(colour)]), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4


def test_names_in_any_language_are_drawn_or_it_is_said_that_no_font_has_them(monkeypatch, capsys):
    """A font of the tests' own machine stands for those of a user's."""
    say_once.cache_clear()
    draw._font_for.cache_clear()
    monkeypatch.setattr(draw, "_WIDE_FONTS", ("no such font.ttc",))
    image, box = Image.new("RGB", (200, 160), GREY), np.array([[50.0, 60, 150, 140]])
    draw_detections(image, box, ["cat 0.9"], [0])
    assert capsys.readouterr().err == ""
    for _ in range(2):
        draw_detections(image, box, ["\u732b 0.9"], [0])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no font was found that has all characters" in error
    own = ImageFont.load_default(20)
    assert draw._draws(own, "cat 0.9")
    assert not draw._draws(own, "\u732b")
