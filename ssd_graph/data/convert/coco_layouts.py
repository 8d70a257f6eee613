"""COCO's annotation files in other layouts: Roboflow's export, and files and folders of whatever names."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from ssd_graph.cli import InputError
from ssd_graph.data.check.entries import Entry, check_annotations, check_categories, check_images
from ssd_graph.data.check.folder import read_content
from ssd_graph.data.check.problems import Findings, Kind
from ssd_graph.data.coco import ROBOFLOW, find_annotations, images_of
from ssd_graph.data.coco_file import AnnotationEntry
from ssd_graph.data.convert.pictures import LEFT_OUT, NO_TEST, DataSet, Object, Picture


class CocoFile(NamedTuple):
    """An annotation file and the folder of its images."""

    annotations: Path
    images: Path


class _Mended(Findings):
    """Findings of the check, with what becomes of them here."""

    def add(self, kind: Kind, example: object) -> None:
        super().add(kind._replace(effect=re.sub("^removed", LEFT_OUT, kind.fix)), example)


def find_coco(root: Path) -> dict[str, CocoFile]:
    """The splits of a folder in Roboflow's or COCO's own layout."""
    files = {split: file for split in ("train", "val") if (file := find_annotations(root, split))}
    return {split: CocoFile(file, images_of(file, split)) for split, file in files.items()}


def read_coco(files: dict[str, CocoFile], upright: bool | None) -> DataSet:
    """The data set of one or two annotation files; what the check would mend is mended.

    Args:
        upright: how to read the sizes of images whose entry states none; see pictures.settle.

    Raises:
        InputError: a file is none of COCO's, or the two list different categories.
    """
    data = DataSet({}, {}, _Mended())
    categories: dict[str, dict[int, Entry]] = {}
    for split, file in files.items():
        categories[split], data.splits[split] = _read(file, data.findings, upright is not False)
    _drop_root(categories, data)
    names = {split: {i: str(entry["name"]) for i, entry in entries.items()} for split, entries in categories.items()}
    data.categories = next(iter(names.values()))
    if len(files) == 2:
        numbers = _matched(names["val"], names["train"], files)
        data.splits["val"] = [
            picture._replace(objects=[o._replace(category=numbers[o.category]) for o in picture.objects])
            for picture in data.splits["val"]
        ]
    if any((file.images.parent / "test" / ROBOFLOW).is_file() for file in files.values()):
        data.notes.append(NO_TEST)
    return data


def _drop_root(categories: dict[str, dict[int, Entry]], data: DataSet) -> None:
    """Remove what Roboflow puts first: the name of the project, as a category that the others belong to."""
    used = {thing.category for split in data.splits.values() for picture in split for thing in picture.objects}
    for entries in categories.values():
        root = entries.get(0)
        others = [entry.get("supercategory") for number, entry in entries.items() if number]
        if root and others and 0 not in used and set(map(str, others)) == {str(root["name"])}:
            for each in categories.values():
                each.pop(0, None)
            data.notes.append(f"left out category 0, '{root['name']}', which is the name of the project")
            return


def _read(file: CocoFile, findings: Findings, upright: bool) -> tuple[dict[int, Entry], list[Picture]]:
    unreadable = Findings()
    content = read_content(file.annotations, unreadable)
    if content is None:
        raise InputError(f"{file.annotations} is not a COCO file: {unreadable.problems()[0].examples[0]}")
    if not os.path.isdir(file.images):
        raise InputError(f"no folder {file.images}, which should hold the images of {file.annotations}")
    categories = check_categories(content["categories"], findings)
    images = check_images(content["images"], findings, file.images, upright)
    annotations = check_annotations(content["annotations"], images, categories, findings)
    pictures = {
        number: Picture(file.images / entry["file_name"], [], images.sizes[number])
        for number, entry in images.entries.items()
        if number not in images.removed
    }
    for entry in annotations.cleaned:
        read = msgspec.convert(entry, AnnotationEntry, strict=False)
        x, y, w, h = read.bbox
        pictures[read.image_id].objects.append(
            Object(read.category_id, (x, y, x + w, y + h), bool(read.iscrowd), read.area)
        )
    return categories, list(pictures.values())


def _matched(own: dict[int, str], others: dict[int, str], files: dict[str, CocoFile]) -> dict[int, int]:
    """The number among `others` of each category of one's own: by number and name, or by name where ids differ."""
    if own == others:
        return {number: number for number in own}
    numbers = {name: number for number, name in others.items()}
    if different := sorted({*own.values()} ^ {*numbers}):
        raise InputError(
            f"{files['train'].annotations} and {files['val'].annotations} list different categories: "
            f"'{different[0]}' is in one only; both must list all of them"
        )
    if len(numbers) < len(others) or len({*own.values()}) < len(own):
        raise InputError(f"{files['val'].annotations}: categories of the same name have other ids than in train")
    return {number: numbers[name] for number, name in own.items()}
