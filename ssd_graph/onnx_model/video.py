"""Detections of an exported model on a video: a video with boxes, and a JSON line a frame; torch is not needed."""

import json
import time
from collections.abc import Generator
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ssd_graph.cli import InputError
from ssd_graph.data.evaluation import beside
from ssd_graph.data.video_file import TICK, Frame, VideoReader, import_av
from ssd_graph.files import atomic_write, require_writable
from ssd_graph.onnx_model.api import Detections, Detector
from ssd_graph.onnx_model.predict import drawn
from ssd_graph.onnx_model.thresholds import ShownFrom

_ENCODER = "libx264"
_BT709, _LIMITED = 1, 1
"""FFmpeg's numbers for the usual colours of H.264."""


class VideoPredictions(NamedTuple):
    """What `predict_video` found."""

    video: Path
    """With the boxes; the lines lie beside it in a .jsonl."""
    num_frames: int
    num_objects: int
    highest_score: float
    """Of everything found, shown or not."""
    faults: list[str]
    """What is wrong with the video that was read."""
    seconds: float
    """How long it took."""
    interrupted: bool
    """By Ctrl-C; the files hold what there was until then."""


def predict_video(
    detector: Detector, source: Path | int, out: Path, shown_from: ShownFrom, seconds: float | None = None
) -> VideoPredictions:
    """Write a video with its detections into `out`, named after it, and a JSON line for each frame beside it.

    Reading, the network, and drawing with writing run beside each other; a few frames are in memory at a time.
    Boxes are pixels of the upright frame (left, top, right, bottom).

    Args:
        source: a file, or the number of a camera.
        seconds: how much of it is used, all if None.

    Raises:
        InputError: there is no frame, the video would overwrite itself, or a file cannot be written.
    """
    target = out / (f"{source.stem}.mp4" if isinstance(source, Path) else f"camera-{source}.mp4")
    results = target, target.with_suffix(".jsonl")
    if isinstance(source, Path) and any(r.exists() and source.samefile(r) for r in results):
        raise InputError(f"the result of {source} would overwrite it; choose another folder with --out")
    require_writable(out, "--out")
    start, interrupted = time.perf_counter(), False
    with (
        closing(VideoReader(source)) as reader,
        atomic_write(target) as video,
        atomic_write(target.with_suffix(".jsonl")) as lines,
        closing(_Writer(video, lines, reader, detector)) as writer,
        closing(_read(reader, seconds)) as frames,
        closing(beside(writer.add, (_found(detector, f, shown_from) for f in frames), 1)) as written,
        tqdm(total=None if seconds else reader.num_frames, unit="image", disable=None) as bar,
    ):
        try:
            for _ in written:
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
            if not writer.num_frames:
                raise
        if not writer.num_frames:
            raise InputError(f"no frame of {reader.name} can be decoded; give another video")
    damaged = f"{reader.num_damaged} packets or frames of {reader.name} are damaged"
    return VideoPredictions(
        *(target, writer.num_frames, writer.num_objects, writer.highest_score),
        *([damaged] if reader.num_damaged else [], time.perf_counter() - start, interrupted),
    )


def _read(reader: VideoReader, seconds: float | None) -> Generator[Frame, None, None]:
    """Frames that a thread reads ahead."""
    source = reader.frames()
    with closing(beside(lambda: next(source, None), repeat(()), 1)) as ahead:
        for frame in ahead:
            if frame is None or (seconds is not None and frame.time >= seconds):
                return
            yield frame


def _found(detector: Detector, frame: Frame, shown_from: ShownFrom) -> tuple[Frame, Detections, float]:
    """What is shown of a frame, and the highest score of all that was found."""
    outputs = (output[0] for output in detector.network(frame.pixels[None]))
    found = detector.named(frame.image.size, *outputs)
    return frame, found.shown(shown_from), found.highest_score


class _Writer:
    """The two files, written frame by frame; the video's size is that of the first."""

    def __init__(self, video: Path, lines: Path, reader: VideoReader, detector: Detector) -> None:
        self.num_frames, self.num_objects, self.highest_score = 0, 0, 0.0
        self._lines, self._reader, self._category_ids = lines.open("w"), reader, detector.categories.ids
        self._av = import_av()
        self._container = self._av.open(str(video), "w", format="mp4")
        self._stream: Any = None

    def close(self) -> None:
        """Write what the encoder still has, and the index without which nothing plays."""
        if self.num_frames:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        self._lines.close()

    def add(self, frame: Frame, found: Detections, highest: float) -> None:
        """Draw and write a frame and what was found in it.

        Raises:
            InputError: the encoder or the disk refuses it.
        """
        picture = self._av.VideoFrame.from_image(drawn(frame.image, found, self._category_ids))
        try:
            self._stream = self._stream or self._new_stream(frame.image.size)
            picture = picture.reformat(self._stream.width, self._stream.height, "yuv420p", dst_colorspace="ITU709")
            picture.pts, picture.time_base = round(frame.time / TICK), TICK
            self._container.mux(self._stream.encode(picture))
        except self._av.FFmpegError as error:
            raise InputError(f"cannot write the video of {self._reader.name}: {error.strerror}") from error
        self._lines.write(json.dumps({"frame": frame.number, "time": frame.time, "objects": found.to_json()}) + "\n")
        self.num_frames += 1
        self.num_objects += len(found)
        self.highest_score = max(self.highest_score, highest)

    def _new_stream(self, size: tuple[int, int]) -> Any:
        try:
            stream = self._container.add_stream(_ENCODER, self._reader.rate, {"preset": "veryfast", "crf": "20"})
        except ValueError as error:  # of an unknown codec
            raise InputError(f"this PyAV has no {_ENCODER}, which writes videos; pip's wheel has it") from error
        # Two by two pixels share a colour, so an odd size grows by one.
        stream.width, stream.height = (side + side % 2 for side in size)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", TICK
        stream.sample_aspect_ratio = self._reader.pixel_aspect
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        return stream
