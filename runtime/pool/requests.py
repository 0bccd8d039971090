"""Requests that callers wait for, and the places that their images hold until their futures are done."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from ...engines import BusyError, FrugalError, WorkerError
from ..result import Result
from .scheduler import Moved

OnMove = Callable[[Moved], object]


PLACE = 1 << 18
"""The most pixels of an image in one place; a larger one takes several, in proportion to its memory."""
STEPS = 100
"""The most steps of PLACE pixels in one place; more take several, in proportion to their time."""


def places_of(images: int, pixels: int, steps: int, limit: int) -> int:
    """Return the places of `images` images with `steps` steps, at most `limit` for a single image.

    pixels: those that the network processes for an image in a step, the sum over its tiles.
    """
    share = max(-(-pixels // PLACE), -(-pixels * steps // (PLACE * STEPS)))
    return images * share if images > 1 else min(share, limit)


class Places:
    """The `limit` places of a pool, held until futures are done.

    An image of at most PLACE pixels and STEPS steps takes one.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._held: dict[Future[Result], int] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def taken(self) -> int:
        """Places that are held."""
        with self._changed:
            return sum(self._held.values())

    @property
    def closed(self) -> bool:
        return self._closed

    @contextlib.contextmanager
    def take(self, places: int, seconds: float) -> "Iterator[Future[Result]]":
        """Yield a future that holds `places` places until it has a result, an error, or is cancelled.

        An exception in the context frees them. `close` returns only when no context is open. seconds: the mean time
        that a place is held, for BusyError's `retry_after`. Raises BusyError where too few places are free, WorkerError
        when closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise WorkerError("the pool is closed, or closing; it takes nothing more")
            if self.taken + places > self.limit:
                raise BusyError(
                    f"the pool has {self.taken} images and takes {self.limit}; ask again later",
                    max(1.0, self.taken * seconds),
                )
            try:
                self._held[future] = places
                future.add_done_callback(self.give_back)
                yield future
            except BaseException:
                future.cancel()
                self.give_back(future)
                raise

    def close(self) -> None:
        """Refuse further requests."""
        with self._changed:
            self._closed = True

    def wait(self, timeout: float | None) -> bool:
        """Wait until all places are free, for at most `timeout` seconds (None: forever); return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout)

    def give_back(self, future: "Future[Result]") -> None:
        """Free the places of a future; do nothing the second time."""
        with self._changed:
            self._held.pop(future, None)
            self._changed.notify_all()


@dataclass(eq=False)
class Request:
    """A restoration that a caller waits for."""

    key: int
    images: int
    alone: bool
    """Whether the measurement has no batch axis, so that the result has none."""
    message: bytes
    """The packed Submit."""
    future: "Future[Result]"
    places: Places
    """The Places of which the future holds some."""
    on_move: OnMove | None
    attempts: int = 0
    """Workers that died during the request."""
    timer: asyncio.TimerHandle | None = None
    """Timer that ends the request at its deadline."""
    _claimed: bool = False

    def end(self, outcome: Result | FrugalError) -> None:
        """Set the future's outcome; do nothing where that was done, or the caller cancelled it."""
        if not self._claim():
            return
        self.places.give_back(self.future)  # first, so that a caller who then submits finds them free
        if isinstance(outcome, FrugalError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def give_up(self) -> None:
        """Notify waiters in `concurrent.futures.wait` of a cancellation; do nothing where `end` was called."""
        self._claim()

    def _claim(self) -> bool:
        """Return whether an outcome can be set: none was before, and the future is not cancelled."""
        if self._claimed:
            return False
        self._claimed = True
        return self.future.set_running_or_notify_cancel()
