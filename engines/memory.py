"""Memory that calls use one after the other, and that the system gets back."""

import contextlib
import ctypes
import threading
from typing import Generic, TypeVar

T = TypeVar("T")
SIZES_KEPT = 2


class Free(Generic[T]):
    """What is not in use now, by batch size: of the SIZES_KEPT sizes used last. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_size: dict[int, list[T]] = {}

    def take(self, size: int) -> T | None:
        """One that is free, or None."""
        with self._lock:
            free = self._by_size.get(size)
            return free.pop() if free else None

    def give(self, size: int, one: T) -> None:
        """`one` is free again; what is free of a size not used for long is forgotten."""
        with self._lock:
            self._by_size[size] = [*self._by_size.pop(size, []), one]
            while len(self._by_size) > SIZES_KEPT:
                del self._by_size[next(iter(self._by_size))]


def give_back() -> None:
    """Let the system have what the C library keeps of freed memory, where that is glibc: opening onnxruntime's sessions
    of a plan leaves more than twice its weights."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
