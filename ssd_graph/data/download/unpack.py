"""Unpack a zip file that nobody vouches for: into its own folder, within a limit, whole or not at all."""

import os
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from ssd_graph.cli import InputError

_BLOCK = 4096
"""What each file is charged on top of its size, so that a million empty ones count too."""


def unpack(file: Path, root: Path, folder: str, max_bytes: int) -> None:
    """Unpack a zip file that holds the one folder `folder` to `root / folder`, which appears when it is whole.

    Nothing is written outside `root`, nothing but plain files and folders is made, and every file's checksum in
    the zip must hold. What an interrupted run left is removed.

    Args:
        max_bytes: more than the files may have in all.

    Raises:
        InputError: the zip is damaged, holds something else or too much, or `root` cannot be written.
    """
    making = root / f".{folder}.unpacking"
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir()
        with zipfile.ZipFile(file) as archive:
            members = _checked_members(archive, file, folder, max_bytes)
            for member in tqdm(members, folder, leave=False, disable=None, unit="file"):
                _extract(archive, member, making)
        os.sync()  # so that no power cut leaves a folder with empty files
        (making / folder).rename(root / folder)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise InputError(f"{file} is damaged ({error}); delete it and run again") from error
    except OSError as error:
        raise InputError(f"cannot unpack {file} into {root}: {error.strerror or error}; then run again") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _checked_members(archive: zipfile.ZipFile, file: Path, folder: str, max_bytes: int) -> list[zipfile.ZipInfo]:
    """All members, if all are acceptable and together not too large."""
    members = archive.infolist()
    for member in members:
        if fault := _fault(member, folder):
            raise InputError(f"{file} holds {member.filename!r}, {fault}; it is not COCO's file, delete it")
    if all(member.is_dir() for member in members):
        raise InputError(f"{file} holds no files; it is not COCO's file, delete it")
    claimed = sum(member.file_size + _BLOCK for member in members)
    if claimed > max_bytes:
        raise InputError(f"{file} would unpack to {claimed:,} bytes, over {max_bytes:,}; it is not COCO's, delete it")
    return members


def _fault(member: zipfile.ZipInfo, folder: str) -> str | None:
    first, *rest = member.filename.removesuffix("/").split("/")
    if first != folder or "\\" in member.filename or {"", ".", ".."} & set(rest):
        return f"which does not lie in {folder}/"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "which is neither file nor folder"
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "which is encrypted or packed by another method"
    if not rest and not member.is_dir():
        return "which should be a folder"
    return None


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, root: Path) -> None:
    target = root / member.filename
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)  # zipfile yields no more than the claimed size
