"""Preparation of requests before the scheduler gets them: their operators are prepared and their rows made."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

from ...engines import FrugalError
from ...engines.stopping import Stop, stoppable
from ..restorer import Restorer
from ..sampling.restoration import Restoration
from .kept import Kept
from .messages import Refused, Submit

THREADS = 2
SIZES_KEPT = 32
"""Image sizes, other than the prior's, whose restorers are kept for further requests."""


@dataclass(frozen=True)
class Begun:
    """A prepared request."""

    key: int
    restorer: Restorer
    rows: Sequence[Restoration]


class Preparation:
    """Threads that prepare requests, and put a Begun or a Refused for each into `inbox`.

    A preparation that is given up ends before the next application of its operator, or the next round of a fill. A
    longer piece, such as the decomposition of a large matrix, can only be ended with its process. So the pool is told
    which requests are in preparation, and kills a process that continues with one after it was given up.
    """

    def __init__(self, restorer: Restorer, inbox: "SimpleQueue[Any]"):
        self._restorer, self._inbox = restorer, inbox
        self._operators = Kept()
        self._at = lru_cache(SIZES_KEPT)(restorer.at)
        self._threads = ThreadPoolExecutor(THREADS, "frugal-rt-prepare")
        self._pending: dict[int, tuple[Future[None], Stop]] = {}

    @property
    def running(self) -> tuple[int, ...]:
        """The keys of the requests in preparation."""
        return tuple(key for key, (future, _) in list(self._pending.items()) if future.running())

    def begin(self, submit: Submit) -> None:
        """Prepare a request when a thread is free."""
        stop = Stop()
        future = self._threads.submit(self._begin, submit, stop)
        self._pending[submit.key] = future, stop
        future.add_done_callback(lambda future: self._pending.pop(submit.key))

    def cancel(self, key: int) -> None:
        """Do not prepare a request, or interrupt its preparation; do nothing where it is over."""
        pending = self._pending.get(key)
        if pending is not None:
            future, stop = pending
            future.cancel()
            stop.ask()

    def _begin(self, submit: Submit, stop: Stop) -> None:
        try:
            with stoppable(stop):
                operator = self._operators.get(submit.operator, submit.asked.method != "dps")
                size = operator.image_shape[1:]
                mine = self._restorer if size == self._restorer.image_shape[1:] else self._at(*size)
                self._inbox.put(Begun(submit.key, mine, mine._begin(submit.y, operator, submit.asked)))
        except FrugalError as error:
            self._inbox.put(Refused(submit.key, error))
        except BaseException as error:  # noqa: BLE001 (a caller's own operator may raise anything)
            self._inbox.put(Refused(submit.key, FrugalError(f"the request could not begin: {error!r}")))
