"""The process that restores for a pool: one engine, one scheduler, and a socket to the pool that started it.

The engine computes in the main thread. Another one reads what the pool sends and answers its pings meanwhile; two more
prepare the requests' operators.
"""

import contextlib
import os
import pickle
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import numpy as np

from ...engines import FrugalError, PlanError
from ...engines.plan import WEIGHTS
from ..operators import Operator
from ..process import socket_of
from ..restorer import Restorer
from ..sampling.loop import to_numpy
from ..sampling.restoration import Restoration
from .costs import Costs
from .messages import Cancel, Ping, Pong, Ready, Refused, Report, Setup, Submit
from .scheduler import Moved, Scheduler
from .wire import Wire

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
    wire = Wire(socket_of(connection))
    with _ending_the_process():
        setup: Setup = wire.receive()
        try:
            restorer, ready = _load(setup)
        except FrugalError as error:
            wire.send(error)
            return
        wire.send(ready)
        inbox: SimpleQueue[Any] = SimpleQueue()
        scheduler = Scheduler(ready.costs)
        threading.Thread(target=_receive, args=(wire, restorer, scheduler, inbox), daemon=True).start()
        _serve(wire, inbox, scheduler)


@contextlib.contextmanager
def _ending_the_process() -> Iterator[None]:
    """End the process with what runs in it, whatever its other threads are at; print its error but the pool's end."""
    status = 1
    try:
        yield
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody would read an answer
        status = 0
    except Exception:  # noqa: BLE001 (the process ends with it)
        traceback.print_exc()
    finally:
        os._exit(status)


def _load(setup: Setup) -> tuple[Restorer, Ready]:
    """The restorer, warm, and what there is to say of it. Raises FrugalError."""
    restorer = Restorer.load(setup.plan, setup.backend, trust_engines=setup.trust_engines)
    prior = restorer.plan.manifest["prior"]["name"]
    weights = restorer.plan.manifest["members"][WEIGHTS]["sha256"]
    if setup.weights_sha256 not in (None, weights):
        raise PlanError(f"{setup.plan} now holds another prior than the one this pool began with")
    return restorer, Ready(restorer.engine.name, restorer.image_shape, prior, weights, Costs.measure(restorer))


def _serve(wire: Wire, inbox: "SimpleQueue[Any]", scheduler: Scheduler) -> NoReturn:
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
                case Submit(key):
                    asked[key] = message
                case Cancel(key):
                    asked.pop(key, None)
                    scheduler.cancel(key)
                case Refused(key, _) if asked.pop(key, None) is not None:
                    wire.send(message)
                case _Begun(key, restorer, rows) if key in asked:  # and is not cancelled meanwhile
                    scheduler.add(key, restorer, rows, asked[key].priority)
        call = scheduler.step()
        moved = tuple(replace(one, x0hat=_preview(one, asked[one.key])) for one in call.moved)
        for key in (*call.finished, *call.failed):
            asked.pop(key, None)
        now = time.perf_counter()
        own, began = now - began - call.seconds, now  # sending this counts for the next
        wire.send(
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


def _receive(wire: Wire, restorer: Restorer, scheduler: Scheduler, inbox: "SimpleQueue[Any]") -> None:
    """Put what the pool sends into the inbox, and what becomes of requests there; answer pings; end with the pool."""
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

    preparing = ThreadPoolExecutor(2, "frugal-rt-prepare")
    with _ending_the_process():
        while True:
            message = wire.receive()
            if isinstance(message, Ping):
                wire.send(Pong(scheduler.underway))
                continue
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
