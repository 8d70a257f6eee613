"""The report names every problem with its count, examples and effect, and fits a terminal."""

from pathlib import Path

from ssd_graph.data.check import problems as p
from ssd_graph.data.check.folder import SplitCheck
from ssd_graph.data.check.problems import Problem
from ssd_graph.data.check.report import fix_report, report

NAMES = [(3 * n, f"class {n}") for n in range(80)]


def checked(split="train", problems=(), categories=NAMES, **changes):
    counts = tuple(range(1000, 1000 + len(categories)))
    cleaned = {"images": [1], "annotations": [1, 2]}
    return SplitCheck(
        split=split,
        annotation_file=Path(f"instances_{split}2017.json"),
        problems=list(problems),
        categories=tuple(categories),
        num_boxes=counts,
        **{"cleaned": cleaned, **changes},
    )


def test_eighty_classes_of_two_splits_fit_a_screen():
    lines = report([checked(), checked("val")]).splitlines()
    histogram = lines[lines.index("boxes by class (train, val):") + 1 : -2]
    assert len(histogram) <= 30
    assert max(map(len, lines)) <= 110
    assert all(f"{f'class {n}':8} {1000 + n:,} {1000 + n:,}" in "".join(histogram) for n in range(80))


def test_a_problem_has_count_examples_and_effect():
    text = report([checked(problems=[Problem(p.BOX_EMPTY, 1234, ("here", "there"))])])
    effect = "training leaves these out, scoring counts them as missed"
    assert f"    1,234  box without area  {effect}\n               here\n               there" in text
    assert text.splitlines()[-1].startswith("verdict: 1,234 findings of 1 kind; --split train --fix")


def test_what_cannot_be_mended_is_not_offered_to_be():
    for kind in (p.NO_FOLDER, p.TURNED):
        assert "--fix" not in report([checked(problems=[Problem(kind, 1, ())])])
    assert "--fix" not in report([checked(problems=[Problem(p.UNREADABLE, 1, ())], cleaned=None, categories=())])


def test_facts_are_told_without_being_problems():
    text = report([checked(num_images=1, num_crowd=2, num_without_boxes=3, num_unlisted=1)])
    for part in ("  1 image, ", "2 of them crowd", "3 images without boxes: training and scoring leave", "1 file that"):
        assert part in text
    assert text.endswith("verdict: clean")
    assert "headers only" not in text
    assert "  1 image (headers only), " in report([checked(num_images=1, quick=True)])


def test_names_of_classes_cannot_write_to_the_terminal():
    assert "\x1b" not in report([checked(categories=[(1, "\x1b[2J"), (2, "x" * 500)])])


def test_the_fix_is_told():
    text = fix_report(checked(problems=[Problem(p.ID_ZERO, 1, ()), Problem(p.BOX_OVER_EDGE, 20, ())]))
    assert "1  annotation id 0: given a new id" in text
    assert "20  box over its image's edge: clipped to the image" in text
    assert text.endswith("left: 1 image, 2 annotations")
    assert fix_report(checked()) == "nothing had to be changed"
