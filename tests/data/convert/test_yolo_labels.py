"""What a label of YOLO may be: boxes, polygons, key points; what is left out, and what is refused by file and line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssd_graph.data.convert.pictures import settle
from ssd_graph.data.convert.yolo import read_yolo
from tests.data.convert.folders import picture, refused, write
from tests.data.convert.yolo import BOX, LABEL, converted, describe, label, only_box

SHARES = st.floats(0, 1)
SIZES = ((1, 1), (640, 480), (3, 1999), (20_000, 7))


def test_a_polygon_becomes_the_box_around_it(root):
    label(root, "1 0.1 0.5 0.3 0.25 0.2 0.75")
    assert only_box(root) == ("no", pytest.approx((10, 15, 20, 30)))


@pytest.mark.parametrize("shape", [[2, 3], [3, 2]])
def test_key_points_behind_a_box_are_dropped(root, shape):
    describe(root, train="train/images", val="valid/images", kpt_shape=shape)
    label(root, f"{LABEL} 0.1 0.1 2 0.9 0.9 1")
    label(root, f"{LABEL} 0.1 0.1 2 0.9 0.9 1", "valid")
    assert only_box(root) == ("cat", BOX)


def test_a_class_may_be_written_as_a_decimal_number_behind_a_byte_order_mark(root):
    label(root, f"\ufeff1.000000e+00{LABEL[1:]}\r\n\n")
    assert only_box(root) == ("no", BOX)


def test_empty_and_missing_labels_are_images_without_objects(root, capsys):
    picture(root / "train" / "images" / "empty.jpg")
    picture(root / "train" / "images" / "none.jpg")
    write(root / "train" / "labels" / "empty.txt", "")
    write(root / "train" / "labels" / "orphan.txt", LABEL)
    assert converted(root, code=1) == {"train.jpg": [("cat", *BOX.expected)], "empty.jpg": [], "none.jpg": []}
    out = capsys.readouterr().out
    assert "images/none.jpg" in out
    assert "images/empty.jpg" not in out
    assert "labels/orphan.txt" in out


@pytest.mark.parametrize("bad", ["0 0.5 1.5 0.2 0.5", "0 nan 0.5 0.2 0.5", "0 320 240 20 50", "1 0 0 -0.5 0 0 1"])
def test_a_label_with_a_number_outside_0_to_1_is_left_out_by_file_and_line(root, capsys, bad):
    label(root, f"{LABEL}\n\n{bad}\n")
    assert only_box(root, code=1) == ("cat", BOX)
    assert f"labels/train.txt, line 3: {bad}" in capsys.readouterr().out


def test_a_label_that_stands_twice_is_one_object(root, capsys):
    label(root, f"{LABEL}\n{LABEL}\n")
    assert only_box(root) == ("cat", BOX)
    assert "label given twice" in capsys.readouterr().out


def test_boxes_are_cut_to_the_image_and_those_without_area_left_out(root, capsys):
    label(root, "0 0.95 0.5 0.2 0.5\n0 0.05 0 0.2 0.5\n0 0.5 0.5 0 0.5\n")
    right, left = converted(root, code=1)["train.jpg"]
    assert (right[1:], left[1:]) == (pytest.approx((85, 15, 15, 30)), pytest.approx((0, 0, 15, 15)))
    out = capsys.readouterr().out
    assert "2  box over its image's edge" in out
    assert "train.jpg: 85 15 105 45" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LABEL} 0.93", "remove the last"),
        ("0 0.5 0.5 0.2", "3 numbers after the class"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers after the class"),
        (f"2{LABEL[1:]}", "class 2 is none of the 2 names"),
        (f"0.5{LABEL[1:]}", "class 0.5 is none"),
        (f"nan{LABEL[1:]}", "class nan is none"),
        (f"cat{LABEL[1:]}", "it should hold numbers"),
        ("\x00\udce4".encode(errors="surrogateescape").decode(errors="replace"), "it should hold numbers"),
    ],
)
def test_what_is_no_label_is_refused_by_file_and_line(root, capsys, text, words):
    label(root, f"\n{text}")
    line = refused(capsys, root, root.parent / "out")
    assert "train.txt, line 2: " in line
    assert words in line


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """A folder with a picture of each size."""
    root = tmp_path_factory.mktemp("sizes")
    for width, height in SIZES:
        Image.new("1", (width, height)).save(root / f"{width}x{height}.png")
    write(root / "classes.txt", "cat")
    return root


@settings(max_examples=40)
@given(st.lists(st.tuples(SHARES, SHARES, SHARES, SHARES), min_size=1, max_size=4, unique=True))
def test_boxes_survive_the_way_from_yolo_to_pixels_and_back(sizes, corners):
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    wanted = [box for box in ordered if min(box[2] - box[0], box[3] - box[1]) > 1e-3]
    lines = [f"0 {(a + c) / 2!r} {(b + d) / 2!r} {c - a!r} {d - b!r}" for a, b, c, d in wanted]
    for width, height in SIZES:
        write(sizes / f"{width}x{height}.txt", "\n".join(lines))
    found = settle(read_yolo(sizes / "classes.txt")).splits["train"]
    assert {size for _, _, size in found} == set(SIZES)
    for _, things, size in found:
        back = [tuple(v / side for v, side in zip(thing.xyxy, size * 2, strict=True)) for thing in things]
        assert [pytest.approx(box, rel=1e-6, abs=1e-12) for box in wanted] == back
