"""The page's resize in JavaScript gives Pillow's bits; run by node, without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd_graph.data.decode import preprocess
from ssd_graph.onnx_model import web

# Calls resize.js on raw RGBA files, whose sizes are told as JSON.
DRIVER = """
import { readFileSync, writeFileSync } from "node:fs";
import { preprocess } from "./resize.mjs";
for (const [i, [width, height]] of JSON.parse(process.argv[2]).entries()) {
  const bytes = readFileSync(`${i}.rgba`);
  const rows = (top, count) => bytes.subarray(top * width * 4, (top + count) * width * 4);
  writeFileSync(`${i}.rgb`, await preprocess(width, height, rows));
}
"""
SIZES = [
    *((1, 1), (1, 400), (400, 1), (2, 3), (1, 7000), (7000, 2), (299, 301), (300, 300), (300, 17), (17, 300)),
    *((301, 299), (600, 600), (900, 150), (150, 900), (1024, 768), (1300, 1100), (640, 480), (599, 77), (3001, 13)),
    *((301, 302), (301, 303), (500, 700), (500, 701), (299, 300), (250, 301), (1400, 2501)),  # where the order changes
]


def test_every_pixel_is_pillows(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("no node on the PATH; install it with `apt-get install nodejs`")
    rng = np.random.default_rng(0)
    sizes = [*SIZES, *map(tuple, rng.integers(1, 700, (20, 2)).tolist())]
    shutil.copy(Path(web.__file__).parent / "web_page" / "resize.js", tmp_path / "resize.mjs")
    (tmp_path / "driver.mjs").write_text(DRIVER)
    pictures = [rng.integers(0, 256, (height, width, 4), np.uint8) for width, height in sizes]
    for extreme, pixels in zip((0, 255), pictures[-2:], strict=True):
        pixels[:] = extreme
    for i, pixels in enumerate(pictures):
        (tmp_path / f"{i}.rgba").write_bytes(pixels.tobytes())
    subprocess.run(["node", "driver.mjs", json.dumps(sizes)], cwd=tmp_path, check=True, timeout=120)
    for i, pixels in enumerate(pictures):
        found = np.frombuffer((tmp_path / f"{i}.rgb").read_bytes(), np.uint8).reshape(300, 300, 3)
        wrong = (found != preprocess(Image.fromarray(pixels[..., :3]))).sum()
        assert wrong == 0, f"{wrong} levels of {sizes[i]}"
