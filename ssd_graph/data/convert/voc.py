"""Pascal VOC's layout: an XML file for each image, in `Annotations/` or beside the images, and lists of splits."""

import os
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ssd_graph.cli import InputError
from ssd_graph.data.check.problems import Kind
from ssd_graph.data.convert.pictures import LEFT_OUT, MISSING, NO_TEST, ONLY_TEST, DataSet, Object, Picture, place
from ssd_graph.data.file_names import last_part
from ssd_graph.data.image_files import SUFFIXES, find_images

Difficult = Literal["crowd", "keep", "drop"]

BAD_XML = Kind("XML file that cannot be read", LEFT_OUT)
NO_XML = Kind("image without an XML file", LEFT_OUT)
BAD_OBJECT = Kind("object without a name or a box", LEFT_OUT)
DROPPED = Kind("difficult object", "dropped, as --difficult drop says")
NOT_LISTED = Kind("XML file that neither train nor val lists", "not used")

_VAL_FOLDERS = ("valid", "validation", "val")
_XML_FOLDERS = ("Annotations", "annotations", "train", *_VAL_FOLDERS, ".")
_IMAGE_FOLDERS = ("JPEGImages", "images")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(folder: Path) -> list[Path]:
    """The data sets of this layout: `folder` itself or, if it is none, those in it, such as VOC2007."""
    below = sorted({*folder.glob("VOC*"), *folder.glob("VOCdevkit/VOC*")})
    return [folder] if _has_xml(folder) else [root for root in below if _has_xml(root)]


def _has_xml(root: Path) -> bool:
    return any(not file.name.startswith(".") for name in _XML_FOLDERS for file in (root / name).glob("*.xml"))


def _xml_files(folder: Path) -> list[Path]:
    """Hidden ones are none: macOS puts a `._a.xml` beside each `a.xml`."""
    return sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))


def read_voc(root: Path, difficult: Difficult) -> DataSet:
    """The data set of a folder that `find_voc` found.

    VOC counts pixels from 1, and both corners belong to the box. Where a corner lies below 1, or most boxes have
    fractions of pixels, the writer of the data set counted from 0, and all corners are taken as they are.

    Args:
        difficult: what becomes of the objects that VOC does not score.

    Raises:
        InputError: there is no image, or a list of a split cannot be read.
    """
    data = DataSet({}, {})
    numbers: dict[str, int] = {}
    for split, (files, folder, are_listed) in _splits(root, data).items():
        images: dict[str, Path | None] = {}
        paths = find_images([folder])
        for path in paths:
            for name in (path.stem, path.name):  # what two images have says nothing
                images[name] = None if name in images else path
        # First those of an image's own name, which a copy of one, or one whose image is gone, may name too.
        files.sort(key=lambda file: file.stem not in images)
        read = (_read(file, images, numbers, difficult, data) for file in files)
        data.splits[split] = [picture for picture in read if picture]
        described = {file.stem for file in files} | {picture.path.stem for picture in data.splits[split]}
        for path in paths:
            if not are_listed and path.stem not in described:
                data.findings.add(NO_XML, place(path))
    data.categories = dict(enumerate(sorted(numbers), 1))
    sorted_numbers = {numbers[name]: number for number, name in data.categories.items()}
    boxes = [thing.xyxy for split in data.splits.values() for picture in split for thing in picture.objects]
    low = sum(min(box[:2]) < 1 for box in boxes)
    broken = sum(any(corner % 1 for corner in box) for box in boxes)
    from_0 = low or 2 * broken > len(boxes)
    if from_0:
        why = f"{low} boxes begin below 1" if low else f"{broken} boxes have fractions of pixels"
        data.notes.append(f"corners are taken to count from 0, not from 1 as in VOC: {why}")
    for split in data.splits.values():
        for picture in split:
            picture.objects[:] = [_final(thing, sorted_numbers, 0 if from_0 else 1) for thing in picture.objects]
    return data


def _final(thing: Object, numbers: dict[int, int], first: int) -> Object:
    x1, y1, x2, y2 = thing.xyxy
    return thing._replace(category=numbers[thing.category], xyxy=(x1 - first, y1 - first, x2, y2))


