"""COCO 2017 from its official server: resumed when cut, checked by SHA-256, unpacked nowhere but into its folder.

A run that is interrupted, at whatever moment, is continued by running it again. A file `NAME.zip.part` is a
download that goes on; the folder `train2017`, `val2017` or `annotations` appears only when it is whole.
"""

import hashlib
import shutil
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd_graph.cli import InputError
from ssd_graph.data.download.fetch import CHUNK, RETRY_WAITS, byte_bar, fetch
from ssd_graph.data.download.unpack import unpack
from ssd_graph.files import locked_folder

MIRROR = "http://images.cocodataset.org"
"""The server that cocodataset.org links to, over plain HTTP as there; the checksums make up for that."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file on the server."""

    path: str
    """Below the mirror's address."""
    folder: str
    """The one folder that it holds and that it is unpacked to."""
    size: int
    sha256: str
    max_unpacked: int
    """More bytes than its files have in all: the limit for unpacking, and what the disk must have room for."""

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rpartition("/")[2]


# The checksums stand in facebookresearch/ParlAI (parlai/tasks/coco_caption/build_2017.py) and in pytorch/vision
# (torchvision/prototype/datasets/_builtin/coco.py), the sizes in several public download scripts that agree.
# An older copy of the former gives train2017.zip another checksum, f9f102e5...; that file is not accepted.
ANNOTATIONS = Archive(
    path="annotations/annotations_trainval2017.zip",
    folder="annotations",
    size=252_907_541,
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    max_unpacked=1_000_000_000,
)
VAL = Archive(
    path="zips/val2017.zip",
    folder="val2017",
    size=815_585_330,
    sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    max_unpacked=1_000_000_000,
)
TRAIN = Archive(
    path="zips/train2017.zip",
    folder="train2017",
    size=19_336_861_798,
    sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    max_unpacked=22_000_000_000,
)


def download_coco(
    root: Path,
    archives: Sequence[Archive] = (ANNOTATIONS, VAL, TRAIN),
    *,
    mirror: str = MIRROR,
    waits: Sequence[float] = RETRY_WAITS,
) -> None:
    """Fetch, check and unpack `archives` into `root`, one after the other.

    A folder that is there already is left alone. If `root` has `NAME.zip` itself, that is used and kept;
    downloaded zips are deleted when they are unpacked.

    Args:
        mirror: address that has `zips/` and `annotations/`.
        waits: see RETRY_WAITS.

    Raises:
        InputError: the disk is too small, the server cannot be reached or offers something else, a checksum is
            wrong, or another process is at work in `root`.
    """
    _require_address(mirror)
    try:
        missing = [archive for archive in archives if not _has_files(root / archive.folder)]
        for archive in archives:
            if archive not in missing:
                print(f"{root / archive.folder} is there already", flush=True)
        _require_space(root, missing)
        with locked_folder(root, f"another process is downloading into {root}; wait for it"):
            for archive in missing:
                _obtain(root, archive, mirror, waits)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot use {error.filename or root}: {reason}; choose another folder") from error


def verify(file: Path, archive: Archive) -> None:
    """Compare size and SHA-256 with the published ones.

    Raises:
        InputError: they differ; a `.part` file is deleted then, since going on with it would be of no use.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream, byte_bar(f"checking {archive.name}", archive.size) as bar:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != archive.sha256:
        kept = file.suffix != ".part"
        if not kept:
            file.unlink()
        raise InputError(
            f"{file} is damaged or not COCO's: its SHA-256 is {digest.hexdigest()[:16]}..., not "
            f"{archive.sha256[:16]}...; " + ("delete it and run again" if kept else "it was deleted, run again")
        )


def _obtain(root: Path, archive: Archive, mirror: str, waits: Sequence[float]) -> None:
    own, part = root / archive.name, root / f"{archive.name}.part"
    file = own if own.is_file() else part
    if file == part:
        print(f"fetching {archive.name}, {archive.size / 1e9:.2f} GB", flush=True)
        fetch(f"{mirror.rstrip('/')}/{archive.path}", part, archive.size, waits)
    verify(file, archive)
    unpack(file, root, archive.folder, archive.max_unpacked)
    part.unlink(missing_ok=True)
    print(f"{root / archive.folder} is complete", flush=True)


def _require_address(mirror: str) -> None:
    try:
        parts = urllib.parse.urlsplit(mirror)
        host = (parts.hostname or "").encode("idna")  # its UnicodeError is a ValueError
        valid = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        valid = False
    if not (valid and mirror.isascii() and " " not in mirror):
        raise InputError(
            f"--mirror {mirror!r} is no address; it begins with http:// or https:// and is in ASCII without blanks"
        )


def _require_space(root: Path, archives: Sequence[Archive]) -> None:
    """Raise InputError unless the disk has room for the largest moment of fetching and unpacking one by one."""
    unpacked, peak = 0, 0
    for archive in archives:
        have = sum(f.stat().st_size for f in (root / archive.name, root / f"{archive.name}.part") if f.is_file())
        unpacked += archive.max_unpacked
        peak = max(peak, unpacked + max(archive.size - have, 0))
    existing = next(folder for folder in (root.resolve(), *root.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < peak:
        raise InputError(f"{root} has {free / 1e9:.1f} GB free and needs {peak / 1e9:.1f} GB; choose another folder")


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
