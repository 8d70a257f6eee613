"""An exported model for other programs: images of any kind in, boxes, scores and names out; torch is not needed."""

# D detections of an image

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from PIL import Image

from ssd_graph.cli import InputError, require_one_of
from ssd_graph.data.coco import Categories
from ssd_graph.data.decode import UNREADABLE, decode, preprocess, to_rgb
from ssd_graph.onnx_model.detector import OnnxDetector
from ssd_graph.onnx_model.providers import PRECISIONS, PROVIDERS
from ssd_graph.onnx_model.thresholds import ShownFrom

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image file, an image of Pillow, or uint8 RGB [H, W, 3]."""

_KINDS = (str, os.PathLike, Image.Image, np.ndarray)

_BATCH = 8
"""Images that a model of any batch size gets at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What was found in one image, best first."""

    boxes: np.ndarray
    """float64 [D, 4]: left, top, right, bottom in pixels of the upright image; may reach beyond it."""
    scores: np.ndarray
    """float32 [D]."""
    labels: np.ndarray
    """int64 [D], category ids of the data set."""
    names: list[str]
    """Of the D categories."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def highest_score(self) -> float:
        """0 where nothing was found."""
        return float(self.scores.max(initial=0.0))

    def to_json(self) -> list[dict[str, Any]]:
        """As predictions.json has them."""
        columns = (self.names, *(column.tolist() for column in (self.labels, self.scores, self.boxes)))
        keys = ("category", "category_id", "score", "box_xyxy")
        return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]

    def shown(self, shown_from: ShownFrom) -> "Detections":
        """Those with a score that is shown."""
        kept = shown_from.shows(self.scores, self.labels)
        names = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept], names)


class Detector:
    """A model that export/to_onnx.py wrote, as a function from images to detections."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        provider: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
    ) -> None:
        """Load the file `model` on a provider (a key of providers.PROVIDERS, or "auto"), by default with all cores.

        `precision`, a key of providers.PRECISIONS, is for providers that can be told what to compute in.

        Raises:
            InputError: as OnnxDetector, or an argument makes no sense.
        """
        if not isinstance(model, str | os.PathLike):
            raise InputError(f"{_kind(model)} is no model; give the path of an .onnx file")
        require_one_of((*PROVIDERS, "auto"), "provider", provider)
        if precision is not None:
            require_one_of(PRECISIONS, "precision", precision)
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= 1024):
            raise InputError(f"threads {threads!r}: give 1 to 1024")
        self._arguments = (model, provider, threads, precision)
        self.network = OnnxDetector(Path(model), provider=provider, threads=threads, precision=precision)
        self.shown_from = self.network.shown_from or ShownFrom()
        """What is shown when a call names no score: the model's own thresholds, or all from 0.4."""
        self._names = dict(zip(self.categories.ids, self.categories.names, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        """For processes: each loads the file itself."""
        return type(self), self._arguments

    @property
    def categories(self) -> Categories:
        """Ids and names of what the model finds."""
        return self.network.categories

    @overload
    def __call__(self, images: Picture, score: float | None = None) -> Detections: ...

    @overload
    def __call__(self, images: Iterable[Picture], score: float | None = None) -> list[Detections]: ...

    def __call__(
        self, images: Picture | Iterable[Picture], score: float | None = None
    ) -> Detections | list[Detections]:
        """Detections of one image, or a list with those of each of several, which go through the network in batches.

        Files and images of Pillow are turned upright as their EXIF orientation says and become RGB, as
        data.decode.decode says; an array is taken as it is.

        Args:
            score: least score; None for `shown_from`, 0 for all that the model gives.

        Raises:
            InputError: an image cannot be read or is none, the score is none, or the model fails.
        """
        shown_from = self.shown_from if score is None else ShownFrom(score)
        if isinstance(images, _KINDS):
            return next(self._detect([images])).shown(shown_from)
        if not isinstance(images, Iterable):
            raise InputError(f"{_kind(images)} is no image; {_WANTED}")
        pictures, found = iter(images), list[Detections]()
        while chunk := list(islice(pictures, self.network.batch_size or _BATCH)):
            found += (detections.shown(shown_from) for detections in self._detect(chunk))
        return found

    def _detect(self, pictures: list[Any]) -> Iterator[Detections]:
        """All that is found in each image of a batch."""
        images = [_rgb(picture) for picture in pictures]
        outputs = self.network(np.stack([preprocess(image) for image in images]))
        for image, *output in zip(images, *outputs, strict=True):
            yield self.named(image.size, *output)

    def named(
        self, size: tuple[int, int], num: np.integer, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
    ) -> Detections:
        """What the network gives of one image of `size` (width, height), in its pixels and with names."""
        pixels = boxes[:num].astype(np.float64) * np.tile(size, 2)
        return Detections(pixels, scores[:num], labels[:num], [self._names[label] for label in labels[:num].tolist()])


_WANTED = "give a file's path, an image of Pillow, a uint8 RGB array [height, width, 3], or several of them"


def _rgb(picture: Any) -> Image.Image:
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,) and picture.size:
        return Image.fromarray(picture)
    if isinstance(picture, Image.Image) and all(picture.size):
        try:
            return to_rgb(picture, upright=True)
        except UNREADABLE as error:
            raise InputError(f"cannot use an image of Pillow: {error}") from error
        except AssertionError as error:  # by this Pillow says that its file was closed before its pixels were read
            raise InputError(
                "cannot use an image of Pillow: its file is closed; call its load() before that"
            ) from error
    if isinstance(picture, str | os.PathLike):
        return decode(Path(picture), upright=True)
    raise InputError(f"{_kind(picture)} is no image; {_WANTED}")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, Image.Image):
        return f"an image of {value.width} x {value.height} pixels"
    return f"an object of type {type(value).__name__}"
