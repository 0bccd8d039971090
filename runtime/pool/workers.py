"""The pool's thread: an event loop that owns the worker processes, and the requests that each of them has.

Other threads call `open`, `take` and `stop`, and read the properties; the rest runs in that thread, so nothing is
locked, and only coroutines wait for workers.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ...engines import DeadlineError, FrugalError, WorkerError, nvidia
from ...engines.machine import THREADS, cores
from ..process import launch, overwritten
from .link import Link
from .messages import Pong, Ready, Refused, Report, Setup
from .pulse import BEAT, LONGEST, START
from .requests import Request
from .slots import Slot
from .wire import packed

ATTEMPTS = 2
"""Tries that a request has when the worker dies under it."""
STARTS = 3
"""Workers in a row that may die before they are ready."""
REST, LONGEST_REST = 1.0, 30.0
"""Seconds after which a worker is tried again where none could be started, twice as long each time."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Workers:
    """The thread, its event loop, a slot for each device, and the requests in them.

    on_report: called with each Report, in the thread.
    """

    def __init__(self, on_report: Callable[[Report], object] | None):
        self._on_report = on_report
        self.restarts = 0
        """Workers that were started again because they died."""
        self.image_seconds = 0.0
        """Time of an image in network calls, averaged over those done lately."""
        self._slots: list[Slot] = []
        self._taking: list[Slot] = []
        """Slots that requests go to."""
        self._calling = threading.Lock()
        self._stopped = False
        self._loop = asyncio.SelectorEventLoop()  # whatever kind a program makes its own
        self._thread = threading.Thread(target=self._loop.run_forever, name="frugal-rt-pool", daemon=True)
        self._thread.start()
        self._loop.call_soon_threadsafe(self._beat)

    def __len__(self) -> int:
        """Workers that take requests."""
        return len(self._taking)

    @property
    def facts(self) -> Ready:
        """The answer of a worker of the plan in use when it was ready."""
        facts = self._taking[0].facts
        assert facts is not None  # no slot takes requests before its worker was ready
        return facts

    @property
    def is_ready(self) -> bool:
        """Whether some worker can restore now."""
        return any(slot.answers for slot in self._taking)

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return [link.process.pid for slot in [*self._slots] if (link := slot.link) is not None]

    def open(self, devices: Sequence[int | None], setup: Setup) -> None:
        """Start a worker for each device, and give requests to them once all are warm; those before finish theirs.

        Raises what `Restorer.load` does, and WorkerError; everything stays as it was then.
        """
        with self._calling:
            if self._stopped:
                raise WorkerError("the pool is closed")
            opening = asyncio.run_coroutine_threadsafe(self._open(devices, setup), self._loop)
        opening.result()

    def take(self, request: Request, expires: float | None) -> None:
        """Give a request to a worker, until `expires`, of time.monotonic()."""
        self._loop.call_soon_threadsafe(self._take, request, expires)
        request.future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._over, request))

    def stop(self) -> None:
        """Fail what is left, kill the workers, end the thread; where another caller does, wait until that is done."""
        with self._calling:
            first, self._stopped = not self._stopped, True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop) if first else None
        if ending is not None:
            ending.result()
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What follows runs in the thread.

    async def _open(self, devices: Sequence[int | None], setup: Setup) -> None:
        threads = str(max(1, cores() // len(devices)))
        seen = [None if device is None else nvidia.visible(device) for device in devices]
        slots = [
            Slot(setup, {} if one is None else {nvidia.VISIBLE: one, THREADS: threads}, self._loop.create_future())
            for one in seen
        ]
        self._slots += slots
        lives = [self._loop.create_task(self._keep(slot)) for slot in slots]
        try:
            await asyncio.gather(*(slot.started for slot in slots))
        except BaseException:
            self._retire(slots)
            await asyncio.wait(lives)
            raise
        old, self._taking = self._taking, slots
        self._retire(old)

    async def _end(self) -> None:
        for slot in self._slots:
            for request in slot.requests.values():
                request.end(WorkerError("the pool was closed before this restoration was done"))
            slot.requests.clear()
        self._retire(self._slots)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _keep(self, slot: Slot) -> None:
        """Keep a worker in a slot until the slot is over. Where none can be started its requests fail; one that was
        ready before, whose plan is gone, say, is tried again after a rest, and one that never was is not."""
        why: FrugalError = WorkerError("the pool was closed before this worker was ready")
        try:
            while not slot.is_over:
                try:
                    await self._live(slot)
                except FrugalError as error:
                    if slot.facts is None:
                        raise
                    await self._rest(slot, error)
        except FrugalError as error:
            why = error
        except Exception as error:
            logger.exception("a slot of the pool failed")
            why = WorkerError(f"no worker can be started: {error!r}")
        self._fail(slot, why)
        self._slots.remove(slot)
        if not slot.started.done():
            slot.started.set_exception(why)

    def _fail(self, slot: Slot, why: FrugalError) -> None:
        """Fail a slot's requests, and those to come."""
        slot.failed = True
        for request in slot.requests.values():
            request.end(why)
        slot.requests.clear()

    async def _rest(self, slot: Slot, error: FrugalError) -> None:
        """Wait before a worker is tried again, or until the slot is over."""
        seconds = min(LONGEST_REST, REST * 2**slot.rests)
        slot.rests += 1
        logger.error("no worker can be started: %s; it is tried again in %g s", error, seconds)
        self._fail(slot, WorkerError(f"no worker can be started: {error}"))
        ends = self._loop.time() + seconds
        while not slot.is_over and self._loop.time() < ends:
            await asyncio.sleep(min(0.05, seconds))
        slot.deaths = min(slot.deaths, STARTS - 1)  # it has one try

    async def _live(self, slot: Slot) -> None:
        """Start a worker in a slot and see it to its end. Raises FrugalError where another one is no use."""
        link = slot.link = Link(*launch(f"{__package__}.worker", slot.environment), slot.patience)
        try:
            link.send(packed(slot.setup))
            while (message := await link.receive()) is not None:
                self._heard(slot, link, message)
        except FrugalError:
            raise
        except Exception:
            logger.exception("a worker sent what cannot be taken")
        finally:
            slot.link = None
            status = await link.end()
        if slot.is_over:
            return
        how = f"a worker ended with {overwritten(status)}" if link.hang is None else link.hang.why
        if link.ready is not None:
            self._blame(slot, link)
        else:
            slot.deaths += 1
            if slot.deaths >= STARTS or slot.facts is None:
                raise WorkerError(f"a worker died before it was ready; see what it printed: {how}")
        self.restarts += 1
        logger.warning("%s and is started again, with %d requests", how, len(slot.requests))

    def _blame(self, slot: Slot, link: Link) -> None:
        """Count a worker's end as an attempt of the requests that it may be due to; fail those that had all theirs."""
        for key, request in [*slot.requests.items()]:
            if link.took(key) and (link.hang is None or link.hang.keys is None or key in link.hang.keys):
                request.attempts += 1
                if request.attempts >= ATTEMPTS:
                    del slot.requests[key]
                    request.end(WorkerError("the worker died over this restoration, and again when it was retried"))

    def _beat(self) -> None:
        self._loop.call_later(BEAT, self._beat)
        for slot in self._slots:
            if slot.link is not None:
                slot.link.beat()

    def _take(self, request: Request, expires: float | None) -> None:
        """Give a request that was submitted to a slot."""
        if request.future.done():
            return
        try:
            if expires is not None:
                request.timer = self._loop.call_later(max(0.0, expires - time.monotonic()), self._expire, request)
            self._assign(request)
        except Exception as error:
            request.end(WorkerError(f"the pool failed over this restoration: {error!r}"))
            raise

    def _assign(self, request: Request) -> None:
        """Give a request to the slot that has the fewest images, of those whose worker answers if one does."""
        slot = min(self._taking, key=lambda slot: (slot.failed, slot.deaths, not slot.answers, slot.images))
        if slot.failed:
            request.end(WorkerError("no worker can be started; see what it printed"))
            return
        slot.requests[request.key] = request
        if slot.link is not None and slot.link.ready is not None:
            slot.link.send(request.message, request.key)

    def _expire(self, request: Request) -> None:
        request.end(DeadlineError("the restoration was not done by its deadline and was stopped"))

    def _over(self, request: Request) -> None:
        """A future is done: by its result, an error, or because its caller cancelled it."""
        request.give_up()
        if request.timer is not None:
            request.timer.cancel()
        for slot in [slot for slot in self._slots if request.key in slot.requests]:
            del slot.requests[request.key]
            if slot.link is not None and slot.link.ready is not None:
                slot.link.forget(request.key)
            self._end_if_over(slot)

    def _heard(self, slot: Slot, link: Link, message: Any) -> None:
        """Take what a worker says. Raises the FrugalError for which it cannot start, and would not the next time."""
        match message:
            case Ready():
                if slot.facts is None:
                    slot.patience = max(START, LONGEST * link.age / BEAT)
                link.ready, slot.facts, slot.deaths = message, message, 0
                slot.failed, slot.rests = False, 0
                link.pulse.ready()
                slot.setup = replace(slot.setup, weights_sha256=message.weights_sha256, costs=message.costs)
                if not slot.started.done():
                    slot.started.set_result(None)
                for request in slot.requests.values():
                    link.send(request.message, request.key)
            case FrugalError():
                raise message
            case Report():
                self._reported(slot, message)
            case Refused(key, why) if key in slot.requests:
                slot.requests.pop(key).end(why)
            case Pong():
                hang = link.pulse.heard(message, slot.requests)
                if hang is not None:
                    link.kill(hang)
        self._end_if_over(slot)

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
                request.end(replace(result, image=result.image[0]) if request.alone else result)

    def _retire(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            slot.retired = True
            self._end_if_over(slot)

    def _end_if_over(self, slot: Slot) -> None:
        if slot.is_over and slot.link is not None:
            slot.link.kill()


def _tell(callback: Callable[[T], object] | None, what: T) -> None:
    """A caller's callback that fails must not take other callers' results with it."""
    if callback is not None:
        try:
            callback(what)
        except Exception:
            logger.exception("a callback given to the pool failed")
