"""The worker process of a pool: an engine, a scheduler, and a socket to the pool that started it.

The engine computes in the main thread. Another thread reads the pool's messages and answers its pings; others prepare
requests.
"""

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import numpy as np

from ...engines import FrugalError, PlanError
from ...engines.plan import WEIGHTS
from ..process import socket_of
from ..restorer import Restorer
from ..sampling.loop import to_numpy
from .costs import Costs
from .messages import Cancel, Ping, Pong, Ready, Refused, Report, Setup, Submit
from .preparation import Begun, Preparation
from .scheduler import Moved, Scheduler
from .wire import Wire


def main(connection: Connection) -> None:
    """Serve the pool at the other end of a connection until the pool closes it."""
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
        preparation = Preparation(restorer, inbox)
        threading.Thread(target=_receive, args=(wire, preparation, scheduler, inbox), daemon=True).start()
        _serve(wire, inbox, scheduler)


@contextlib.contextmanager
def _ending_the_process() -> Iterator[None]:
    """End the process at the end of the block, even if other threads run; print its error, unless the pool ended."""
    status = 1
    try:
        yield
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the pool has ended
        status = 0
    except Exception:  # noqa: BLE001 (the process ends with it)
        traceback.print_exc()
    finally:
        os._exit(status)


def _load(setup: Setup) -> tuple[Restorer, Ready]:
    """Load and warm the restorer; return it and its Ready. Raises FrugalError."""
    restorer = Restorer.load(setup.plan, setup.backend, trust_engines=setup.trust_engines)
    prior = restorer.plan.manifest["prior"]["name"]
    weights = restorer.plan.manifest["members"][WEIGHTS]["sha256"]
    if setup.weights_sha256 not in (None, weights):
        raise PlanError(f"{setup.plan} now holds another prior than the one this pool began with")
    any_size = restorer.plan.stride is not None
    costs = setup.costs
    if costs is None:
        costs = Costs.measure(restorer)
    else:
        for pulls in (False, True):
            restorer._time_step(1, pulls)  # warms it up
    return restorer, Ready(restorer.engine.name, restorer.image_shape, any_size, prior, weights, costs)


def _serve(wire: Wire, inbox: "SimpleQueue[Any]", scheduler: Scheduler) -> NoReturn:
    """Make calls while there are rows, and handle the inbox between them."""
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
                case Begun(key, restorer, rows) if key in asked:  # and is not cancelled meanwhile
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


def _receive(wire: Wire, preparation: Preparation, scheduler: Scheduler, inbox: "SimpleQueue[Any]") -> None:
    """Pass on the pool's messages, answer its pings, and end the process when it closes the socket."""
    with _ending_the_process():
        while True:
            message = wire.receive()
            if isinstance(message, Ping):
                wire.send(Pong(scheduler.underway, preparation.running))
                continue
            if isinstance(message, Cancel):
                scheduler.give_up(message.key)  # at once; `cancel` follows between two calls
            inbox.put(message)
            if isinstance(message, Submit):
                preparation.begin(message)
            elif isinstance(message, Cancel):
                preparation.cancel(message.key)
