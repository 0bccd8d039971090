"""Network calls, and the work of operators, that another thread may interrupt."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from .errors import Stopped


class Stop:
    """A request to interrupt the work done under it: the network call in progress, and whatever calls `check` later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ways: list[Callable[[], object]] = []
        self.asked = False

    def ask(self) -> None:
        """Interrupt the work. Any thread may ask."""
        with self._lock:
            self.asked = True
            for way in self._ways:
                way()

    @contextlib.contextmanager
    def ending(self, way: Callable[[], object]) -> Iterator[None]:
        """Enclose a call that `way`, called from another thread, interrupts.

        Raises Stopped where that was asked before.
        """
        with self._lock:
            if self.asked:
                raise Stopped
            self._ways.append(way)
        try:
            yield
        finally:
            with self._lock:
                self._ways.remove(way)


_current: ContextVar[Stop | None] = ContextVar("stop", default=None)


@contextlib.contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """Let `stop` end the work that this thread does in the block: it raises Stopped then.

    An operator ends before it is applied again, and the fill of a hole before its next round. Of network calls,
    onnxruntime ends between two operations, OpenVINO likewise, torch on the CPU between two layers, and an image in
    tiles between two of them. Nothing ends within a call of TensorRT, of torch on a GPU, nor of a network that
    torch.compile made: the first two take milliseconds, and the last is for comparing.
    """
    before = _current.set(stop)
    try:
        yield
    finally:
        _current.reset(before)


def current() -> Stop | None:
    """Return the Stop of this thread's work, or None."""
    return _current.get()


def check() -> None:
    """Raise Stopped where this thread's work was asked to stop."""
    stop = _current.get()
    if stop is not None and stop.asked:
        raise Stopped
