"""An exported model, in either form, as a function from images to detections; torch is not imported."""

# N images, D detections an image, A default boxes, C classes

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError, reason_of
from ssd_graph.config import IMAGE_SIZE, EvalConfig
from ssd_graph.cores import usable_cores
from ssd_graph.data.coco import Categories
from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.onnx_model import raw
from ssd_graph.onnx_model.providers import Session, open_session
from ssd_graph.onnx_model.thresholds import ShownFrom

_LARGEST_FILE = 2**31 - 1
"""Bytes; protobuf's limit."""

_FORMS: dict[str, tuple[list[Any], list[str]]] = {
    "ssd_graph detections 1": (
        ["images", "tensor(uint8)", [IMAGE_SIZE, IMAGE_SIZE, 3]],
        ["num_detections", "boxes", "scores", "labels"],
    ),
    "ssd_graph raw 1": (["image", "tensor(float)", [3, IMAGE_SIZE, IMAGE_SIZE]], ["ploc", "plabel"]),
}
"""Input (name, type, shape behind the batch) and output names by the metadata's `format`."""


class OnnxDetector:
    """An exported model in an onnxruntime session."""

    def __init__(
        self,
        path: Path,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        optimization: str = "all",
        precision: str | None = None,
    ) -> None:
        """Load `path` on a provider (a key of providers.PROVIDERS, or "auto") with `threads` threads, by default all.

        `precision` is as `open_session` takes it.

        Raises:
            InputError: the file is missing or damaged, is not a model that ssd_graph exported, or the provider
                does not run it.
        """
        if not path.is_file():
            raise InputError(f"no file {path}; make it with `python export/to_onnx.py ckpt.pth`")
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is larger than 2 GiB, more than an ONNX file can be; export the checkpoint again")
        content = path.read_bytes()
        self._path, self.sha256 = path, hashlib.sha256(content).hexdigest()
        self.threads = threads or usable_cores()
        try:
            self.session: Session = open_session(
                content, provider, threads=self.threads, optimization=optimization, precision=precision
            )
        except InputError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            advice = f"; `python export/to_onnx.py {path}` makes one of a checkpoint" if path.suffix == ".pth" else ""
            reason = reason_of(error)
            if "internal.nhwc" in reason:  # as on aarch64 in 16 bits
                advice = "; give --optimization extended, which leaves its layout as it is"
            raise InputError(f"{path} is not an ONNX model that onnxruntime can load ({reason}){advice}") from error
        self.metadata: dict[str, str] = self.session.run.get_modelmeta().custom_metadata_map
        self._outputs, self.is_raw, self.batch_size = self._require_form(path)
        self.categories, self.config, self.shown_from = self._read_metadata(path)
        self.upright = self.metadata.get("upright") == "true"
        """Whether it was trained on images turned as their EXIF orientation says."""

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """`num_detections`, `boxes`, `scores` and `labels` (see postprocess.Detections) of uint8 [N, 300, 300, 3].

        A model of a fixed batch takes fewer images too; the rest is filled up.

        Raises:
            InputError: the model fails, or what it gives is not detections of its categories.
        """
        num_images = len(images)
        if self.batch_size and num_images < self.batch_size:
            images = np.pad(images, ((0, self.batch_size - num_images), *((0, 0),) * 3))
        feed = {"image": raw.network_input(images)} if self.is_raw else {"images": images}
        try:
            outputs = tuple(np.asarray(o)[:num_images] for o in self.session.run.run(self._outputs, feed))
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            raise InputError(f"{self._path} does not run ({reason_of(error)}); export the checkpoint again") from error
        return self.detections_of(outputs, num_images)

    def detections_of(self, outputs: tuple[np.ndarray, ...], num_images: int) -> tuple[np.ndarray, ...]:
        """What a call returns, of the file's own outputs, whoever computed them.

        Raises:
            InputError: they are not detections of its categories.
        """
        self._require_shapes(outputs, num_images)
        if self.is_raw:
            with np.errstate(over="ignore", invalid="ignore"):
                outputs = raw.detections(outputs[0], outputs[1], self.categories.ids, self.config)
        self._require_detections(*outputs)
        return outputs

    def describe(self) -> dict[str, str]:
        """What identifies the model in a summary."""
        return {
            "sha256": self.sha256,
            "preset": self.metadata["preset"],
            "form": "raw" if self.is_raw else "detections",
            "precision": self.metadata.get("precision", "fp32"),
            "checkpoint_sha256": self.metadata["checkpoint_sha256"],
        }

    def _require_shapes(self, outputs: tuple[np.ndarray, ...], num_images: int) -> None:
        if self.is_raw:
            num_boxes = len(default_boxes())
            wanted = [((num_images, 4, num_boxes), "f"), ((num_images, self.categories.num_classes, num_boxes), "f")]
        else:
            shape = (num_images, *outputs[2].shape[1:2])
            wanted = [(shape[:1], "i"), ((*shape, 4), "f"), (shape, "f"), (shape, "i")]
        found = [(output.shape, output.dtype.kind) for output in outputs]
        if found != wanted:
            raise InputError(f"{self._path} gives outputs {found} instead of {wanted}; export the checkpoint again")

    def _require_detections(
        self, num_detections: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
    ) -> None:
        most = scores.shape[1]
        if not ((num_detections >= 0) & (num_detections <= most)).all():
            raise InputError(
                f"{self._path} gives a number of detections outside 0 to {most}; export the checkpoint again"
            )
        found = np.arange(most) < num_detections[:, None]
        if not np.isin(labels[found], self.categories.ids).all():
            raise InputError(f"{self._path} detects categories that it does not name; export the checkpoint again")
        if not (np.isfinite(boxes[found]).all() and np.isfinite(scores[found]).all()):
            raise InputError(
                f"{self._path} gives boxes or scores that are no numbers; "
                "train it with a lower --lr, or make --outputs again"
            )

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

    def _read_metadata(self, path: Path) -> tuple[Categories, EvalConfig, ShownFrom | None]:
        try:
            ids, names = (json.loads(self.metadata[key]) for key in ("category_ids", "category_names"))
            categories = Categories(tuple(int(i) for i in ids), tuple(str(name) for name in names))
            defaults = asdict(EvalConfig())
            config = EvalConfig(**{key: type(v)(json.loads(self.metadata[key])) for key, v in defaults.items()})
            if (
                not len(set(categories.ids)) == len(ids) == len(names)
                or max(map(abs, categories.ids), default=0) >= 2**63
            ):
                raise ValueError(f"{len(ids)} category ids and {len(names)} names")
            for key in ("preset", "checkpoint_sha256"):
                self.metadata[key]
            shown_from = ShownFrom.of(self.metadata)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise InputError(f"{path} has damaged metadata ({error!r}); export the checkpoint again") from error
        return categories, config, shown_from
