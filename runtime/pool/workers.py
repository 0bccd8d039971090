"""The pool's thread: an event loop that owns the worker processes and their requests.

Other threads call `open`, `take` and `stop`, and read the properties. The rest runs in that thread, without locks, and
only coroutines wait for workers.
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
"""The most tries of a request during which workers die."""
STARTS = 3
"""The most consecutive workers that may die before they are ready."""
REST, LONGEST_REST = 1.0, 30.0
"""Seconds before the next try where no worker could be started: the first rest, and the longest. Rests double."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Workers:
    """The pool's thread and event loop, a slot for each device, and the requests in slots.

    on_report: called with each Report, in the thread.
    """

    def __init__(self, on_report: Callable[[Report], object] | None):
        self._on_report = on_report
        self.restarts = 0
        """The number of workers that died and were started again."""
        self.image_seconds = 0.0
        """Seconds of an image in network calls, a moving average."""
        self._slots: list[Slot] = []
        self._taking: list[Slot] = []
        """Slots that take requests."""
        self._calling = threading.Lock()
        self._stopped = False
        self._loop = asyncio.SelectorEventLoop()  # not the program's default kind
        self._thread = threading.Thread(target=self._loop.run_forever, name="frugal-rt-pool", daemon=True)
        self._thread.start()
        self._loop.call_soon_threadsafe(self._beat)

    def __len__(self) -> int:
        """Return the number of workers that take requests."""
        return len(self._taking)

    @property
    def facts(self) -> Ready:
        """The answer of a worker of the plan in use when it was ready."""
        facts = self._taking[0].facts
        assert facts is not None  # no slot takes requests before its worker was ready
        return facts

    @property
    def is_ready(self) -> bool:
        """Whether a worker can restore now."""
        return any(slot.answers for slot in self._taking)

    @property
    def processes(self) -> list[int]:
        """The process ids of the running workers."""
        return [link.process.pid for slot in [*self._slots] if (link := slot.link) is not None]

    def open(self, devices: Sequence[int | None], setup: Setup) -> None:
        """Start a worker for each device; when all are warm they take the requests, and earlier workers finish theirs.

        Raises what `Restorer.load` raises, and WorkerError; nothing changes then.
        """
        with self._calling:
            if self._stopped:
                raise WorkerError("the pool is closed")
            opening = asyncio.run_coroutine_threadsafe(self._open(devices, setup), self._loop)
        opening.result()

    def take(self, request: Request, expires: float | None) -> None:
        """Give a request to a worker. It fails at `expires`, a time of time.monotonic()."""
        self._loop.call_soon_threadsafe(self._take, request, expires)
        request.future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._over, request))

    def stop(self) -> None:
        """Fail the remaining requests, kill the workers and end the thread. A second caller waits for the first."""
        with self._calling:
            first, self._stopped = not self._stopped, True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop) if first else None
        if ending is not None:
            ending.result()
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # The methods below run in the thread.

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
        """Keep a worker in a slot until the slot ends.

        Where none can be started the slot's requests fail. A slot that has had a ready worker is tried again after a
        rest; its plan may be missing for a while. A slot that never had one fails.
        """
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
        """Fail a slot's requests, now and later."""
        slot.failed = True
        for request in slot.requests.values():
            request.end(why)
        slot.requests.clear()

    async def _rest(self, slot: Slot, error: FrugalError) -> None:
        """Wait before a worker is started again, or until the slot ends."""
        seconds = min(LONGEST_REST, REST * 2**slot.rests)
        slot.rests += 1
        logger.error("no worker can be started: %s; it is tried again in %g s", error, seconds)
        self._fail(slot, WorkerError(f"no worker can be started: {error}"))
        ends = self._loop.time() + seconds
        while not slot.is_over and self._loop.time() < ends:
            await asyncio.sleep(min(0.05, seconds))
        slot.deaths = min(slot.deaths, STARTS - 1)  # it has one try

    async def _live(self, slot: Slot) -> None:
        """Start a worker in a slot and serve it to its end. Raises FrugalError where another one would fail too."""
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
        """Count a worker's death as a try of the requests that may have caused it; fail those without a try left."""
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
        """Give a submitted request to a slot."""
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
        """Give a request to the slot with the fewest images, preferring slots whose worker answers."""
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
        """Handle a future that is done, by a result, an error or a cancellation."""
        request.give_up()
        if request.timer is not None:
            request.timer.cancel()
        for slot in [slot for slot in self._slots if request.key in slot.requests]:
            del slot.requests[request.key]
            if slot.link is not None and slot.link.ready is not None:
                slot.link.forget(request.key)
            self._end_if_over(slot)

    def _heard(self, slot: Slot, link: Link, message: Any) -> None:
        """Handle a worker's message. Raises the FrugalError for which a worker cannot start, now or later."""
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
    """Call a callback and log its exception, which must not affect other callers' results."""
    if callback is not None:
        try:
            callback(what)
        except Exception:
            logger.exception("a callback given to the pool failed")
