"""Proves that columns hold what the file does, that those of a large file are kept and used only for the file they were
made from, and that a damaged or forbidden place for them costs time and nothing else.
"""

import errno
import json
import os
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.cli import InputError
from ssd_graph.data import coco_file
from ssd_graph.data.coco_file import Columns, read_columns
from ssd_graph.files import user_cache

CONTENT = {
    "images": [{"id": i, "file_name": f"{i}é.jpg", "width": 200.0 + i, "height": 100} for i in (9, 4)],
    "annotations": [
        {"image_id": 4, "category_id": 7, "bbox": [0.1, 2, 3.25, 4], "segmentation": [[1, 2.5], [3]], "area": None},
        {
            "area": 30.5,
            "iscrowd": 1,
            "segmentation": {"counts": [1], "size": [3, 4]},
            "bbox": [5, 6, 7, 8],
            "category_id": 3,
            "image_id": 9,
        },
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "ножницы"}],
    "info": {"images": [1]},
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An annotation file that counts as large, and an empty cache."""
    monkeypatch.setenv("SSD_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_file, "_KEEP_FROM", 0)
    (tmp_path / "a.json").write_text(json.dumps(CONTENT), encoding="utf-8")
    return tmp_path / "a.json"


@pytest.fixture
def no_parsing(monkeypatch):
    """Call it to have parsing fail from then on."""
    return lambda: monkeypatch.setattr(coco_file, "_parse", None)


def assert_columns(columns):
    assert columns.image_ids.tolist() == [9, 4]
    assert columns.file_names.tolist() == ["9é.jpg", "4é.jpg"]
    assert columns.sizes.tolist() == [[209, 100], [204, 100]]
    assert columns.owners.tolist() == [1, 0]
    assert columns.owner_categories.tolist() == [0, 1]
    assert columns.areas.tolist() == [13, 30.5]
    assert columns.crowds.tolist() == [False, True]
    assert columns.xywh.tolist() == [[0.1, 2, 3.25, 4], [5, 6, 7, 8]]
    assert columns.category_ids.tolist() == [7, 3]
    assert columns.category_names.tolist() == ["cat", "ножницы"]


def test_columns_hold_what_the_file_does(path):
    assert_columns(read_columns(path))


NUMBERS = st.integers(-(2**40), 2**40) | st.floats(width=32)
ANNOTATIONS = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 2),
        "category_id": st.integers(0, 2),
        "bbox": st.lists(NUMBERS, min_size=4, max_size=4),
    },
    optional={"segmentation": st.lists(st.lists(NUMBERS, max_size=3), max_size=3), "bbox ": st.text(), "id": NUMBERS},
)


@given(
    annotations=st.lists(ANNOTATIONS, max_size=5),
    names=st.lists(st.text(st.characters(exclude_characters="\0/.")), min_size=3, max_size=3),
    image_ids=st.lists(st.integers(1 - 2**63, 2**63 - 1), unique=True, min_size=3, max_size=3),
    indent=st.sampled_from([None, 2]),
    ascii=st.booleans(),
)
def test_any_file_reads_as_python_reads_it(tmp_path_factory, annotations, names, image_ids, indent, ascii):
    """Numbers that json does not know, NaN and infinity, are among them."""
    images = [{"id": i, "file_name": name, "width": 3, "height": 4.0} for i, name in zip(image_ids, names, strict=True)]
    categories = [{"id": i, "name": ""} for i in (5, 0, -7)]
    expected = [(a["image_id"], a["category_id"], a["bbox"]) for a in annotations]
    for a in annotations:
        a["image_id"], a["category_id"] = image_ids[a["image_id"]], categories[a["category_id"]]["id"]
    path = tmp_path_factory.mktemp("json") / "a.json"
    content = {"annotations": annotations, "categories": categories, "images": images, "x": names}
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii), encoding="utf-8", errors="replace")
    columns = read_columns(path)
    assert columns.image_ids.tolist() == image_ids
    assert columns.file_names.tolist() == names
    assert columns.owners.tolist() == [image for image, _, _ in expected]
    assert columns.owner_categories.tolist() == [category for _, category, _ in expected]
    np.testing.assert_array_equal(columns.xywh, np.array([box for *_, box in expected], np.float64).reshape(-1, 4))


WHOLE = '{"images": [], "annotations": [], "categories": []'


@pytest.mark.parametrize(
    "text",
    [
        *("x", '{"a": [', '{"a": [1', '{"a": [1 2]}', '{"a" 1}', '{"a": [1,]}', '{"a": tru}', '{"a": "'),
        *(WHOLE, WHOLE + "} 2", WHOLE + ', "a": ' + "[" * 100_000),
    ],
)
def test_broken_text_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*a\.json: .*; fetch the file again") as error:
        read_columns(path)
    assert "\n" not in str(error.value)


def test_a_fault_is_said_with_its_place(path):
    path.write_text('{"images": [],\n "categories": [}')
    with pytest.raises(InputError, match="line 2 column 17"):
        read_columns(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "empty"), ("[1, 2]", "Expected `object`, got `array`"), ("{}", "needs images .id, file_name, width, height")],
)
def test_an_empty_file_or_another_kind_is_refused(path, text, words):
    path.write_text(text)
    with pytest.raises(InputError, match=rf"a\.json is not a COCO instances file \(.*{words}"):
        read_columns(path)


def test_a_byte_order_mark_is_passed_over(path):
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_columns(read_columns(path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_of_json_are_read_by_all_commands_alike(path, encoding):
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert_columns(read_columns(path))


def test_bytes_that_are_not_utf_8_are_refused_where_nothing_reads_them_too(path):
    path.write_bytes(path.read_bytes().replace(b"{", b'{"info": "Jos\xe9", ', 1))
    with pytest.raises(InputError, match=r"a\.json holds bytes that are not UTF-8; save it in that encoding"):
        read_columns(path)


def test_a_disk_that_maps_no_files_is_read(path, monkeypatch):
    monkeypatch.setattr("mmap.mmap", Mock(side_effect=OSError(errno.ENODEV, "No such device")))
    assert_columns(read_columns(path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"bbox": [5, 6, 7, 8]', '"bbox": null', "Expected `array`, got `null` - at `$.annotations[1].bbox`"),
        ('"bbox": [5, 6, 7, 8]', '"bbox": [5, 6, 7]', "`$.annotations[1].bbox`"),
        ('"bbox": [5, 6, 7, 8]', '"bbox": "box"', "`$.annotations[1].bbox`"),
        ('"image_id": 4', '"image_id": "4c9f-uuid"', "`$.annotations[0].image_id`"),
        ('"image_id": 4', '"image_id": 4.5', "`$.annotations[0].image_id`"),
        ('"width": 204.0', '"width": null', "`$.images[1].width`"),
        ('"width": 204.0', '"width": -1', "image 4 has no width or height"),
        ('"iscrowd": 1', '"iscrowd": 2', "`$.annotations[1].iscrowd`"),
        ('"image_id": 4', '"image_id": 5', "annotation number 1 names unknown image 5"),
        ('"category_id": 3', '"category_id": 99', "annotation number 2 names unknown category 99"),
        ('"id": 3,', '"id": 7,', "category id 7 appears twice"),
        ('"id": 9,', '"id": 4,', "image id 4 appears twice"),
    ],
)
def test_an_entry_that_is_not_accepted_is_named(path, old, new, words):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_columns(path)
    assert words in str(error.value)


@pytest.mark.parametrize("crowd", ["true", "1.0", '"1"'])
def test_a_crowd_may_be_said_as_any_whole_number(path, crowd):
    path.write_text(path.read_text(encoding="utf-8").replace('"iscrowd": 1', f'"iscrowd": {crowd}'), encoding="utf-8")
    assert_columns(read_columns(path))


@pytest.mark.parametrize("area", ["null", "NaN", "-1", "Infinity", "1e11", '"x"'])
def test_an_area_that_says_nothing_is_the_boxs(path, area):
    path.write_text(path.read_text(encoding="utf-8").replace('"area": 30.5', f'"area": {area}'), encoding="utf-8")
    if area == '"x"':
        with pytest.raises(InputError, match=r"\$\.annotations\[1\]\.area"):
            read_columns(path)
    else:
        assert read_columns(path).areas.tolist() == [13, 56]


def test_whole_numbers_may_be_written_as_floats_and_as_text(path):
    text = (
        path.read_text().replace('"image_id": 4,', '"image_id": 4.0,').replace('"category_id": 3', '"category_id": "3"')
    )
    path.write_text(text)
    assert_columns(read_columns(path))


def test_a_second_reading_parses_nothing(path, no_parsing):
    first = read_columns(path)
    no_parsing()
    second = read_columns(path)
    assert_columns(second)
    for name in Columns.__slots__:
        assert getattr(first, name).dtype == getattr(second, name).dtype


def test_small_files_are_not_kept(path, monkeypatch):
    monkeypatch.setattr(coco_file, "_KEEP_FROM", 1 << 20)
    read_columns(path)
    assert not user_cache().exists()


@pytest.mark.parametrize("change", ["text", "time", "text under the old time"])
def test_a_changed_file_is_read_anew(path, change):
    read_columns(path)
    if change == "text under the old time":
        before = path.stat()
        path.write_text(path.read_text(encoding="utf-8").replace("[0.1, 2, ", "[9.1, 2, "), encoding="utf-8")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        assert read_columns(path).xywh[0, 0] == 9.1
        return
    if change == "text":
        path.write_text(json.dumps({**CONTENT, "annotations": CONTENT["annotations"][:1]}))
        assert read_columns(path).owners.tolist() == [1]
    else:
        os.utime(path, (1, 1))
        (kept,) = user_cache().iterdir()
        before = kept.stat().st_mtime_ns
        assert_columns(read_columns(path))
        assert kept.stat().st_mtime_ns != before


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x93NUMPY", None])
def test_a_damaged_copy_is_replaced(path, damage, no_parsing):
    read_columns(path)
    (kept,) = user_cache().iterdir()
    kept.write_bytes(kept.read_bytes()[:-30] if damage is None else damage)
    assert_columns(read_columns(path))
    no_parsing()
    assert_columns(read_columns(path))


def test_a_cache_that_cannot_be_written_is_said(path, monkeypatch, capsys):
    (path.parent / "file").touch()
    monkeypatch.setenv("SSD_GRAPH_CACHE", str(path.parent / "file" / "cache"))
    assert_columns(read_columns(path))
    assert "a.json is parsed in each run" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [("id", None), ("width", "wide"), ("height", [1])])
def test_an_entry_of_another_type_is_refused(path, key, value):
    path.write_text(json.dumps({**CONTENT, "images": [{**CONTENT["images"][0], key: value}]}))
    with pytest.raises(InputError, match=r"a\.json is not a COCO instances file"):
        read_columns(path)


@pytest.mark.slow
def test_118_000_images_take_little_memory_and_time(tmp_path, monkeypatch):
    """As many images and boxes as COCO train2017, in a process that may have no more than 150 MB for them."""
    import subprocess
    import sys

    rng = np.random.default_rng(0)
    owners, boxes = rng.integers(0, 118_287, 860_001), rng.uniform(1, 200, (860_001, 4)).round(2)
    polygon = [[float(v) for v in rng.uniform(0, 600, 40).round(2)]]
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(118_287)],
        "annotations": [
            {"id": n, "image_id": int(i), "category_id": 1, "bbox": box.tolist(), "segmentation": polygon, "iscrowd": 0}
            for n, (i, box) in enumerate(zip(owners, boxes, strict=True))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    script = (
        "import re, resource, sys; from pathlib import Path; from ssd_graph.data.coco import load_split\n"
        "before = int(re.search(r'VmData:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (before + (150 << 20), -1))\n"
        "print(len(load_split(Path(sys.argv[1]), 'train').boxes))"
    )
    monkeypatch.setenv("SSD_GRAPH_CACHE", str(tmp_path / "cache"))
    for _ in ("parsed", "kept"):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout == "860001\n"
