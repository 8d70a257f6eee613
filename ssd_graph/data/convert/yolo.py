"""YOLO's layout: a data.yaml, obj.data or list of classes, images, and a text file of relative boxes for each image."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec
import yaml

from ssd_graph.cli import InputError
from ssd_graph.data.check.problems import Findings, Kind
from ssd_graph.data.coco_file import Id
from ssd_graph.data.convert.pictures import LEFT_OUT, MISSING, NO_TEST, ONLY_TEST, DataSet, Object, Picture, place
from ssd_graph.data.image_files import files_below, find_images, is_image

_ROUNDING = 0.01
"""How far a number may lie outside 0 to 1; such boxes are cut to the image."""
_USUAL = {
    "train": ("images/train", "images/train2017", "train/images", "train", "train2017"),
    "val": (
        *("images/val", "images/valid", "images/validation", "images/val2017"),
        *("val/images", "valid/images", "validation/images", "val", "valid", "validation", "val2017"),
    ),
}
"""Where images lie if nothing says so."""
WITHOUT_YAML = ("obj.data", "classes.txt", "obj.names", "labels/classes.txt")
"""What says the names of the classes where no yaml file does."""

OUTSIDE = Kind("label with a number outside 0 to 1, or NaN", LEFT_OUT)
NO_LABELS = Kind("image without a label file", "has no objects")
NO_IMAGE = Kind("label file whose image is not there or not listed", LEFT_OUT)
REPEATED = Kind("label given twice", "used once")


class _Settings(msgspec.Struct):
    """What is read of a data.yaml."""

    names: list[str] | dict[Id, str]
    path: str = ""
    train: str | list[str] = ""
    val: str | list[str] = ""
    valid: str | list[str] = ""
    validation: str | list[str] = ""
    test: str | list[str] = ""
    kpt_shape: tuple[int, int] | None = None


def read_yolo(file: Path) -> DataSet:
    """The data set of a data.yaml, of an obj.data (as CVAT writes for Darknet), or of a list of classes.

    Raises:
        InputError: a file cannot be read; a split is not there; a label is no box and no polygon, or of an unknown
            class.
    """
    settings = _settings(file)
    names = settings.names if isinstance(settings.names, dict) else dict(enumerate(settings.names))
    data = DataSet({}, names, relative=True)
    root = file.parent.parent if file.parent.name == "labels" else file.parent
    bases = [root / settings.path, root, Path(settings.path)] if settings.path else [root]
    used, folders = set[Path](), set[Path]()
    for split, entries in _splits(settings, root, data).items():
        data.splits[split] = []
        for path in _images(entries, file, root, bases, folders, data):
            label = _label_file(path)
            if label is None:
                data.findings.add(NO_LABELS, place(path))
            else:
                used.add(label)
            objects = _objects(label, names, settings.kpt_shape, data.findings) if label else []
            data.splits[split].append(Picture(path, objects))
    if settings.test:
        data.notes.append(NO_TEST)
    folders = {_label_folder(folder) for folder in folders} | {label.parent for label in used}
    for label in sorted({file for folder in folders for file in files_below(folder) if file.suffix == ".txt"} - used):
        hidden = label.name.startswith(".")  # as macOS makes them
        if not hidden and label.name != "classes.txt" and _is_label(label, settings.kpt_shape):
            data.findings.add(NO_IMAGE, place(label))
    return data


def has_names(file: Path) -> bool:
    """Whether a yaml file, which may be of any program, seems to list classes."""
    try:
        return re.search(rb"""\bnames["']?\s*:""", file.read_bytes()) is not None
    except OSError:
        return False


def _settings(file: Path) -> _Settings:
    if file.suffix == ".data":
        told = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in _lines(file))}
        train, valid, test = (told.get(split, "") for split in ("train", "valid", "test"))
        names = _locate(told.get("names") or "obj.names", [file.parent], file.parent) or file.with_suffix(".names")
        return _Settings(_names(names), train=train, valid=valid, test=test)
    if file.suffix not in (".yaml", ".yml"):
        return _Settings(_names(file))
    try:
        # This loader makes nothing but text, lists and dictionaries, so a class may be called `no` or `1`.
        content = yaml.load(file.read_bytes(), Loader=yaml.BaseLoader)
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if value not in ("null", "Null", "NULL", "~")}
        return msgspec.convert(content, _Settings, strict=False)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise InputError(f"cannot read {file}: {error}; it needs names, and train and val") from error


def _names(file: Path) -> list[str]:
    """The class of each line, whose number is the line's."""
    try:
        names = [line.strip() for line in file.read_text("utf-8-sig").rstrip().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}; it needs the name of a class in each line") from error
    if "" in names:
        raise InputError(f"{file}, line {names.index('') + 1}: it is blank; remove it, or write the name of its class")
    return names


