"""Memory that is reused from call to call, and memory that is returned to the system."""

import contextlib
import ctypes
import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
SIZES_KEPT = 2
BYTES_KEPT = 1 << 30


class Free(Generic[T]):
    """Pool of free objects, by the rows and sides of the calls that they serve. Thread-safe.

    It keeps at most the SIZES_KEPT sizes used last and BYTES_KEPT bytes, but always the object returned last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_size: dict[Hashable, list[tuple[T, int]]] = {}

    def take(self, size: Hashable) -> T | None:
        """Take a free object of this size out of the pool; None where there is none."""
        with self._lock:
            free = self._by_size.get(size)
            return free.pop()[0] if free else None

    def give(self, size: Hashable, one: T, held: int = 0) -> None:
        """Return `one`, which holds `held` bytes, to the pool; the sizes used longest ago are dropped."""
        with self._lock:
            self._by_size[size] = [*self._by_size.pop(size, []), (one, held)]
            while len(self._by_size) > SIZES_KEPT or (len(self._by_size) > 1 and self._bytes() > BYTES_KEPT):
                del self._by_size[next(iter(self._by_size))]
            while len(self._by_size[size]) > 1 and self._bytes() > BYTES_KEPT:
                del self._by_size[size][0]

    def _bytes(self) -> int:
        return sum(held for free in self._by_size.values() for _, held in free)


def give_back() -> None:
    """Return freed memory to the system by glibc's malloc_trim; do nothing with another C library.

    Opening a plan's sessions in onnxruntime leaves more than twice the bytes of its weights.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
