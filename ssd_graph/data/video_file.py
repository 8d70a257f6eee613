"""Frames of a video file or a camera, one after another, upright and in RGB; PyAV, which is optional, decodes them."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.data.decode import FORMATS, UNREADABLE, preprocess
from ssd_graph.data.image_files import SUFFIXES

TICK = Fraction(1, 90_000)
"""Seconds; frames are at least this far apart. The usual frame rates are whole numbers of it."""

_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "flv", "asf", "ogg", "mxf", "gif"),
    *("h264", "hevc", "ivf", "obu", "dv", "mjpeg", "yuv4mpegpipe"),
)
"""FFmpeg's readers of plain video files. It has others that should not meet a stranger's file: a playlist opens
whatever files and addresses it names."""

_RESTART = 1
"""Seconds that a frame's time is behind the one before where the clock began anew."""

_MOST_PIXELS = 178_956_970
"""Of a frame; where Pillow refuses an image."""

_PHOTOGRAPHS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif"))
"""How HEIF files of phones begin, behind four bytes. FFmpeg reads them as videos, each tile as one."""

_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""FFmpeg's name for a system's cameras, and for one of them, by sys.platform."""


class Frame(NamedTuple):
    """One picture of a video."""

    number: int
    """From 0."""
    time: float
    """Seconds since the first frame."""
    image: Image.Image
    """RGB, turned as the video says."""
    pixels: np.ndarray
    """Network input, uint8 [300, 300, 3]."""


def find_video(arguments: list[str]) -> Path | None:
    """The video file among a command's arguments, None if there are only images.

    A file is a video if neither its name nor Pillow says that it is an image.

    Raises:
        InputError: there is a video and something else.
    """
    videos = [path for path in map(Path, arguments) if os.path.isfile(path) and not _is_image(path)]
    for path in videos:
        with suppress(OSError), path.open("rb") as file:  # PyAV says what is wrong
            if file.read(12)[4:] in _PHOTOGRAPHS:
                raise InputError(f"{path} is a photograph in HEIF; save it as JPEG")
    if videos and len(arguments) > 1:
        raise InputError(f"{videos[0]} is no image; give one video alone, or images")
    return videos[0] if videos else None


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except UNREADABLE:
        return False


class VideoReader:
    """An opened video; one thread at a time may read it."""

    def __init__(self, source: Path | int) -> None:
        """Open a file, or the camera of that number.

        Raises:
            InputError: PyAV is not installed, or there is no video that it can read.
        """
        self.num_damaged = 0
        """Packets so far that could not be decoded, and frames that have faults."""
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self._av = import_av()
        try:
            self._container = self._open(source)
        except self._av.FFmpegError as error:
            raise InputError(
                f"cannot read {self.name} as a video ({error.strerror}); give another one, or images"
            ) from error
        no_cover = ~self._av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if s.disposition & no_cover == s.disposition]
        if not streams:
            raise InputError(f"{self.name} has no pictures, only sound or other data")
        if streams[0].codec_context is None:
            raise InputError(f"this PyAV cannot decode the pictures of {self.name}; give another video")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        """Frames a second, about."""

    @property
    def num_frames(self) -> int | None:
        """What the file says, None if it does not."""
        return self._stream.frames or None

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel by its height, as stored."""
        return self._stream.sample_aspect_ratio or Fraction(1)

    def frames(self) -> Iterator[Frame]:
        """All frames in the order they are shown in; times always grow, also where the clock of joined files restarts.

        What is damaged is counted and left out.
        """
        first, again, time = None, None, -TICK
        for number, frame in enumerate(self._decoded()):
            if frame.pts is None:  # a bare stream of pictures
                shown = time + 1 / self.rate if number else Fraction(0)
            else:
                pts = frame.pts * frame.time_base
                first = pts if first is None else first
                shown = pts - first
                if time - shown <= _RESTART:
                    again = None
                elif again is None:  # the clock has begun anew, unless this frame alone says so
                    again, shown = pts - time - 1 / self.rate, time + 1 / self.rate
                else:
                    first, again, shown = again, None, pts - again
            time = max(shown, time + TICK)
            image = _upright(frame)
            yield Frame(number, float(time), image, preprocess(image))

    def close(self) -> None:
        """Close the file or the camera."""
        self._container.close()

    def _open(self, source: Path | int) -> Any:
        if isinstance(source, Path):
            # With `file:` a colon in a name means no protocol.
            only = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
            return self._av.open(f"file:{source.absolute()}", options=only, metadata_errors="replace")
        if sys.platform not in _CAMERAS:
            raise InputError("cameras are read on Linux and macOS only; record a video and give its file")
        form, name = _CAMERAS[sys.platform]
        return self._av.open(name.format(source), format=form)

    def _decoded(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                if (packet := next(packets, None)) is None:
                    return
                frames = packet.decode()
            except self._av.FFmpegError:
                self.num_damaged += 1
                continue
            for frame in frames:
                self.num_damaged += frame.is_corrupt
                yield frame


def import_av() -> Any:
    """The package `av`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise InputError('videos need PyAV; run `pip install "av>=18"`') from error
    return av


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as RGB, turned and mirrored as its display matrix says."""
    image = frame.to_image()
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return image
    # A pixel (x, y) is shown at (a x + c y, b x + d y), but for a shift.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else image