def _splits(root: Path, data: DataSet) -> dict[str, tuple[list[Path], Path, bool]]:
    """The XML files of each split, the folder of its images, and whether a list says which of them belong to it."""
    name = next(name for name in _XML_FOLDERS if _xml_files(root / name))
    folder, files = root / name, _xml_files(root / name)
    if name in ("train", *_VAL_FOLDERS):  # as Roboflow exports it
        if name != "train":
            raise InputError(f"{root} has {name} and no train; put what is to be learnt from into a folder train")
        there = sorted(
            [name for name in _VAL_FOLDERS if (root / name).is_dir()], key=lambda n: not _xml_files(root / n)
        )
        val = there[:1]
        for other in sorted(root.iterdir()):
            if other.name == "test" and other.is_dir():
                data.notes.append(NO_TEST)
            elif other.name not in ("train", *val) and _xml_files(other):
                data.notes.append(f"left out the folder {other.name}")
        return {
            split: (_xml_files(root / name), root / name, False)
            for split, name in zip(("train", "val"), ("train", *val), strict=False)
        }
    images = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), root)
    lists = {file.stem: file for file in (root / "ImageSets" / "Main").glob("*.txt")}
    chosen = {split: lists[split] for split in ("train", "val") if split in lists}
    if "test" in lists:
        if not chosen and "trainval" not in lists:
            raise InputError(f"{lists['test'].parent} lists test only, {ONLY_TEST}")
        data.notes.append(NO_TEST)
    if not chosen and "trainval" not in lists:
        return {"train": (files, images, False)}
    listed = {split: _listed(file, folder, data) for split, file in (chosen or {"train": lists["trainval"]}).items()}
    for file in sorted({*files} - {file for split in listed.values() for file in split}):
        data.findings.add(NOT_LISTED, place(file))
    return {split: (found, images, True) for split, found in listed.items()}


def _listed(file: Path, folder: Path, data: DataSet) -> list[Path]:
    """The XML files of the images that a list names; the -1 or 1 behind a name in the list of a class is no name."""
    found: dict[Path, None] = {}
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    for line in filter(None, map(str.strip, lines)):
        # Unlike Path.is_file, this is False for a name that no file can have.
        name = line if os.path.isfile(folder / f"{line}.xml") else line.split()[0]
        path = Path(name)
        xml = folder / f"{path.with_suffix('') if path.suffix.lower() in (*SUFFIXES, '.xml') else name}.xml"
        if os.path.isfile(xml):
            found[xml] = None
        else:
            data.findings.add(NO_XML, name)
    return list(found)


def _read(
    file: Path, images: dict[str, Path | None], numbers: dict[str, int], difficult: Difficult, data: DataSet
) -> Picture | None:
    """An XML file's picture; `numbers` learns the names of its objects, in the order in which they are met."""
    try:
        tree = _parse(file.read_bytes())
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        return data.findings.add(BAD_XML, f"{place(file)}: {error}")
    name = last_part(_text(tree, "filename"))
    path = images.get(file.stem) or images.get(name) or images.get(Path(name).stem)
    if path is None:
        return data.findings.add(MISSING, f"{name or 'that'} of {place(file)}")
    objects = []
    for entry in tree.findall("object"):
        name, corners = _text(entry, "name"), [_text(entry, f"bndbox/{corner}") for corner in _CORNERS]
        hard = _text(entry, "difficult") in ("1", "true")
        try:
            x1, y1, x2, y2 = map(float, corners if name else ())
        except ValueError:
            data.findings.add(BAD_OBJECT, f"{name} {' '.join(corners)} of {place(file)}")
            continue
        if hard and difficult == "drop":
            data.findings.add(DROPPED, f"{name} of {place(file)}")
        else:
            number = numbers.setdefault(name, len(numbers))
            objects.append(Object(number, (x1, y1, x2, y2), hard and difficult == "crowd"))
    return Picture(path, objects, _size(tree))


def _text(entry: Element, path: str) -> str:
    return (entry.findtext(path) or "").strip()


def _size(tree: Element) -> tuple[int, int] | None:
    """Width and height; None where a tool wrote none, or 0."""
    try:
        width, height = (int(float(_text(tree, f"size/{side}"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _parse(text: bytes) -> Element:
    """The root of an XML file that declares no entities: with those, a small file can stand for gigabytes."""

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, refuse
    parser.Parse(text, True)
    return builder.close()
