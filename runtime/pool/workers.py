"""The pool's thread: an event loop that owns the worker processes, and the requests that each of them has.

Other threads call `open`, `take` and `stop`, and read the properties; the rest runs in that thread: nothing is locked.
"""

import asyncio
import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ...engines import DeadlineError, FrugalError, WorkerError, nvidia
from ...engines.machine import THREADS, cores
from ..process import how_it_ended, launch
from .messages import Cancel, Ready, Refused, Report, Setup
from .requests import Request

ATTEMPTS = 2
"""How often a request is tried when the worker dies under it."""
STARTS = 3
"""How often in a row a worker may die before it is ready."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class Slot:
    """A place for a worker process, started again in it when it dies: the slot keeps the plan and the requests."""

    setup: Setup
    environment: Mapping[str, str]
    """Of its process besides the pool's: the one CUDA device that it sees."""
    requests: dict[int, Request] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    connection: Connection | None = None
    ready: Ready | None = None
    facts: Ready | None = None
    """What it said when it was last ready."""
    started: "asyncio.Future[Ready] | None" = None
    deaths: int = 0
    """In a row, before it was ready."""
    retired: bool = False
    """It takes no more requests, and goes when those it has are done."""

    @property
    def images(self) -> int:
        return sum(request.images for request in self.requests.values())