def _splits(settings: _Settings, root: Path, data: DataSet) -> dict[str, list[str]]:
    told = {"train": settings.train, "val": settings.val or settings.valid or settings.validation}
    splits = {split: [entries] if isinstance(entries, str) else entries for split, entries in told.items() if entries}
    if not splits:
        usual = {split: [f for f in folders if (root / f).is_dir()][:1] for split, folders in _USUAL.items()}
        splits = {split: found for split, found in usual.items() if found}
        if not splits and settings.test:
            raise InputError(f"{root} has the split test only, {ONLY_TEST}")
        whole = "images" if (root / "images").is_dir() else "."
        if not splits and (root / whole / "test").is_dir():
            raise InputError(f"{root / whole} has a folder test and no train; name both in a data.yaml")
        splits = splits or {"train": [whole]}
        data.notes += _others(root, [folder for (folder,) in splits.values()])
    if "train" not in splits:
        raise InputError(f"{root} has {splits['val'][0]} for val and no train; name both in a data.yaml")
    return splits


def _others(root: Path, used: list[str]) -> Iterator[str]:
    """Lines that name the folders with images beside those that are used."""
    for folder in sorted([*root.iterdir(), *root.glob("images/*")]):
        apart = not any(one.is_relative_to(folder) or folder.is_relative_to(one) for one in map(root.joinpath, used))
        if apart and folder.is_dir() and not folder.name.startswith(".") and any(map(is_image, files_below(folder))):
            yield f"left out the folder {folder.relative_to(root)}: {' and '.join(used)} are used"


def _images(
    entries: Iterable[str], file: Path, root: Path, bases: list[Path], folders: set[Path], data: DataSet
) -> list[Path]:
    """The images that folders and lists name, each once; `folders` learns where they lie."""
    found: dict[Path, None] = {}
    for entry in entries:
        where = _locate(entry, bases, root)
        if where is None:
            raise InputError(f"'{entry}', which {file.name} names, is not below {root}; correct it, or `path:`")
        if not where.resolve().is_relative_to(root.resolve()):
            data.notes.append(f"{entry} leads to {where.resolve()}, outside {root}")
        if where.is_file() and where.suffix == ".txt":
            for line in _lines(where):
                name = line.strip()
                image = _locate(name, [where.parent, *bases], root) if name else None
                if image and image.is_file():
                    found[Path(os.path.abspath(image))] = None  # one image, however it is spelt
                elif name:
                    data.findings.add(MISSING, name)
        else:
            folders.add(Path(os.path.abspath(where)))
            found.update(dict.fromkeys(find_images([Path(os.path.abspath(where))])))
    return list(found)


def _locate(entry: str, bases: list[Path], root: Path) -> Path | None:
    """The file or folder that `entry` means, if need be without its first parts, which were true elsewhere."""
    entry = entry.replace("\\", "/")
    parts = [part for part in PurePosixPath(entry).parts if part not in ("/", "..")]
    candidates = [base / entry for base in bases]
    # `images` alone would do for every split.
    within = [root.joinpath(*parts[i:]) for i in range(len(parts)) if i == 0 or parts[i:] != ["images"]]
    if len(bases) == 1 and entry.startswith("../"):
        # Roboflow writes `../train/images` for its train/images; outside may lie those of a neighbour.
        candidates = within[:1] + candidates
    candidates += within
    # Unlike Path.exists, this is False for a name that no file can have.
    return next((path for path in candidates if os.path.exists(path)), None)


def _label_folder(folder: Path) -> Path:
    """Where the last folder `images` of a path is called `labels`."""
    parts = list(folder.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _label_file(image: Path) -> Path | None:
    folders = dict.fromkeys((_label_folder(image.parent), image.parent))
    candidates = (folder / f"{image.stem}{suffix}" for folder in folders for suffix in (".txt", ".TXT"))
    return next((file for file in candidates if os.path.isfile(file)), None)


def _is_label(file: Path, keypoints: tuple[int, int] | None) -> bool:
    """Whether a text file without an image, which may be a list or a licence, seems to hold labels."""
    try:
        return "labels" in file.parts or bool(_numbers(_lines(file)[0].split(), keypoints))
    except (ValueError, IndexError):
        return False


def _objects(file: Path, names: dict[int, str], keypoints: tuple[int, int] | None, findings: Findings) -> list[Object]:
    objects: dict[Object, None] = {}
    for number, line in enumerate(_lines(file), 1):
        if not (words := line.split()):
            continue
        try:
            category, values = _numbers(words, keypoints)
            if category not in names:
                raise ValueError(
                    f"class {words[0]} is none of the {len(names)} names; the names or the labels are wrong"
                )
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {error}") from error
        if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
            findings.add(OUTSIDE, f"{place(file)}, line {number}: {line.strip()}")
            continue
        found = Object(int(category), _xyxy(values))
        if found in objects:
            findings.add(REPEATED, f"{place(file)}, line {number}: {line.strip()}")
        objects[found] = None
    return list(objects)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _numbers(words: list[str], keypoints: tuple[int, int] | None) -> tuple[float, list[float]]:
    """Class and numbers of a box (4) or a polygon (6 or more); key points behind a box are dropped."""
    try:
        category, *values = map(float, words)
    except ValueError:
        raise ValueError("it should hold numbers: a class and a box or a polygon") from None
    if keypoints and len(values) == 4 + keypoints[0] * keypoints[1]:
        return category, values[:4]
    if len(values) == 5:
        raise ValueError("5 numbers after the class: a detection with its confidence is no label; remove the last")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"{len(values)} numbers after the class; a box has 4, a polygon 6, 8, 10 or more")
    return category, values


def _xyxy(values: list[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
