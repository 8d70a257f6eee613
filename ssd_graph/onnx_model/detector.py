"""An exported model, in either form, as a function from images to detections; torch is not imported."""

# N images, D detections an image, A default boxes, C classes

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.coco import Categories
from ssd_graph.config import IMAGE_SIZE, EvalConfig
from ssd_graph.onnx_model import raw
from ssd_graph.onnx_model.providers import Session, open_session, reason_of

_LARGEST_FILE = 2**31 - 1
"""Bytes; protobuf's limit."""

_SIDE = IMAGE_SIZE

_FORMS: dict[str, tuple[list[Any], list[str]]] = {
    "ssd_graph detections 1": (
        ["images", "tensor(uint8)", [_SIDE, _SIDE, 3]],
        ["num_detections", "boxes", "scores", "labels"],
    ),
    "ssd_graph raw 1": (["image", "tensor(float)", [3, _SIDE, _SIDE]], ["ploc", "plabel"]),
}
"""Input (name, type, shape behind the batch) and output names by the metadata's `format`."""


class OnnxDetector:
    """An exported model in an onnxruntime session."""

    def __init__(
        self, path: Path, *, provider: str = "cpu", threads: int | None = None, optimization: str = "all"
    ) -> None:
        """Load `path` on a provider (a key of providers.PROVIDERS, or "auto") with `threads` threads, by default all.

        Raises:
            InputError: the file is missing or damaged, is not a model that ssd_graph exported, or the provider
                does not run it.
        """
        if not path.is_file():
            raise InputError(f"no file {path}; make it with `python export/to_onnx.py ckpt.pth`")
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is larger than 2 GiB, more than an ONNX file can be; export the checkpoint again")
        content = path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.threads, self.optimization = threads or os.cpu_count() or 1, optimization
        try:
            self.session: Session = open_session(
                content, provider, threads=self.threads, optimization=self.optimization
            )
        except InputError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            reason = reason_of(error)
            raise InputError(f"{path} is not an ONNX model that onnxruntime can load ({reason})") from error
        self.metadata: dict[str, str] = self.session.run.get_modelmeta().custom_metadata_map
        self._outputs, self.is_raw, self.batch_size = self._require_form(path)
        self.categories, self._config = self._read_metadata(path)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """`num_detections`, `boxes`, `scores` and `labels` (see postprocess.Detections) of uint8 [N, 300, 300, 3].

        A model of a fixed batch takes fewer images too; the rest is filled up.
        """
        num_images = len(images)
        if self.batch_size and num_images < self.batch_size:
            images = np.pad(images, ((0, self.batch_size - num_images), *((0, 0),) * 3))
        feed = {"image": raw.network_input(images)} if self.is_raw else {"images": images}
        outputs = tuple(np.asarray(o)[:num_images] for o in self.session.run.run(self._outputs, feed))
        return raw.detections(outputs[0], outputs[1], self.categories.ids, self._config) if self.is_raw else outputs

    def describe(self) -> dict[str, str]:
        """What identifies the model in a summary."""
        return {
            "sha256": self.sha256,
            "preset": self.metadata["preset"],
            "form": "raw" if self.is_raw else "detections",
            "precision": self.metadata.get("precision", "fp32"),
            "checkpoint_sha256": self.metadata["checkpoint_sha256"],
        }

    def _require_form(self, path: Path) -> tuple[list[str], bool, int | None]:
        """Output names, whether the model is raw, and its batch size if that is fixed."""
        inputs, outputs = self.session.run.get_inputs(), [o.name for o in self.session.run.get_outputs()]
        form = self.metadata.get("format", "")
        if form not in _FORMS:
            raise InputError(
                f"{path} was not made by export/to_onnx.py of this version (its metadata's format is '{form}'); "
                "export the checkpoint again"
            )
        found = [[i.name, i.type, i.shape[1:]] for i in inputs]
        if (found, outputs) != ([_FORMS[form][0]], _FORMS[form][1]):
            raise InputError(
                f"{path} has inputs {found} and outputs {outputs}, not those of '{form}'; export the checkpoint again"
            )
        size = inputs[0].shape[0]
        return outputs, form == "ssd_graph raw 1", size if isinstance(size, int) else None

    def _read_metadata(self, path: Path) -> tuple[Categories, EvalConfig]:
        try:
            ids, names = (json.loads(self.metadata[key]) for key in ("category_ids", "category_names"))
            categories = Categories(tuple(int(i) for i in ids), tuple(str(name) for name in names))
            defaults = asdict(EvalConfig())
            config = EvalConfig(**{key: type(v)(json.loads(self.metadata[key])) for key, v in defaults.items()})
            if len(ids) != len(names):
                raise ValueError(f"{len(ids)} category ids and {len(names)} names")
            for key in ("preset", "checkpoint_sha256"):
                self.metadata[key]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path} has damaged metadata ({error!r}); export the checkpoint again") from error
        return categories, config
