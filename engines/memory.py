"""Memory that calls use one after the other, and that the system gets back."""

import contextlib
import ctypes
import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
SIZES_KEPT = 2
BYTES_KEPT = 1 << 30


class Free(Generic[T]):
    """Store of objects not in use, by the rows and sides of the calls they serve: the SIZES_KEPT sizes used last.

    Beyond BYTES_KEPT only what was used last is kept. Safe between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_size: dict[Hashable, list[tuple[T, int]]] = {}

    def take(self, size: Hashable) -> T | None:
        """Take one that is free, or None."""
        with self._lock:
            free = self._by_size.get(size)
            return free.pop()[0] if free else None

    def give(self, size: Hashable, one: T, held: int = 0) -> None:
        """Give `one`, which holds so many bytes, back; sizes not used for long are forgotten."""
        with self._lock:
            self._by_size[size] = [*self._by_size.pop(size, []), (one, held)]
            while len(self._by_size) > SIZES_KEPT or (len(self._by_size) > 1 and self._bytes() > BYTES_KEPT):
                del self._by_size[next(iter(self._by_size))]
            while len(self._by_size[size]) > 1 and self._bytes() > BYTES_KEPT:
                del self._by_size[size][0]

    def _bytes(self) -> int:
        return sum(held for free in self._by_size.values() for _, held in free)


def give_back() -> None:
    """Let the system have what the C library keeps of freed memory, where that is glibc: opening onnxruntime's sessions
    of a plan leaves more than twice its weights."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
