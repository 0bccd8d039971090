"""Restorations that callers wait for, and the places that their images take until their futures are done."""

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
"""Pixels of an image that one place is for: a larger one takes several, as memory goes by pixels."""
STEPS = 100
"""Steps of so many pixels that one place is for: one of more takes several, as time goes by both."""


def places_of(images: int, pixels: int, steps: int, limit: int) -> int:
    """The places that so many images take, of `pixels` that the network sees, tiles counted one by one, in each of
    their `steps`; no more than there are for one that needs them all."""
    share = max(-(-pixels // PLACE), -(-pixels * steps // (PLACE * STEPS)))
    return images * share if images > 1 else min(share, limit)


class Places:
    """The places of a pool, one for an image of up to PLACE pixels in up to STEPS steps: `limit` of them, held until
    futures are done."""

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
        """Make a future that holds so many places until it is done: by a result, an error, or its cancellation.

        What is raised in the context gives them back; nothing is in a context when `close` has returned. seconds: the
        time that a place is held on average, for BusyError's `retry_after`. Raises BusyError where too few are left,
        WorkerError when closed.
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
        """Let nothing more be taken."""
        with self._changed:
            self._closed = True

    def wait(self, timeout: float | None) -> bool:
        """Whether all are free, waited for `timeout` seconds at most; None is without end."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout)

    def give_back(self, future: "Future[Result]") -> None:
        """Free the places of a future. Nothing happens where that was done."""
        with self._changed:
            self._held.pop(future, None)
            self._changed.notify_all()


@dataclass(eq=False)
class Request:
    """A restoration that a caller waits for."""

    key: int
    images: int
    alone: bool
    """Whether its measurement has no batch axis, and its result shall have none."""
    message: bytes
    """The packed Submit."""
    future: "Future[Result]"
    places: Places
    """Where the future holds its places."""
    on_move: OnMove | None
    attempts: int = 0
    """Workers that died over it."""
    timer: asyncio.TimerHandle | None = None
    """Ends it at its deadline."""
    _claimed: bool = False

    def end(self, outcome: Result | FrugalError) -> None:
        """Tell the caller what became of it; nothing where that was done, or the caller gave the restoration up."""
        if not self._claim():
            return
        self.places.give_back(self.future)  # before who waits for it hears: who then submits finds them free
        if isinstance(outcome, FrugalError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def give_up(self) -> None:
        """Tell those in `concurrent.futures.wait` that the caller cancelled it; nothing where `end` was called."""
        self._claim()

    def _claim(self) -> bool:
        """Whether an outcome can be set: it was not before, and the future is not cancelled."""
        if self._claimed:
            return False
        self._claimed = True
        return self.future.set_running_or_notify_cancel()
