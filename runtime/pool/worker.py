"""The process that restores for a pool: one engine, one scheduler, and a connection to the pool that started it.

The engine computes in the main thread; another one reads requests and prepares their operators. What crosses the
connection is pickled by one of our own processes for the other, and by nobody else.
"""

import contextlib
import os
import pickle
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from ...engines import FrugalError, PlanError
from ...engines.plan import WEIGHTS
from ..operators import Operator
from ..restorer import Restorer
from ..sampling.loop import to_numpy
from ..sampling.restoration import Restoration
from .costs import Costs
from .messages import Cancel, Ready, Refused, Report, Setup, Submit
from .scheduler import Moved, Scheduler

OPERATORS_KEPT = 32
"""Operators that requests may share: one decomposition, and one evaluation for all their rows of a call."""


@dataclass(frozen=True)
class _Begun:
    """A request that can begin."""

    key: int
    restorer: Restorer
    rows: Sequence[Restoration]


def main(connection: Connection) -> None:
    """Serve the pool at the other end of a connection until it closes it."""
    setup: Setup = connection.recv()
    try:
        restorer = Restorer.load(setup.plan, setup.backend, trust_engines=setup.trust_engines)
        prior = restorer.plan.manifest["prior"]["name"]
        weights = restorer.plan.manifest["members"][WEIGHTS]["sha256"]
        if setup.weights_sha256 not in (None, weights):
            raise PlanError(f"{setup.plan} now holds another prior than the one this pool began with")
        costs = Costs.measure(restorer)
    except FrugalError as error:
        connection.send(error)
        return
    connection.send(Ready(restorer.engine.name, restorer.image_shape, prior, weights, costs))
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, restorer, inbox), daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the pool is gone
        _serve(connection, inbox, Scheduler(costs))
    os._exit(0)  # no request is waited for: nobody would read its answer


def _serve(connection: Connection, inbox: "SimpleQueue[Any]", scheduler: Scheduler) -> None:
    """Calls while there is anything to do; between any two of them, what has come in."""
    asked: dict[int, Submit] = {}
    began = time.perf_counter()
    while True:
        while True:
            idle = not len(scheduler)
            try:
                message = inbox.get(block=idle)
            except Empty:
                break
            if idle:
                began = time.perf_counter()  # waiting is not work
            match message:
                case None:
                    return
                case Submit(key):
                    asked[key] = message
                case Cancel(key):
                    asked.pop(key, None)
                    scheduler.cancel(key)
                case Refused(key, _) if asked.pop(key, None) is not None:
                    connection.send(message)
                case _Begun(key, restorer, rows) if key in asked:  # and is not cancelled meanwhile
                    scheduler.add(key, restorer, rows, asked[key].priority)
        call = scheduler.step()
        moved = tuple(replace(one, x0hat=_preview(one, asked[one.key])) for one in call.moved)
        for key in (*call.finished, *call.failed):
            asked.pop(key, None)
        now = time.perf_counter()
        own, began = now - began - call.seconds, now  # sending this counts for the next
        connection.send(
            Report(
                phase=call.phase,
                pulls=call.pulls,
                rows=call.rows,
                room=call.room,
                seconds=call.seconds,
                own=own,
                active=len(scheduler),
                moved=moved,
                finished=dict(call.finished),
                failed=dict(call.failed),
            )
        )


def _preview(moved: Moved, asked: Submit) -> np.ndarray | None:
    return to_numpy(moved.x0hat) if asked.previews and moved.x0hat is not None else None


def _receive(connection: Connection, restorer: Restorer, inbox: "SimpleQueue[Any]") -> None:
    """Puts what the pool sends into the inbox, and what becomes of requests there; None at the end."""
    tiled = lru_cache(OPERATORS_KEPT)(restorer.tiled)

    def begin(submit: Submit) -> None:
        try:
            operator = _operator(submit.operator, submit.asked.switch == "never")
            size = operator.image_shape[1:]
            mine = restorer if size == restorer.image_shape[1:] else tiled(*size)
            inbox.put(_Begun(submit.key, mine, mine.start(submit.y, operator, submit.asked)))
        except FrugalError as error:
            inbox.put(Refused(submit.key, error))
        except Exception as error:  # noqa: BLE001 (a caller's own operator may raise anything)
            inbox.put(Refused(submit.key, FrugalError(f"the request could not begin: {error!r}")))

    with ThreadPoolExecutor(2, "frugal-rt-prepare") as preparing:
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                inbox.put(None)
                return
            inbox.put(message)
            if isinstance(message, Submit):
                preparing.submit(begin, message)


@lru_cache(OPERATORS_KEPT)
def _operator(pickled: bytes, gradients_only: bool) -> Operator:
    """The operator, the same object for the same bytes, with what its phases need computed."""
    operator: Operator = pickle.loads(pickled)  # noqa: S301 (the pool pickled it)
    if not gradients_only:
        operator.prepare()
    return operator
