"""Files that are written whole or not at all, folders that one process has alone, and what can be made again."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ssd_graph.cli import InputError, say_once

try:
    import fcntl
except ImportError:  # not a POSIX system: what is exported runs there, training does not
    fcntl = None

# Setting the umask is the only way to read it, which is not safe beside threads, so it is read once.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed, on failure removed.

    A reader sees the old file or the whole new one, never a part, even after a power cut. Behind a link it is the
    link's target that is replaced; a device or a pipe is written to as it is.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        if is_stream(path):
            yield path
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """`atomic_write` of what is in memory; text becomes UTF-8, with the same line ends everywhere."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def is_stream(path: Path) -> bool:
    """Whether `path` is a device or a pipe, which no file may take the place of."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


class LineFile:
    """A file that grows by lines, each written at once; none is lost with the process, or to a close that fails."""

    def __init__(self, path: Path, lines: Iterable[str]) -> None:
        """Let `path` hold `lines`, and open it to append to them.

        Raises:
            InputError: it cannot be written; so do the methods.
        """
        self._path = path
        write_whole(path, "".join(f"{line}\n" for line in lines))
        with self._said():
            self._file = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        """Append a line."""
        data = f"{line}\n".encode()
        with self._said():
            while data:  # a disk that is nearly full takes a part
                data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Make sure that a power cut loses nothing so far."""
        with self._said():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is left to be written."""
        self._file.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write {self._path}: {error.strerror or error}; make room and go on with --resume auto"
            ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced: some network disks refuse."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def print_result(result: dict[str, Any], text: str, file: str | None) -> None:
    """What `--json` asks for: without it the text, with `-` the object instead, with a file both.

    Raises:
        InputError: the file cannot be written.
    """
    if file == "-":
        print(json.dumps(result))
        return
    print(text)
    if file:
        write_whole(Path(file), json.dumps(result, indent=2) + "\n")


def require_writable(folder: Path, flag: str) -> None:
    """Raise InputError, before any work is done, if no file can be written into `folder`; `flag` chooses another."""
    existing = next(f for f in (folder.absolute(), *folder.absolute().parents) if os.path.exists(f))
    try:
        with suppress(FileNotFoundError):
            folder.stat()  # whether there may be such a name
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}; choose another {flag}") from error


def require_output(file: Path | str | None, flag: str) -> None:
    """As `require_writable`, for the file that `flag` names, if it does; `-`, devices and pipes need no folder."""
    if file and str(file) != "-" and not is_stream(Path(file)):
        require_writable(Path(file).parent, flag)


@contextmanager
def locked_folder(folder: Path, busy: str, flag: str = "folder") -> Iterator[None]:
    """Make `folder`, and keep other processes of this program out until the end or the death of this one.

    A file system without locks is no reason to stop, but it is said. `flag` is what to choose another of.

    Raises:
        InputError: `busy`, if another process has it; or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot make the folder {folder}: {reason}; choose another {flag}") from error
    try:
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(busy) from error
        except OSError:
            say_once(f"{folder} cannot be locked on this disk: have no second process write to it")
        yield
    finally:
        os.close(descriptor)


def user_cache() -> Path:
    """Folder for what can be made again: `SSD_GRAPH_CACHE`, or `~/.cache/ssd_graph`; InputError where there is none."""
    try:
        return Path(os.environ.get("SSD_GRAPH_CACHE") or Path.home() / ".cache" / "ssd_graph")
    except RuntimeError as error:  # a user without an entry in passwd and without HOME
        raise InputError(
            "this user has no home folder; set SSD_GRAPH_CACHE to a folder for what can be made again"
        ) from error


def cached_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of `user_cache`, which `make` fills where it is not there yet; it appears when it is whole.

    Raises:
        InputError: the cache cannot be written.
    """
    folder = user_cache() / name
    try:
        if not os.path.isdir(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent, ignore_cleanup_errors=True) as new:
                make(Path(new))
                os.chmod(new, 0o777 & ~_UMASK)
                os.replace(new, folder)
    except OSError as error:
        if not os.path.isdir(folder):  # else another process was faster, and what it made is the same
            reason = error.strerror or error
            raise InputError(
                f"cannot write {folder.parent}: {reason}; set SSD_GRAPH_CACHE to another folder"
            ) from error
    return folder
