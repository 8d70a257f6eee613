"""The page holds every number, is whole and self-contained, and survives evaluations with nothing in them."""

import dataclasses
import os
import re
from html.parser import HTMLParser

import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.coco import load_split
from ssd_graph.report.page import write_report
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import STAT_NAMES
from tests.report.conftest import as_result, made_detections, small_split
from tests.scoring.test_detections import rows_of

VOID = {"meta", "img"}
TOGETHER = 3_000_000
"""Bytes a page may have."""


class Reader(HTMLParser):
    """Collects tags, attributes and text, and insists that every element is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def read(path):
    return Reader(path.read_text(encoding="utf-8"))


@pytest.fixture
def split(tiny_coco):
    return load_split(tiny_coco, "val")


@pytest.fixture
def page(tmp_path):
    """Writes a report and reads it."""

    def write(result, split, *arguments):
        write_report(tmp_path / "report.html", result, split, *arguments)
        return read(tmp_path / "report.html")

    return write


@pytest.mark.parametrize("name", ["shapes_page", "coco_page", "hostile_page"])
def test_every_element_is_closed_and_every_link_leads_somewhere(name, request):
    reader = read(request.getfixturevalue(name))
    assert {link.removeprefix("#") for link in reader.values("href")} == set(reader.values("id"))
    assert len(reader.values("id")) == len(set(reader.values("id"))) >= 6


@pytest.mark.parametrize("name", ["shapes_page", "coco_page", "hostile_page"])
def test_the_page_needs_no_network_and_no_script(name, request):
    path = request.getfixturevalue(name)
    reader = read(path)
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.values("src"))
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert not re.findall(r"https?:|@import|url\(", path.read_text(encoding="utf-8"))
    assert path.stat().st_size < TOGETHER


def test_the_twelve_numbers_and_every_class_are_on_the_page(split, page):
    result = as_result(split, made_detections(split))
    reader = page(result, split)
    for name in STAT_NAMES:
        assert name in reader.text
        assert f"{result.scores.stats[name]:.3f}" in reader.text or result.scores.stats[name] == -1
    for name, ap in result.scores.per_class.items():
        assert reader.text[reader.text.index(name) + 1] == f"{ap:.3f}"


def test_classes_are_ordered_by_ap(split, page):
    result = as_result(split, made_detections(split))
    ordered = sorted(result.scores.per_class, key=lambda name: -result.scores.per_class[name])
    assert list(dict.fromkeys(text for text in page(result, split).text if text in ordered)) == ordered


def test_every_figure_has_words_for_those_who_do_not_see_it(shapes_page):
    reader = read(shapes_page)
    assert reader.tags.count("img") == len(reader.values("alt"))
    assert reader.values("role").count("img") == len(reader.values("aria-label")) - 1  # the nav has a label too
    assert all(reader.values("alt") + reader.values("aria-label"))
    assert any("F1 against the threshold" in label for label in reader.values("aria-label"))


def test_names_that_are_markup_stay_text(hostile_page):
    reader = read(hostile_page)
    assert "x" not in reader.values("src")
    assert not any(key.startswith("on") for key, _ in reader.attributes)
    assert "script" not in reader.tags
    assert any("<script>alert(2)<" in text for text in reader.text)
    assert any("onerror=alert(1)" in alt for alt in reader.values("alt"))


def test_the_same_evaluation_gives_the_same_page(split, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, as_result(split, made_detections(split)), split)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_no_detections(split, page):
    reader = page(as_result(split, rows_of()), split)
    assert "At IoU 0.5 no object is found. What follows leaves out scores below 0.40." in reader.text
    assert "0.000" in reader.text
    assert reader.tags.count("img") == len(split)


def test_the_threshold_is_the_one_that_predictions_are_shown_from(split, page):
    result = as_result(split, made_detections(split))
    best = result.summary["thresholds"]["overall"]
    text = " ".join(page(result, split).text)
    assert f"with a score below  {best['score']:.2f}  are left out: F1 {best['f1']:.2f}, precision" in text


def test_names_that_are_no_text_of_utf_8_are_spelt_out(tmp_path):
    split = small_split(tmp_path, [os.fsdecode(b"\xff.jpg")], ("a\ud800", "dog"))
    write_report(tmp_path / "report.html", as_result(split, made_detections(split)), split)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"a\ud800" in text
    assert r"\udcff.jpg" in text


def test_one_image(split, page):
    reader = page(as_result(split, made_detections(split), num_images=1), split)
    assert reader.tags.count("img") == 1
    assert "Worst" not in reader.text


def test_a_class_without_objects_is_named_as_such(split, page):
    """The first image alone does not have all six shapes."""
    result = as_result(split, made_detections(split), num_images=1)
    absent = [name for name, ap in result.scores.per_class.items() if ap is None]
    assert absent
    assert f"Without ground truth: {', '.join(absent)}." in page(result, split).text


def test_only_crowds(tmp_path, page):
    split = small_split(tmp_path, ["a.jpg"])
    text = split.annotation_file.read_text()
    split.annotation_file.write_text(text.replace('"iscrowd": 0', '"iscrowd": 1'))
    reader = page(as_result(split, made_detections(split)), split)
    assert "There are no objects, so there are no curves." in reader.text
    assert any(text.endswith(": AP \N{EN DASH}") for text in reader.text)


def test_detections_of_an_image_that_is_not_scored_do_not_show(split, page):
    rows = made_detections(split)
    first = DetectionRows(*(column[rows.image_ids == split.image_ids[0]] for column in rows))
    pages = [page(as_result(split, r, num_images=1), split).text for r in (rows, first)]
    assert pages[0] == pages[1]


def test_images_stay_within_the_page_s_size_even_if_they_are_noise(tmp_path, page):
    split = small_split(tmp_path, [f"{n}.jpg" for n in range(12)], size=(1600, 1200), noise=True)
    reader = page(as_result(split, made_detections(split)), split)
    assert reader.tags.count("img") == 12
    assert (tmp_path / "report.html").stat().st_size < TOGETHER


def test_an_image_that_is_gone_is_named_and_nothing_is_written(tmp_path):
    split = small_split(tmp_path, ["a.jpg"])
    (tmp_path / "val2017" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"cannot decode .*a\.jpg"):
        write_report(tmp_path / "report.html", as_result(split, made_detections(split)), split)
    assert not (tmp_path / "report.html").exists()


def test_latency_is_shown_where_it_was_measured(split, page):
    result = as_result(split, made_detections(split))
    assert "Latency" not in page(result, split).text
    reader = page(dataclasses.replace(result, seconds=(*[0.010] * 98, 0.020, 0.5)), split)
    assert "Latency" in reader.text
    assert any("median 10.0 ms" in label and "longest 500.0 ms" in label for label in reader.values("aria-label"))


def test_a_single_call_is_a_distribution_too(split, page):
    result = dataclasses.replace(as_result(split, made_detections(split)), seconds=(0.25,))
    assert "Latency" in page(result, split).text


def test_training_is_shown_where_there_is_a_record_of_it(split, page, tmp_path, shapes_page):
    result = as_result(split, made_detections(split))
    assert "Training" not in page(result, split, tmp_path / "metrics.jsonl").text
    (tmp_path / "metrics.jsonl").write_text('{"event": "validation", "step": 10, "AP": 0.5}\n')
    assert "Training" not in page(result, split, tmp_path / "metrics.jsonl").text
    assert "Training" in read(shapes_page).text


def test_other_presets_and_files_are_named(split, page):
    result = as_result(split, made_detections(split), preset="ssd300-r34")
    summary = {**result.summary, "model": {**result.summary["model"], "file": "other.onnx"}}
    text = page(dataclasses.replace(result, summary=summary), split).text
    assert "ssd300-r34" in text
    assert any("other.onnx on instances_val2017.json" in t for t in text)
