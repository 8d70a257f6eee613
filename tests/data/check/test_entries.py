"""Every fault of an annotation file is found by its kind, no content of a json file makes the check fail, and what
is clean to it loads in training: shown on generated files against coco.load_split and pycocotools themselves.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.data.check import problems as p
from ssd_graph.data.check.entries import BOX_KINDS, check_annotations, check_categories, check_images, judge_boxes
from ssd_graph.data.check.folder import check_split, write_cleaned
from ssd_graph.data.check.problems import Findings
from ssd_graph.data.coco import load_split
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import CocoScorer

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
HUGE = 10**400


def image(number=1, **changes):
    return {"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 100, **changes}


def annotation(number=1, image_id=1, bbox=(20, 10, 40, 50), **changes):
    return {"id": number, "image_id": image_id, "category_id": 7, "bbox": list(bbox), "iscrowd": 0, **changes}


def check(images=None, annotations=None, categories=CATEGORIES):
    """(kinds with counts, images, annotations) of entries."""
    findings = Findings()
    known = check_categories(categories, findings)
    checked = check_images([image()] if images is None else images, findings, Path("nowhere"))
    result = check_annotations([annotation()] if annotations is None else annotations, checked, known, findings)
    return {problem.kind: problem.count for problem in findings.problems()}, checked, result


def test_sound_entries_have_no_problems():
    assert check()[0] == {}
    assert check([image(1.0, width=200.0)], [annotation(1.0, 1.0)])[0] == {}
    assert check([image("1", width="200")], [annotation(1, "1", (1, "2", 3, 4.5))])[0] == {}


@pytest.mark.parametrize("entry", [None, 5, "cat", [], {}, {"id": 1}, {"name": "x"}, {"id": "one", "name": "x"}])
def test_an_unusable_category_is_found(entry):
    assert check(categories=[*CATEGORIES, entry])[0] == {p.BAD_CATEGORY: 1}


def test_a_repeated_category_is_found():
    assert check(categories=[*CATEGORIES, {"id": 7, "name": "dog"}])[0] == {p.REPEATED_CATEGORY: 1}


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 5, "x", [], {}),
        *(image(2, **{key: value}) for key in ("id", "width", "height") for value in ("x", None, 1.5, True, HUGE, [])),
        *(image(2, width=width) for width in (0, -1, 2**31, float("nan"), float("inf"))),
        *(image(2, file_name=name) for name in (None, 5, [])),
        image(2**63),
    ],
)
def test_an_unusable_image_is_found(entry):
    kinds, checked, _ = check([image(), entry])
    assert kinds == {p.BAD_IMAGE: 1}
    assert list(checked.entries) == [1]


def test_boxes_of_an_unusable_image_are_no_second_problem():
    kinds, _, result = check([image(1), image(2, width=0)], [annotation(1), annotation(2, image_id=2)])
    assert kinds == {p.BAD_IMAGE: 1}
    assert len(result.cleaned) == 1


def test_a_repeated_image_is_found():
    assert check([image(), image(file_name="2.jpg")])[0] == {p.REPEATED_IMAGE: 1}


def test_a_usable_image_makes_up_for_an_unusable_one_of_its_id():
    kinds, checked, result = check([image(width=0), image()])
    assert kinds == {p.BAD_IMAGE: 1}
    assert not checked.removed
    assert len(result.cleaned) == 1


def test_a_file_named_twice_is_found():
    kinds, checked, _ = check([image(1), image(2, file_name="1.jpg")])
    assert kinds == {p.REPEATED_FILE: 1}
    assert checked.removed == {2}


@pytest.mark.parametrize("name", ["/etc/passwd", "../1.jpg", "a/../../1.jpg"])
def test_a_name_that_leaves_the_folder_is_found(name):
    kinds, checked, _ = check([image(file_name=name)])
    assert kinds == {p.FILE_OUTSIDE: 1}
    assert checked.removed == {1}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["../outside.png", "{}/outside.png", "pipe"])
def test_the_size_is_not_taken_from_outside_nor_from_a_pipe(tmp_path, name):
    Image.new("RGB", (5, 5)).save(tmp_path / "outside.png")
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "pipe")
    findings = Findings()
    check_images([{"id": 1, "file_name": name.format(tmp_path)}], findings, tmp_path / "images")
    assert {problem.kind for problem in findings.problems()} == {p.BAD_IMAGE}


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 5, "x", [], {}),
        *(
            annotation(2, **{key: value})
            for key in ("image_id", "category_id")
            for value in ("one", None, 1.5, 2**63, HUGE, {}, "\ud800")
        ),
        *(annotation(2) | {"bbox": box} for box in (None, "box!", [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, "three", 4])),
        *(annotation(2) | {"bbox": [1, 2, 3, bad]} for bad in (None, True, HUGE, [])),
    ],
)
def test_an_unusable_annotation_is_found(entry):
    assert check(annotations=[annotation(), entry])[0] == {p.BAD_ANNOTATION: 1}


def test_unknown_images_and_categories_are_found():
    annotations = [annotation(1), annotation(2, image_id=5), annotation(3, category_id=4)]
    assert check(annotations=annotations)[0] == {p.UNKNOWN_IMAGE: 1, p.UNKNOWN_CATEGORY: 1}


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((0, 0, 200, 100), None),
        ((-1, -1, 202, 102), None),
        ((20, 10, 0, 50), p.BOX_EMPTY),
        ((20, 10, 40, 0), p.BOX_EMPTY),
        ((20, 10, 1e-9, 50), p.BOX_EMPTY),
        ((20, 10, -40, 50), p.BOX_NEGATIVE),
        ((20, 10, 40, -1e-9), p.BOX_NEGATIVE),
        ((NAN, 10, 40, 50), p.BOX_NOT_FINITE),
        ((20, 10, 40, INFINITY), p.BOX_NOT_FINITE),
        ((20, 10, 1e300, 50), p.BOX_NOT_FINITE),
        ((200, 10, 40, 50), p.BOX_OUTSIDE),
        ((-40, 10, 40, 50), p.BOX_OUTSIDE),
        ((20, 100.5, 40, 50), p.BOX_OUTSIDE),
        ((-1.01, 10, 40, 50), p.BOX_OVER_EDGE),
        ((20, 10, 181.01, 50), p.BOX_OVER_EDGE),
        ((20, -50, 40, 500), p.BOX_OVER_EDGE),
    ],
)
def test_boxes_are_judged(box, kind):
    verdicts = judge_boxes(np.array([box], np.float64), np.array([[200.0, 100.0]]))
    assert BOX_KINDS[verdicts[0]] is kind


def test_no_boxes_are_no_problem():
    assert judge_boxes(np.empty((0, 4)), np.empty((0, 2))).shape == (0,)
    assert check(annotations=[])[0] == {}


def test_counts_are_of_what_training_uses():
    annotations = [
        annotation(1, 1),
        annotation(2, 2, iscrowd=1),
        annotation(3, 2, (0, 0, 0, 0), iscrowd=1),
        annotation(4, 1, (150, 10, 100, 10), category_id=3),
    ]
    _, checked, result = check([image(1), image(2), image(3)], annotations)
    assert dict(result.num_boxes) == {7: 2, 3: 1}
    assert (result.num_crowd, result.boxed, len(checked.entries)) == (1, {1, 2}, 3)


def test_a_box_over_the_edge_is_clipped():
    result = check(annotations=[annotation(bbox=(-20, 50, 40, 100), area=area) for area in (4000, 700)])[2]
    assert [(a["bbox"], a["area"]) for a in result.cleaned] == [([0, 50, 20, 50], 1000), ([0, 50, 20, 50], 700)]


def test_ids_are_mended():
    bad = [annotation(0), annotation(5), annotation(5), annotation("x"), annotation(None)]
    kinds, _, result = check(annotations=[*bad, {"image_id": 1, "category_id": 7, "bbox": [1, 1, 9, 9]}])
    assert kinds == {p.ID_ZERO: 1, p.ID_REPEATED: 1, p.ID_BAD: 3}
    assert [a["id"] for a in result.cleaned] == [6, 5, 7, 8, 9, 10]


def test_a_file_without_ids_is_sound():
    entry = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 9, 9]}
    kinds, _, result = check(annotations=[entry, entry])
    assert kinds == {}
    assert result.cleaned == [entry, entry]


@pytest.mark.parametrize("change", [{"area": "big"}, {"area": HUGE}, {"iscrowd": 2}, {"iscrowd": "yes"}])
def test_a_field_that_no_command_reads_is_found(change):
    kinds, _, result = check(annotations=[annotation(segmentation=None, **change)])
    assert kinds == {p.BAD_ANNOTATION: 1}
    assert result.cleaned == []


@pytest.mark.parametrize("change", [{"area": None}, {"area": NAN}, {"area": -1}, {"area": 1e11}, {"iscrowd": None}])
def test_empty_fields_are_found_and_removed(change):
    kinds, _, result = check(annotations=[annotation(segmentation=None, **change)])
    assert kinds == {p.EMPTY_FIELD: 1}
    assert result.cleaned == [
        {name: value for name, value in annotation(segmentation=None).items() if name not in change}
    ]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(HUGE) | st.just("\udc80"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
VALUES = {
    "id": st.sampled_from([0, 1, 2, 3, 4, 2.0, "2", None, True, 2**63]),
    "image_id": st.sampled_from([1, 2, 3, 9, 1.0, "1", None]),
    "category_id": st.sampled_from([7, 3, 0, 3.0, "3"]),
    "name": st.sampled_from(["cat", "\x1b[2J", None]),
    "file_name": st.sampled_from(["1.jpg", "2.jpg", "../3.jpg", "\x00", "\udc80", 4]),
    "width": st.sampled_from([100, 640.0, 0, -5, 2**31, 1.5, None, "9"]),
    "bbox": st.lists(st.sampled_from([-300, -5, 0, 1e-9, 30, 150, 1e300, NAN, INFINITY]), min_size=4, max_size=4),
    "area": st.sampled_from([0, 5.5, NAN, None, "9"]),
    "iscrowd": st.sampled_from([0, 1, True, 2, None]),
}
FIELDS = {
    "images": ("id", "file_name", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}


def sound_file():
    boxes = [annotation(n, 1 + n % 3, (n, 10, 40, 50), category_id=(7, 3)[n % 2]) for n in range(1, 7)]
    return {"images": [image(n) for n in (1, 2, 3)], "annotations": boxes, "categories": list(CATEGORIES)}


@st.composite
def damaged_files(draw):
    """A sound file with one to four fields or whole entries replaced, removed or repeated."""
    content = sound_file()
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(list(FIELDS)))
        place = draw(st.integers(0, len(content[name]) - 1))
        entry, field = content[name][place], draw(st.sampled_from(FIELDS[name]))
        what = draw(st.sampled_from(["value", "value", "value", "anything", "nothing", "repeated", "other entry"]))
        if what == "other entry" or not isinstance(entry, dict):
            content[name][place] = draw(ANYTHING)
        elif what == "repeated":
            content[name].append(entry)
        elif what == "nothing":
            content[name][place] = {key: value for key, value in entry.items() if key != field}
        else:
            content[name][place] = {**entry, field: draw(VALUES[field] if what == "value" else ANYTHING)}
    return content


@st.composite
def loadable_files(draw):
    """A file with wrong boxes, areas and annotation ids, which training reads all the same."""
    content = sound_file()
    for entry in content["annotations"]:
        field = draw(st.sampled_from(["bbox", "bbox", "id", "area", "iscrowd"]))
        entry[field] = draw(VALUES[field])
    return content


def loaded(root):
    """What training reads of the folder, None if it refuses."""
    with warnings.catch_warnings(action="ignore"):  # of overflow in boxes of 1e300
        try:
            return load_split(root, "train")
        except InputError:
            return None


@given(damaged_files())
def test_what_training_refuses_is_found_and_what_is_cleaned_is_clean(tmp_path_factory, content):
    compare_with_training(tmp_path_factory.mktemp("damaged"), content)


@given(loadable_files())
def test_boxes_that_training_leaves_out_are_counted(tmp_path_factory, content):
    compare_with_training(tmp_path_factory.mktemp("loadable"), content)


def compare_with_training(root, content):
    """Check a file, load it, clean it, check and load and score what was cleaned."""
    file = root / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    (root / "train2017").mkdir()
    file.write_text(json.dumps(content))
    found = check_split(file, root / "none", "train")
    kinds = {problem.kind: problem.count for problem in found.problems if problem.kind != p.NO_FOLDER}
    split = loaded(root)
    assert (split is None) == any("refuse" in kind.effect for kind in kinds), kinds
    if split is not None:
        assert sum(found.num_boxes) == len(split.boxes)
        assert found.num_images - found.num_without_boxes == len(split)
        assert split.num_empty_boxes == sum(count for kind, count in kinds.items() if "leaves" in kind.effect)
    assert found.cleaned is not None
    if not found.cleaned["annotations"]:
        with pytest.raises(InputError):
            write_cleaned(found, root / "clean.json")
        return
    write_cleaned(found, root / "clean.json")
    assert [q.kind for q in check_split(root / "clean.json", root / "none", "train").problems] == [p.NO_FOLDER]
    (root / "clean.json").replace(file)
    split = loaded(root)
    assert split is not None
    assert len(split.boxes) == len(found.cleaned["annotations"])
    CocoScorer(file).score(DetectionRows(np.empty(0, int), np.empty(0, int), np.empty((0, 4)), np.empty(0)))


@given(ANYTHING)
def test_any_json_is_checked_without_failing(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("generated") / "a.json"
    file.write_text(json.dumps(content))
    assert [problem.kind for problem in check_split(file, file.parent, "val").problems] == [p.UNREADABLE]


@given(st.binary(max_size=50) | st.text(alphabet='[]{}",:01eE.-NaIntfiy', max_size=30).map(str.encode))
def test_any_bytes_are_checked_without_failing(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("generated") / "a.json"
    file.write_bytes(content)
    assert [problem.kind for problem in check_split(file, file.parent, "val").problems] == [p.UNREADABLE]
