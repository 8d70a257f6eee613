"""SIGTERM and Ctrl-C as requests: the loop saves and ends where it can be resumed exactly."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_REQUESTS = (signal.SIGTERM, signal.SIGINT)
_ECHO_SECONDS = 5.0
"""A scheduler signals the launcher and its processes, and the launcher passes that on: the same request again."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of the signal that asked to stop, 0 if none did.

    Its echo is ignored; a later one, of either kind, ends the process at once. Outside the main thread nothing is
    noted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    noted = 0
    timer = threading.Timer(_ECHO_SECONDS, _end_by_the_next)
    timer.daemon = True

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = number
        for request in _REQUESTS:
            signal.signal(request, signal.SIG_IGN)
        timer.start()

    before = {number: signal.getsignal(number) for number in _REQUESTS}
    for number in _REQUESTS:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_by_the_next() -> None:
    """By C's own signal(): Python's handlers run in the main thread, which may hang in a library."""
    for request in _REQUESTS:
        ctypes.CDLL(None).signal(int(request), None)
