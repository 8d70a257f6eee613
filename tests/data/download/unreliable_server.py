"""A real HTTP server on this machine that misbehaves to order."""

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class UnreliableServer(ThreadingHTTPServer):
    """Serves `files` by path; `faults` are used up one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        """The status "503", or a number of bytes after which the connection ends, by a reset if it is negative."""
        self.ranges = True
        """Whether Range is understood."""
        self.claims_length = True
        self.kind = "application/zip"
        self.log: list[tuple[str, str | None]] = []
        """Path and Range of each request."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: UnreliableServer

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.log.append((self.path, wanted))
        content = server.files.get(self.path)
        fault = server.faults.pop(0) if server.faults else None
        if content is None or isinstance(fault, str):
            return self.send_error(int(fault or 404))
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", server.kind)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if server.claims_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        with suppress(OSError):  # the client may have had enough
            self.wfile.write(content[first : len(content) if fault is None else first + abs(fault)])
            if fault is not None and fault < 0:
                self._reset()
        return None

    def _reset(self) -> None:
        self.wfile.flush()
        time.sleep(0.05)  # so that the client reads what was sent before it learns of the end
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[UnreliableServer]:
    with UnreliableServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
