"""A generated data set in COCO's format that needs no download: coloured shapes on textured grey.

Six categories whose ids have gaps, each with a hue of its own so that a small network learns them in
minutes; objects from about 16 to 220 pixels that may overlap; one image in ten without any. Annotations
depend only on this file; JPEG bytes also on the libjpeg behind Pillow.
"""

import colorsys
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ssd_graph.files import cached_folder, user_cache

CATEGORIES = {2: "disc", 3: "square", 5: "triangle", 7: "star", 11: "ring", 13: "cross"}
"""Category id -> name; hues lie evenly round the colour circle in this order."""
NUM_IMAGES = {"train": 720, "val": 150}
EMPTY_SHARE = 0.1
_SUPERSAMPLE = 2


def shapes_root() -> Path:
    """Folder of the generated data set, made on first use in the user's cache folder.

    `SSD_GRAPH_CACHE` names another cache. The folder's name carries a hash of this file, so a changed
    generator never meets old images; it appears only when complete.
    """
    name = f"shapes-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    if not os.path.isdir(folder := user_cache() / name):
        print(f"shapes: drawing {sum(NUM_IMAGES.values())} images into {folder}", file=sys.stderr, flush=True)
    return cached_folder(name, lambda folder: write_shapes(folder, NUM_IMAGES))


def data_root(name: str) -> Path:
    """The folder that a --data argument means: `shapes` is the generated data set, all else a path."""
    return shapes_root() if name == "shapes" else Path(name)


def write_shapes(root: Path, num_images: dict[str, int]) -> None:
    """Write `num_images` of each split as a COCO folder below `root`."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for salt, (split, count) in enumerate(num_images.items()):
        folder = root / f"{split}2017"
        folder.mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            rng = np.random.default_rng([salt, i])
            picture, objects = draw_image(rng)
            image_id = (salt + 1) * 100_000 + i
            name = f"{image_id:012d}.jpg"
            picture.save(folder / name, quality=90, subsampling=0)
            images.append({"id": image_id, "file_name": name, "width": picture.width, "height": picture.height})
            annotations += [{"image_id": image_id, "iscrowd": 0, **o} for o in objects]
        content = {
            "images": images,
            "annotations": [{"id": n, **a} for n, a in enumerate(annotations, start=1)],
            "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in CATEGORIES.items()],
        }
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def draw_image(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A picture of 240 to 400 pixels a side and its objects: `category_id`, `bbox` xywh in pixels, `area`."""
    width, height = (int(v) for v in rng.integers(240, 401, 2))
    grey = np.full(3, rng.uniform(40, 215))
    picture = Image.fromarray(_texture(rng, width, height, grey + rng.normal(0, 8, 3)))
    objects: list[dict[str, Any]] = []
    taken = np.zeros((height, width), bool)
    num_objects = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, 7))
    for _ in range(num_objects):
        category_id = int(rng.choice(list(CATEGORIES)))
        mask = _mask(rng, CATEGORIES[category_id])
        h, w = mask.shape
        if h >= height or w >= width:
            continue
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        window = taken[y : y + h, x : x + w]
        if (window & mask).sum() > 0.15 * mask.sum():  # mostly hidden objects would be unfair
            continue
        window |= mask
        paint = Image.fromarray(_texture(rng, w, h, _colour(rng, category_id)))
        picture.paste(paint, (x, y), Image.fromarray(mask.astype(np.uint8) * 255))
        objects.append({"category_id": category_id, "bbox": [x, y, w, h], "area": int(mask.sum())})
    return picture, objects


def _colour(rng: np.random.Generator, category_id: int) -> np.ndarray:
    """A colour near the category's hue, RGB [3] in levels."""
    hue = list(CATEGORIES).index(category_id) / len(CATEGORIES) + rng.normal(0, 0.03)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.95)))


def _texture(rng: np.random.Generator, width: int, height: int, base: np.ndarray) -> np.ndarray:
    """The colour `base` (RGB [3]) under smooth noise of two octaves, uint8 [height, width, 3]."""
    image = np.broadcast_to(base, (height, width, 3)).copy()
    for cells, strength in ((3, 24.0), (12, 14.0)):
        noise = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, 5, (cells, cells, 3)) + 128
        noise = noise.clip(0, 255).astype(np.uint8)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        image += np.asarray(smooth, np.float64) - 128
    return image.clip(0, 255).astype(np.uint8)


def _mask(rng: np.random.Generator, name: str) -> np.ndarray:
    """The pixels of a rotated, stretched shape, bool [h, w], cut to its bounding box."""
    size = float(np.exp(rng.uniform(math.log(16), math.log(220)))) * _SUPERSAMPLE
    stretch = float(np.exp(rng.uniform(-0.35, 0.35)))
    angle = float(rng.uniform(0, 2 * math.pi))
    canvas = int(size * 2) + 4
    image = Image.new("L", (canvas, canvas))
    draw = ImageDraw.Draw(image)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for sign, outline in _outlines(name):
        points = outline * (size / 2) * np.array([stretch, 1 / stretch]) @ turn.T + canvas / 2
        draw.polygon([(float(px), float(py)) for px, py in points], fill=255 if sign else 0)
    small = image.resize((canvas // _SUPERSAMPLE, canvas // _SUPERSAMPLE), Image.Resampling.BOX)
    mask = np.asarray(small) > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _outlines(name: str) -> list[tuple[bool, np.ndarray]]:
    """Polygons (add or cut out, points [P, 2] within the unit circle) whose stack is the shape."""

    def circle(count: int, radii: tuple[float, ...] = (1.0,), phase: float = 0.0) -> np.ndarray:
        angles = 2 * math.pi * np.arange(count) / count + phase
        return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, count)[:, None]

    if name == "cross":
        arm = 0.3
        corner = np.array([[1, -arm], [1, arm], [arm, arm], [arm, 1], [-arm, 1], [-arm, arm]])
        return [(True, np.concatenate([corner, -corner]))]
    return {
        "disc": [(True, circle(48))],
        "square": [(True, circle(4))],
        "triangle": [(True, circle(3))],
        "star": [(True, circle(10, (1.0, 0.42)))],
        "ring": [(True, circle(48)), (False, circle(48, (0.55,)))],
    }[name]
