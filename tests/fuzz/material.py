"""Sound files for damage to start from, in one folder, and what they hold."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.checkpoints.convert import export_published
from ssd_graph.data.coco import load_split
from ssd_graph.data.shapes import write_shapes
from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.onnx_model.evaluate import RunSettings, evaluate_onnx
from ssd_graph.onnx_model.export import ExportOptions, export_onnx, sample_images
from ssd_graph.scoring.summary import write_summary
from tests.conftest import train_tiny
from tests.data.convert.folders import every_layout


def make_material(folder: str) -> None:
    """Fill `folder` with data, a checkpoint, its exports, published forms and scores, and images of many formats."""
    root = Path(folder)
    write_shapes(root / "coco", {"train": 6, "val": 4})
    train_tiny(root / "coco", root / "run", max_steps=4)
    shutil.copyfile(root / "run" / "last.pth", root / "last.pth")
    checkpoint = load_checkpoint(root / "last.pth")
    for name, options in (("model.onnx", ExportOptions()), ("raw.onnx", ExportOptions(raw=True, batch=1))):
        export_onnx(checkpoint, root / name, sample_images(None, 1), options)
    for layout in ("asc", "ref"):
        export_published(root / "last.pth", root / f"{layout}.pt", layout)
        # torch.load reads both containers; only this one lies in a zip.
        torch.save(torch.load(root / f"{layout}.pt", weights_only=True), root / f"{layout}.pt")
    result = evaluate_onnx(root / "model.onnx", load_split(root / "coco", "val"), RunSettings(threads=1))
    write_summary(root / "scores", result.summary, result.rows)
    _write_outputs(root)
    _write_images(root / "images")
    every_layout(root / "layouts")


def _write_outputs(root: Path) -> None:
    """Numbers in the form of the raw model's outputs; of no image, since nobody looks for objects in them."""
    split, folder, rng = load_split(root / "coco", "val"), root / "outputs", np.random.default_rng(0)
    folder.mkdir()
    for name in split.file_names.tolist():
        for end, channels in (("ploc", 4), ("plabel", split.categories.num_classes)):
            numbers = rng.normal(size=(channels, len(default_boxes()))).astype(np.float32)
            np.save(folder / f"{Path(name).stem}_{end}.npy", numbers)


def _write_images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((96, 72))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "upright"
    picture.save(folder / "plain.jpg", quality=80)
    picture.save(folder / "exif.jpg", exif=exif, subsampling=0, dpi=(72, 72))
    picture.save(folder / "progressive.jpg", progressive=True, optimize=True, comment="x" * 40)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").save(folder / "grey.jpg")
    picture.save(folder / "rgb.png", exif=exif)
    picture.convert("P").save(folder / "palette.png", transparency=3)
    picture.convert("I;16").save(folder / "deep.png")
    picture.save(folder / "image.gif")
    picture.save(folder / "image.webp", exif=exif)
    picture.save(folder / "image.bmp")
    picture.save(folder / "image.tiff", compression="tiff_lzw")
    picture.save(folder / "image.ppm")


@cache
def text(file: Path):
    """The JSON of a file."""
    return json.loads(file.read_text())


@cache
def tensors(file: Path):
    """The content of a weights file."""
    return torch.load(file, weights_only=True)


@cache
def model(file: Path) -> onnx.ModelProto:
    """The protobuf of a model."""
    return onnx.load(file)
