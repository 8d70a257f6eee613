"""Which layout a folder has."""

import os
from pathlib import Path

from ssd_graph.cli import InputError
from ssd_graph.data.convert.coco_layouts import find_coco, read_coco
from ssd_graph.data.convert.pictures import DataSet
from ssd_graph.data.convert.voc import Difficult, find_voc, read_voc
from ssd_graph.data.convert.yolo import WITHOUT_YAML, has_names, read_yolo


def read_folder(source: Path, difficult: Difficult, upright: bool | None) -> DataSet:
    """The data set in a folder, or of a data.yaml.

    Raises:
        InputError: it has none of the layouts, or more than one data set; or as their readers.
    """
    if os.path.isfile(source) and source.suffix in (".yaml", ".yml"):
        return read_yolo(source)
    if not os.path.isdir(source):  # unlike Path.is_dir, False for a name that no folder can have
        raise InputError(f"no folder {source}; give the folder of a data set, or its data.yaml")
    if files := find_coco(source):
        return read_coco(files, upright)
    settings = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    settings = [file for file in settings if file.stem in ("data", "dataset")] or [
        file for file in settings if not file.name.startswith(".") and has_names(file)
    ]
    roots = find_voc(source)
    for kind, found in (("yaml file", settings), ("year", roots)):
        if len(found) > 1:
            raise InputError(f"{source} has more than one {kind}; give one of {', '.join(map(str, found))}")
    if settings:
        return read_yolo(settings[0])
    if roots:
        return read_voc(roots[0], difficult)
    for name in WITHOUT_YAML:
        if (source / name).is_file():
            return read_yolo(source / name)
    raise InputError(
        f"cannot tell the layout of {source}: it has no data.yaml, obj.data or classes.txt (YOLO), no Annotations/*.xml"
        " or train/*.xml (Pascal VOC), no train/_annotations.coco.json (Roboflow) and no annotations/"
        "instances_train2017.json (COCO); for COCO files of other names give --train-annotations and --train-images"
    )
