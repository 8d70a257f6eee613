"""A static web page that runs an exported model in the browser; torch is not needed.

The page is the folder `web_page`, to which `model.onnx` is added, and `model.json` with what the page must know of it.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.config import IMAGE_SIZE
from ssd_graph.files import require_writable, write_whole
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.draw import class_colour, ink
from ssd_graph.onnx_model.thresholds import ShownFrom

RUNTIME_VERSION = "1.30.0"
"""Of npm's package onnxruntime-web."""

RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
"""What a CPU needs of the package's dist/, and the hashes of these files in RUNTIME_VERSION."""

CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME_VERSION}/dist/"

_LARGE_FILES = dict(zip(("model", "runtime", "wasm"), ("model.onnx", *RUNTIME_FILES), strict=True))

_PAGE = Path(__file__).parent / "web_page"

_MARK = '<meta name="generator" content="ssd_graph">'
"""Of a page that may be replaced; index.html has it."""

_POLICY = (
    "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'{cdn}; "
    "style-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'"
)
"""Content security policy. The worker and the runtime, once its hash is checked, are run from blobs."""

_LARGEST_ID = 2**53


class WebPage(NamedTuple):
    """What was written."""

    num_files: int
    num_bytes: int
    num_categories: int


def write_page(model: Path, out: Path, runtime: Path | None = None) -> WebPage:
    """Write the page for `model` into the folder `out`, all files checked before the first is written.

    Args:
        out: a new or empty folder, or one with an older page, whose files are replaced.
        runtime: folder with onnxruntime-web's files, which are copied; without it the page loads them from CDN.

    Raises:
        InputError: the model is not a detector that a page can run, `runtime` lacks a file, or `out` holds something
            else or cannot be written.
    """
    _require_place(out)
    detector = _load(model)
    copied = {"model.onnx": model.read_bytes()} | (_read_runtime(runtime) if runtime else {})
    settings = _settings(detector, copied)
    page = {file.name: file.read_bytes() for file in sorted(_PAGE.iterdir())}
    policy = _POLICY.format(cdn="" if runtime else f" {CDN}")
    page["index.html"] = page["index.html"].replace(b"POLICY", policy.encode())
    # The page itself comes last: until then an older one stays in use, and tells if a file is not its own.
    files = copied | {"model.json": json.dumps(settings, indent=1).encode()} | page
    for name, content in sorted(files.items(), key=lambda file: file[0] == "index.html"):
        write_whole(out / name, content)
    return WebPage(len(files), sum(map(len, files.values())), len(detector.categories.ids))


def _require_place(out: Path) -> None:
    """Raise InputError unless `out` can be written and would lose nothing but an older page."""
    require_writable(out, "--out")
    index = out / "index.html"
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not index.is_file() or _MARK not in index.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{out} holds files that are no page of this command; choose an empty folder with --out")


def _load(model: Path) -> OnnxDetector:
    """The model, tried on one image."""
    detector = OnnxDetector(model)
    if detector.is_raw:
        raise InputError(f"{model} is the network alone, which a page cannot run; export the checkpoint without --raw")
    if detector.batch_size and detector.batch_size > 1:
        raise InputError(
            f"{model} takes {detector.batch_size} images at a time, and a page has one; export it without --batch"
        )
    if max(map(abs, detector.categories.ids), default=0) > _LARGEST_ID:
        raise InputError(f"{model} has category ids beyond 2**53, which JavaScript cannot hold; give it smaller ones")
    detector(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
    return detector


def _read_runtime(folder: Path) -> dict[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in RUNTIME_FILES}
    except OSError as error:
        raise InputError(
            f"no {error.filename}; give --runtime the dist/ folder of npm's package onnxruntime-web "
            f"(`npm pack onnxruntime-web@{RUNTIME_VERSION}`)"
        ) from error


def _settings(detector: OnnxDetector, copied: dict[str, bytes]) -> dict[str, Any]:
    """What `model.json` tells the page; `copied` are the large files beside it."""
    shown_from = detector.shown_from or ShownFrom()
    categories = zip(detector.categories.ids, detector.categories.names, strict=True)
    return {
        "files": {what: _source(name, copied) for what, name in _LARGE_FILES.items()},
        "cdn": None if len(copied) > 1 else CDN,
        **{key: detector.describe()[key] for key in ("preset", "precision", "sha256")},
        "bytes": len(copied["model.onnx"]),
        "least_score": detector.config.score_threshold,
        "threshold": shown_from.overall,
        "categories": [
            {
                "id": number,
                "name": name,
                "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(i)),
                "ink": ink(class_colour(i)),
                "threshold": shown_from.per_class.get(number),
            }
            for i, (number, name) in enumerate(categories)
        ],
    }


def _source(name: str, copied: dict[str, bytes]) -> dict[str, str]:
    """Where the page finds a file, and the hash that it must have."""
    if name not in copied:
        return {"url": CDN + name, "integrity": RUNTIME_FILES[name]}
    digest = hashlib.sha384(copied[name])
    # With the query, a browser that has seen an older file of this name does not take it from its cache.
    integrity = f"sha384-{base64.b64encode(digest.digest()).decode()}"
    return {"url": f"{name}?{digest.hexdigest()[:12]}", "integrity": integrity}