class Workers:
    """The thread, its event loop, a slot for each device, and the requests in them.

    on_report: called with each Report, in the thread.
    """

    def __init__(self, on_report: Callable[[Report], object] | None):
        self._on_report = on_report
        self.restarts = 0
        """Workers that were started again because they died."""
        self.image_seconds = 0.0
        """Of an image in network calls, averaged over those done lately."""
        self._taking: list[Slot] = []
        """Slots that requests go to."""
        self._leaving: list[Slot] = []
        self._loop = asyncio.SelectorEventLoop()  # a program's own, uvloop, would make the connections non-blocking
        self._thread = threading.Thread(target=self._loop.run_forever, name="frugal-rt-pool", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Workers that take requests."""
        return len(self._taking)

    @property
    def facts(self) -> Ready:
        """What a worker of the plan in use said of itself."""
        facts = self._taking[0].facts
        assert facts is not None  # no slot takes requests before its worker was ready
        return facts

    @property
    def is_ready(self) -> bool:
        """Whether some worker can restore now."""
        return any(slot.ready for slot in self._taking)

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return [slot.process.pid for slot in (*self._taking, *self._leaving) if slot.process is not None]

    def open(self, devices: Sequence[int | None], setup: Setup) -> None:
        """Start a worker for each device, and give requests to them once all are warm; those before finish theirs.

        Raises what `Restorer.load` does; everything stays as it was then.
        """

        async def go_over() -> None:
            new = await self._begin(devices, setup)
            old, self._taking = self._taking, new
            self._leaving += old
            for slot in old:
                slot.retired = True
                self._retire_if_done(slot)

        self._call(go_over())

    def take(self, request: Request, expires: float | None) -> None:
        """Give a request to a worker, until `expires`, of time.monotonic()."""
        self._loop.call_soon_threadsafe(self._take, request, expires)
        request.future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._over, request))

    def stop(self) -> None:
        """Fail what is left, kill the workers, end the thread. Nothing happens where that was done."""
        if not self._loop.is_running():
            return

        async def end() -> None:
            for slot in (*self._taking, *self._leaving):
                slot.retired = True
                for request in list(slot.requests.values()):
                    request.end(WorkerError("the pool was closed before this restoration was done"))
                slot.requests.clear()
                self._bury(slot)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the thread, from another one."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # What follows runs in the thread.

    async def _begin(self, devices: Sequence[int | None], setup: Setup) -> list[Slot]:
        threads = str(max(1, cores() // len(devices)))
        slots = [
            Slot(setup, {} if device is None else {nvidia.VISIBLE: nvidia.visible(device), THREADS: threads})
            for device in devices
        ]
        try:
            await asyncio.gather(*map(self._launch, slots))
        except BaseException:
            for slot in slots:
                slot.retired = True
                self._bury(slot)
            raise
        return slots

    def _launch(self, slot: Slot) -> "asyncio.Future[Ready]":
        """Start a worker in a slot; the future is done when it is warm."""
        slot.process, slot.connection = launch(f"{__package__}.worker", slot.environment)
        slot.ready, slot.started = None, self._loop.create_future()
        self._loop.add_reader(slot.connection.fileno(), self._heard, slot)
        slot.connection.send(slot.setup)
        return slot.started

    def _take(self, request: Request, expires: float | None) -> None:
        """A request that was submitted."""
        if request.future.done():
            return
        if expires is not None:
            request.timer = self._loop.call_later(max(0.0, expires - time.monotonic()), self._expire, request)
        self._assign(request)

    def _assign(self, request: Request) -> None:
        """Give a request to the slot that has the fewest images."""
        request.slot = min(self._taking, key=lambda slot: (slot.deaths, slot.images))
        request.slot.requests[request.submit.key] = request
        if request.slot.deaths >= STARTS:
            request.end(WorkerError("no worker can be started; see what it printed"))
        elif request.slot.ready is not None:
            self._send(request.slot, request.submit)

    def _send(self, slot: Slot, message: object) -> None:
        with contextlib.suppress(OSError):  # it has died: `_heard` is about to see it
            if slot.connection is not None:
                slot.connection.send(message)

    def _expire(self, request: Request) -> None:
        request.end(DeadlineError("the restoration was not done by its deadline and was stopped"))

    def _over(self, request: Request) -> None:
        """A future is done: by its result, an error, or because its caller cancelled it."""
        request.give_up()
        if request.timer is not None:
            request.timer.cancel()
        slot = request.slot
        if slot is not None and slot.requests.pop(request.submit.key, None) is not None:
            self._send(slot, Cancel(request.submit.key))
            self._retire_if_done(slot)

    def _heard(self, slot: Slot) -> None:
        """A worker has something to say, or is gone."""
        assert slot.connection is not None
        try:
            message = slot.connection.recv()
        except (EOFError, OSError):
            self._died(slot)
            return
        match message:
            case Ready():
                slot.ready, slot.facts, slot.deaths = message, message, 0
                slot.setup = replace(slot.setup, weights_sha256=message.weights_sha256)
                if slot.started is not None and not slot.started.done():
                    slot.started.set_result(message)
                for request in slot.requests.values():
                    self._send(slot, request.submit)
            case FrugalError():  # it cannot start, and will not the next time
                slot.deaths = STARTS
                if slot.started is not None and not slot.started.done():
                    slot.started.set_exception(message)
                for request in list(slot.requests.values()):
                    request.end(message)
            case Report():
                self._reported(slot, message)
            case Refused(key, why) if key in slot.requests:
                slot.requests.pop(key).end(why)
        self._retire_if_done(slot)

    def _reported(self, slot: Slot, report: Report) -> None:
        _tell(self._on_report, report)
        for moved in report.moved:
            if moved.key in slot.requests:
                _tell(slot.requests[moved.key].on_move, moved)
        for key, why in report.failed.items():
            if key in slot.requests:
                slot.requests.pop(key).end(why)
        for key, result in report.finished.items():
            if key in slot.requests:
                request = slot.requests.pop(key)
                seconds = sum(result.seconds.values()) / request.images
                self.image_seconds += (seconds - self.image_seconds) / 8
                if request.submit.y.ndim == 3:
                    result = replace(result, image=result.image[0])
                request.end(result)

    def _died(self, slot: Slot) -> None:
        """Its process is gone: start another, and try its requests again, or fail those that were tried before."""
        was_ready = slot.ready is not None
        status = how_it_ended(slot.process)
        self._bury(slot)
        slot.deaths += not was_ready
        if slot.deaths >= STARTS or (not was_ready and slot.started is not None and slot not in self._taking):
            why: FrugalError = WorkerError("a worker died before it was ready; see what it printed")
            logger.error("a worker ended with %s before it was ready, and is not started again", status)
            if slot.started is not None and not slot.started.done():
                slot.started.set_exception(why)
            for request in list(slot.requests.values()):
                request.end(why)
            return
        for request in list(slot.requests.values()):
            request.attempts += was_ready
            if request.attempts >= ATTEMPTS:
                request.end(WorkerError("the worker died over this restoration, and again when it was retried"))
        if not slot.retired or slot.requests:
            self.restarts += 1
            logger.warning("a worker ended with %s and is started again, with %d requests", status, len(slot.requests))
            self._launch(slot).add_done_callback(lambda started: started.exception())  # heard where it is needed

    def _retire_if_done(self, slot: Slot) -> None:
        if slot.retired and not slot.requests and slot.process is not None:
            self._bury(slot)
            self._leaving = [one for one in self._leaving if one is not slot]

    def _bury(self, slot: Slot) -> None:
        """End a slot's process, if it has not ended, and let go of it."""
        if slot.connection is not None:
            self._loop.remove_reader(slot.connection.fileno())
            slot.connection.close()
        if slot.process is not None:
            slot.process.kill()
            slot.process.wait()
        slot.connection = slot.process = slot.ready = None


def _tell(callback: Callable[[T], object] | None, what: T) -> None:
    """A caller's callback that fails must not take other callers' results with it."""
    if callback is not None:
        try:
            callback(what)
        except Exception:
            logger.exception("a callback given to the pool failed")
