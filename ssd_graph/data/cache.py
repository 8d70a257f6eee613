"""A packed cache: the decoded images of a split in one memory-mapped file, which every process of a machine shares.

Batches are the same with it and without, to the bit. A name ends in a fingerprint of the images, so a changed
data set never meets an old cache.
"""

import atexit
import fcntl
import hashlib
import json
import os
import shutil
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.cores import usable_memory
from ssd_graph.data.coco import CocoSplit
from ssd_graph.data.decode import decode_part
from ssd_graph.data.evaluation import pool_of
from ssd_graph.files import atomic_write

_FORMAT = "ssd_graph pixels 1"
_RAM = Path("/dev/shm")


class PackedImages:
    """A cache file: pixels, the images' offsets (int64 [I + 1]), a json object, and its length in eight bytes."""

    def __init__(self, path: Path) -> None:
        """Map `path`, which `open_cache` made; pickled, it is mapped anew by whoever receives it.

        Raises:
            OSError: it cannot be opened.
            ValueError, LookupError, TypeError: it is damaged.
        """
        self.path = path
        self._bytes = np.memmap(path, np.uint8, "r")
        size = len(self._bytes) - 8
        footer = size - int.from_bytes(self._bytes[size:])
        content = json.loads(self._bytes[footer:size].tobytes())
        self._bad: dict[str, str] = content["bad"]
        begin = content["num_pixel_bytes"]
        if begin + 8 * (content["num_images"] + 1) != footer:
            raise ValueError(f"{path} has another length than it says")
        self._offsets = self._bytes[begin:footer].view(np.int64)

    def __reduce__(self) -> tuple[type["PackedImages"], tuple[Path]]:
        return PackedImages, (self.path,)

    def pixels(self, i: int, size: tuple[int, int]) -> np.ndarray:
        """Image i of `size` (width, height) as read-only uint8 RGB [height, width, 3]; nothing is read yet.

        Raises:
            InputError: it could not be decoded when the cache was made.
        """
        if message := self._bad.get(str(i)):
            raise InputError(message)
        return self._bytes[self._offsets[i] : self._offsets[i + 1]].reshape(size[1], size[0], 3)


def open_cache(where: str, split: CocoSplit, *, workers: int = 2, skip_bad: bool = False) -> PackedImages:
    """The cache of a split's images, made if there is none; one process makes it while others wait.

    Args:
        where: a folder, where it stays; or `ram`, where it stays until the last process that uses it ends.
        workers: threads that decode.
        skip_bad: whether an image that cannot be used is noted, to be refused when it is asked for.

    Raises:
        InputError: there is no room, the folder cannot be written, or an image cannot be used.
    """
    folder = _ram_folder() if where == "ram" else Path(where)
    source = f"{split.annotation_file.resolve()} {split.image_dir.resolve()} {split.empty_images} {split.upright}"
    prefix = f"{split.image_dir.name}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"
    path = folder / f"{prefix}-{_fingerprint(split)[:16]}.pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f".{prefix}.lock"):
            try:
                packed = PackedImages(path)
            except (FileNotFoundError, ValueError, LookupError, TypeError):
                _remove_unused(folder, prefix)
                _write(path, split, max(1, workers), skip_bad)
                packed = PackedImages(path)
            in_use = os.open(path, os.O_RDONLY)
            fcntl.flock(in_use, fcntl.LOCK_SH)
            if where == "ram":
                _remove_after_last(path, in_use, folder / f".{prefix}.lock")
            else:
                weakref.finalize(packed, os.close, in_use)
            return packed
    except OSError as error:
        raise InputError(f"--cache {where}: {error.strerror or error} ({folder}); give another folder") from error


def remove_leftovers() -> None:
    """Remove what killed runs left in memory: caches that no process uses any more."""
    for lock in _ram_folder().glob(".*.lock"):
        with suppress(OSError), _lock(lock, wait=False):
            _remove_unused(lock.parent, lock.name[1 : -len(".lock")])


def _ram_folder() -> Path:
    return _RAM / f"ssd_graph-{os.getuid()}"


def _remove_unused(folder: Path, prefix: str) -> None:
    """Remove the caches of a split that no process uses, and what was killed in the making."""
    for file in (*folder.glob(f"{prefix}-*.pixels"), *folder.glob(f".{prefix}-*.pixels.*")):
        with suppress(OSError), _lock(file, "rb", wait=False):
            file.unlink()


def _fingerprint(split: CocoSplit) -> str:
    """SHA-256 of the format and of every image's name, size in the annotations, bytes and time of change."""

    def stat(path: Path) -> tuple[int, int]:
        try:
            found = path.stat()
        except OSError:
            return -1, -1
        return found.st_size, found.st_mtime_ns

    digest = hashlib.sha256(repr((_FORMAT, split.upright, split.file_names.tolist())).encode())
    digest.update(split.sizes.tobytes())
    digest.update(np.array([stat(split.path(i)) for i in range(len(split))], np.int64).tobytes())
    return digest.hexdigest()


@contextmanager
def _lock(path: Path, mode: str = "w", *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that ends with the process at the latest; without `wait`, OSError if another has it."""
    with path.open(mode) as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _remove_after_last(path: Path, in_use: int, lock: Path) -> None:
    """Have `path`, which `in_use` holds a shared lock on, removed when this process ends, unless another uses it."""

    def remove() -> None:
        with suppress(OSError), _lock(lock):  # in use, or already removed
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()

    atexit.register(remove)


def _write(path: Path, split: CocoSplit, workers: int, skip_bad: bool) -> None:
    offsets = np.concatenate([[0], np.cumsum(split.sizes.astype(np.int64).prod(1) * 3)])
    _require_room(path.parent, int(offsets[-1]))
    print(
        f"cache: decoding {len(split):,} images, {offsets[-1] / 1e9:.2f} GB, into {path}", file=sys.stderr, flush=True
    )
    bad: dict[str, str] = {}
    with atomic_write(path) as temporary, temporary.open("rb+") as file:

        def store(i: int) -> None:
            size, position = split.size(i), int(offsets[i])
            try:
                pixels = decode_part(split.path(i), size, size[1], upright=split.upright).reshape(-1).data
            except InputError as error:
                if not skip_bad:
                    raise
                bad[str(i)] = str(error)
                return
            while pixels:  # a disk that is nearly full takes a part
                written = os.pwrite(file.fileno(), pixels, position)
                pixels, position = pixels[written:], position + written

        with pool_of(workers) as pool:
            for _ in pool.map(store, range(len(split))):
                pass
        content = {"format": _FORMAT, "num_images": len(split), "num_pixel_bytes": int(offsets[-1]), "bad": bad}
        footer = json.dumps(content).encode()
        file.seek(int(offsets[-1]))
        file.write(offsets.tobytes() + footer + len(footer).to_bytes(8))


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if folder.is_relative_to(_RAM):  # its size says nothing of the memory that is there
        free = min(free, usable_memory() or free)
    if num_bytes > 0.95 * free:
        raise InputError(
            f"--cache: the decoded images take {num_bytes / 1e9:.1f} GB and {folder} has room for "
            f"{0.95 * free / 1e9:.1f} GB; give another folder, or leave --cache out"
        )
