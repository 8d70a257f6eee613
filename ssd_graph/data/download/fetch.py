"""Bring a file from an HTTP server, going on where an earlier attempt or run was cut off."""

import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ssd_graph import __version__
from ssd_graph.cli import InputError

RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before each new attempt when one brought nothing new; after the last the download is given up."""

CHUNK = 1 << 20
"""Bytes read at a time."""

_TIMEOUT = 60.0


def fetch(url: str, part: Path, size: int, waits: Sequence[float] = RETRY_WAITS) -> None:
    """Bring the file `part` to the `size` bytes of `url`, continuing from what it has.

    Raises:
        InputError: the server cannot be reached, refuses, or offers another size; `part` keeps what came.
    """
    with _open_for_more(part, size) as file, byte_bar(part.name, size, file.tell()) as bar:
        failures = 0
        while (have := file.tell()) < size:
            reason = _receive(url, file, size, bar)
            if file.tell() == size:
                break
            failures = 0 if file.tell() > have else failures + 1
            if failures > len(waits):
                raise InputError(f"{url}: {reason}; run the command again to go on from byte {file.tell():,}")
            wait = waits[max(failures - 1, 0)] if waits else 0.0
            bar.write(f"{url}: {reason} at byte {file.tell():,} of {size:,}; next try in {wait:g} s", file=sys.stderr)
            time.sleep(wait)


def byte_bar(name: str, size: int, have: int = 0) -> "tqdm[Any]":
    """A progress bar over bytes, which only a terminal shows."""
    return tqdm(desc=name, total=size, initial=have, unit="B", unit_scale=True, leave=False, disable=None)


def _receive(url: str, file: IO[bytes], size: int, bar: "tqdm[Any]") -> str:
    """Append what one request brings, no more than to `size`, and return why it brought no more."""
    have = file.tell()
    headers = {"User-Agent": f"ssd_graph/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
            file.seek(_first_byte(response, url, have, size))
            file.truncate()
            while chunk := response.read(min(CHUNK, size - file.tell())):
                _write(file, chunk)
                bar.update(file.tell() - bar.n)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            raise InputError(f"{url}: the server answers {error.code} {error.reason}; try another --mirror") from error
        return f"the server answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return "the connection was closed"


def _first_byte(response: http.client.HTTPResponse, url: str, have: int, size: int) -> int:
    """Where in the file the answer begins: at 0 if the server does not know ranges.

    Raises:
        InputError: the answer is not the file, as far as its head tells; what came before would be lost to it.
    """
    first, offered = 0, response.length
    if response.headers.get_content_type() == "text/html":
        raise InputError(f"{url}: a web page comes instead; log in to this network, or try another --mirror")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) > have:
            raise InputError(f"{url}: the server answers with another range than asked for; try another --mirror")
        first, offered = int(match[1]), int(match[2])
    if offered is None and have:
        raise InputError(f"{url}: the server does not say how much it sends; try another --mirror")
    if offered not in (None, size):
        raise InputError(f"{url} has {offered:,} bytes where COCO's has {size:,}; try another --mirror")
    return first


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise InputError(f"cannot write {file.name}: {error.strerror or error}; make room and run again") from error


@contextmanager
def _open_for_more(part: Path, size: int) -> Iterator[IO[bytes]]:
    """`part`, made if need be, opened at its end; one that is too long begins anew."""
    part.touch()
    try:
        with part.open("r+b") as file:
            if file.seek(0, os.SEEK_END) > size:
                file.seek(0)
                file.truncate()
            yield file
    finally:
        if not part.stat().st_size:
            part.unlink()
