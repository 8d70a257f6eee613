"""SIGTERM and Ctrl-C as requests: the loop saves and ends where it can be resumed exactly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_REQUESTS = (signal.SIGTERM, signal.SIGINT)
_ECHO_SECONDS = 5.0
"""A scheduler signals the launcher and its processes, and the launcher passes that on: the same request again."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of the signal that asked to stop, 0 if none did.

    A later one, of either kind, does what it would have done. Outside the main thread nothing is noted.
    """
    noted, since = 0, 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted, since
        if not noted:
            noted, since = number, time.monotonic()
        elif time.monotonic() > since + _ECHO_SECONDS:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.getsignal(number) for number in _REQUESTS}
    for number in _REQUESTS:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
