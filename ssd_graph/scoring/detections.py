"""Detections of many images as columns, in the order of the images."""

# N images, D detections an image, R detections of all images

from typing import NamedTuple

import numpy as np


class DetectionRows(NamedTuple):
    """Detections of many images in COCO's result format."""

    image_ids: np.ndarray
    """int64 [R]."""
    category_ids: np.ndarray
    """int64 [R]."""
    boxes_xywh: np.ndarray
    """float64 [R, 4], pixels of the original image."""
    scores: np.ndarray
    """float64 [R]."""

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.scores)


def detection_rows(
    image_ids: np.ndarray,
    sizes: np.ndarray,
    num_detections: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
) -> DetectionRows:
    """Rows of a batch of detections (see postprocess.Detections), in image pixels.

    Args:
        image_ids: int64 [N].
        sizes: int32 [N, 2], width and height.
        num_detections: int64 [N].
        boxes: float32 xyxy [N, D, 4], relative.
        scores: float32 [N, D].
        labels: int64 [N, D], category ids.
    """
    found = np.arange(boxes.shape[1]) < num_detections[:, None]
    pixels = boxes.astype(np.float64) * np.tile(sizes, 2)[:, None, :]
    pixels[..., 2:] -= pixels[..., :2]
    owners = np.broadcast_to(image_ids[:, None], found.shape)
    return DetectionRows(owners[found], labels[found], pixels[found], scores[found].astype(np.float64))


def join_rows(parts: list[DetectionRows]) -> DetectionRows:
    """All rows by image id, within an image in the order given; independent of how the images were batched."""
    joined = DetectionRows(*(np.concatenate(columns) for columns in zip(_NO_ROWS, *parts, strict=True)))
    order = np.argsort(joined.image_ids, kind="stable")
    return DetectionRows(*(column[order] for column in joined))


_NO_ROWS = DetectionRows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)), np.empty(0))
