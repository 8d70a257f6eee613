"""Arrays in anonymous memory that processes share; nothing stays behind when they end, however they end."""

import ctypes
import math
import multiprocessing
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.sharedctypes import RawArray

import numpy as np

Layout = Mapping[str, tuple[tuple[int, ...], type]]
"""Shape and dtype of each array, by name."""

PROCESSES = multiprocessing.get_context("forkserver")
"""How children start: from a small server that has no threads and no device, unlike this process."""

_ALIGNMENT = 64


class SharedArrays:
    """Arrays in one block; a child has the same memory when this object is among its process's arguments."""

    def __init__(self, layout: Layout) -> None:
        self._places: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
        offset = 0
        for name, (shape, dtype) in layout.items():
            self._places[name] = offset, shape, np.dtype(dtype)
            offset += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        # An unlinked file that multiprocessing keeps in /dev/shm, or where that is too small, among temporary files.
        self._memory = RawArray(ctypes.c_byte, max(offset, 1))

    def views(self, on_release: Callable[[], object] | None = None) -> dict[str, np.ndarray]:
        """The arrays, zero at first, writeable; `on_release` is called once nothing refers to any of them."""
        memory = (ctypes.c_byte * len(self._memory)).from_buffer(self._memory)
        if on_release:
            weakref.finalize(memory, on_release).atexit = False
        return {
            name: np.frombuffer(memoryview(memory), dtype, math.prod(shape), offset).reshape(shape)
            for name, (offset, shape, dtype) in self._places.items()
        }
