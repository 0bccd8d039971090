"""Restorations for many callers at once: a bounded queue before worker processes that share their network calls.

Everything but `submit` happens in one thread, the pool's event loop, so nothing here is locked but the count of images.
"""

import asyncio
import atexit
import itertools
import logging
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np

from ...engines import BusyError, DeadlineError, FrugalError, InputError, WorkerError, nvidia
from ...engines.machine import THREADS, cores
from ..operators import Operator
from ..process import how_it_ended, launch
from ..restorer import Result
from ..sampling.guidance import Guidance
from .costs import Costs
from .messages import Cancel, Ready, Refused, Report, Setup, Submit
from .scheduler import Moved

LIMIT = 64
"""Images that a pool takes at once, those in work and those that wait."""
ATTEMPTS = 2
"""How often a request is tried when the worker dies under it."""
STARTS = 3
"""How often in a row a worker may die before it is ready."""
SETTINGS = {field.name for field in fields(Guidance)}

logger = logging.getLogger(__name__)
T = TypeVar("T")
OnMove = Callable[[Moved], object]


@dataclass(eq=False)
class _Job:
    submit: Submit
    future: "Future[Result]"
    on_move: OnMove | None
    worker: "_Worker | None" = None
    attempts: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def images(self) -> int:
        return images_of(self.submit.y)


@dataclass(eq=False)
class _Worker:
    """A worker process as the pool sees it. Restarted in place, so that it keeps its requests and its plan."""

    setup: Setup
    environment: Mapping[str, str]
    """What it has besides the pool's: the one CUDA device that it sees."""
    jobs: dict[int, _Job] = field(default_factory=dict)
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
        return sum(job.images for job in self.jobs.values())


class Pool:
    """`Restorer.restore` for many callers at once, by one worker process for each device.

        with Pool("celeba.plan") as pool:
            future = pool.submit(y, operator, sigma=0.05)     # from any thread
            result = await pool.restore(y, operator)          # from a coroutine

    Requests at different steps, of different operators and settings, share network calls; a result is what it would be
    alone, bit for bit with onnxruntime on the CPU. A worker that dies is started again, and its requests with it.

    plan: the path of a plan. backend, trust_engines: as of `Restorer.load`. devices: CUDA devices, a worker each;
    (None,) is one worker that chooses. limit: images that are taken at once; beyond it `submit` raises BusyError.
    on_report: called with what each network call did, in the pool's thread. Raises what `Restorer.load` does, once the
    workers are warm.
    """

    def __init__(
        self,
        plan: str | os.PathLike[str],
        backend: str = "auto",
        *,
        devices: Sequence[int | None] = (None,),
        limit: int = LIMIT,
        trust_engines: bool = False,
        on_report: Callable[[Report], object] | None = None,
    ):
        self._trust = trust_engines
        self._plan, self._backend, self._devices, self._limit = plan, backend, tuple(devices), limit
        self._on_report = on_report
        self._keys = itertools.count()
        self._lock = threading.Lock()
        self._images = 0
        self._closing = False
        self.restarts = 0
        """Workers that were started again because they died."""
        self._image_seconds = 0.0
        """Of an image in network calls, averaged over those done lately."""
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []
        self._empty = threading.Condition(self._lock)
        self._loop = asyncio.SelectorEventLoop()  # a program's own, uvloop, would make the connections non-blocking
        self._thread = threading.Thread(target=self._loop.run_forever, name="frugal-rt-pool", daemon=True)
        self._thread.start()
        try:
            self._workers = self._call(self._begin(plan, backend))
        except BaseException:
            self._stop()
            raise
        atexit.register(self.close, drain=False)

    @property
    def _facts(self) -> Ready:
        facts = self._workers[0].facts
        assert facts is not None  # no pool is made, or swapped, before its workers are ready
        return facts

    @property
    def plan(self) -> str:
        """The path of the plan that it restores with."""
        return os.fspath(self._plan)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the prior's images."""
        return self._facts.image_shape

    @property
    def prior(self) -> str:
        """The prior's name."""
        return self._facts.prior

    @property
    def backend(self) -> str:
        """What runs, for people."""
        return self._facts.backend

    @property
    def costs(self) -> Costs:
        """What steps cost by the size of their batch, as a worker measured it when it started."""
        return self._facts.costs

    @property
    def images(self) -> int:
        """Images taken and not done."""
        return self._images

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def is_ready(self) -> bool:
        """Whether some worker can restore now, and requests are taken."""
        return not self._closing and any(worker.ready for worker in self._workers)

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return [w.process.pid for w in (*self._workers, *self._leaving) if w.process is not None]

    def submit(
        self,
        y: Any,
        operator: Operator,
        *,
        priority: int = 0,
        deadline: float | None = None,
        on_move: OnMove | None = None,
        previews: bool = False,
        **settings: Any,
    ) -> "Future[Result]":
        """A future of what `Restorer.restore` would give; cancelling it stops the restoration at the next step.

        y, operator and settings (sigma, steps, switch, seed, ...): as `Restorer.restore` takes them, but `batch` and
        `on_step`. priority: higher goes first. deadline: seconds from now. on_move: called with a Moved after each step
        of each image, in the pool's thread, so it must be quick; with `previews` it carries the estimate.

        Raises BusyError at the pool's limit, InputError for an operator that cannot go to another process, WorkerError
        where there is no worker. The future raises what `restore` does, DeadlineError, or WorkerError.
        """
        unknown = sorted(settings.keys() - SETTINGS)
        if unknown:
            raise InputError(f"there is no setting {unknown[0]!r}; there are {', '.join(sorted(SETTINGS))}")
        y = np.asarray(y, np.float32)
        images = images_of(y)
        try:
            pickled = pickle.dumps(operator)
        except Exception as error:  # whatever the operator holds raises what it likes
            raise InputError(
                f"{operator.name} cannot go to the worker's process ({error}); define it, and the functions it is "
                "made of, in a module"
            ) from error
        with self._lock:
            if self._closing:
                raise WorkerError("the pool is closed, or closing; it takes nothing more")
            if self._images + images > self._limit:
                raise BusyError(
                    f"the pool has {self._images} images and takes {self._limit}; ask again later",
                    max(1.0, self._images * self._image_seconds / max(1, len(self._workers))),
                )
            self._images += images
            submit = Submit(
                next(self._keys), pickled, y, Guidance(**settings), priority, previews and on_move is not None
            )
            job = _Job(submit, Future(), on_move)
            expires = None if deadline is None else time.monotonic() + deadline
            self._loop.call_soon_threadsafe(self._take, job, expires)
        job.future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._over, job))
        return job.future

    async def restore(self, y: Any, operator: Operator, **settings: Any) -> Result:
        """`submit`, awaited: cancelling the coroutine cancels the restoration."""
        return await asyncio.wrap_future(self.submit(y, operator, **settings))

    def swap(self, plan: str | os.PathLike[str], backend: str | None = None) -> None:
        """Go over to another plan: load it, warm it up, send it what comes from now on, and let the old one finish.

        Raises what `Restorer.load` does; the old plan stays then.
        """
        new = self._call(self._begin(plan, backend or self._backend))

        async def change() -> None:
            old, self._workers = self._workers, new
            self._leaving += old
            for worker in old:
                worker.retired = True
                self._retire_if_done(worker)

        self._call(change())
        self._plan, self._backend = plan, backend or self._backend

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take nothing more; with `drain` finish what was taken, for `timeout` seconds at most; stop the workers.

        What is not finished fails with WorkerError. May be called twice.
        """
        with self._lock:
            self._closing = True
            if drain:
                self._empty.wait_for(lambda: self._images == 0, timeout)
        if self._loop.is_running():
            self._stop()
        atexit.unregister(self.close)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    # What follows runs in the pool's thread.

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _begin(self, plan: str | os.PathLike[str], backend: str) -> list[_Worker]:
        threads = str(max(1, cores() // len(self._devices)))
        workers = [
            _Worker(
                Setup(os.fspath(plan), backend, None, self._trust),
                {} if device is None else {nvidia.VISIBLE: nvidia.visible(device), THREADS: threads},
            )
            for device in self._devices
        ]
        try:
            await asyncio.gather(*map(self._launch, workers))
        except BaseException:
            for worker in workers:
                worker.retired = True
                self._bury(worker)
            raise
        return workers

    def _launch(self, worker: _Worker) -> "asyncio.Future[Ready]":
        """Start the worker's process; the future is done when it is warm."""
        worker.process, worker.connection = launch(f"{__package__}.worker", worker.environment)
        worker.ready, worker.started = None, self._loop.create_future()
        self._loop.add_reader(worker.connection.fileno(), self._heard, worker)
        worker.connection.send(worker.setup)
        return worker.started

    def _take(self, job: _Job, expires: float | None) -> None:
        """A request that was submitted."""
        if job.future.done():
            return
        if expires is not None:
            job.timer = self._loop.call_later(max(0.0, expires - time.monotonic()), self._expire, job)
        self._assign(job)

    def _assign(self, job: _Job) -> None:
        """Give a request to the worker that has the fewest images."""
        job.worker = min(self._workers, key=lambda worker: (worker.deaths, worker.images))
        job.worker.jobs[job.submit.key] = job
        if job.worker.deaths >= STARTS:
            self._fail(job, WorkerError("no worker can be started; see what it printed"))
        elif job.worker.ready is not None:
            self._send(job.worker, job.submit)

    def _send(self, worker: _Worker, message: object) -> None:
        try:
            assert worker.connection is not None
            worker.connection.send(message)
        except OSError:
            pass  # it has died: `_heard` is about to see it

    def _expire(self, job: _Job) -> None:
        self._fail(job, DeadlineError("the restoration was not done by its deadline and was stopped"))

    def _fail(self, job: _Job, why: FrugalError) -> None:
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(why)

    def _over(self, job: _Job) -> None:
        """A future is done: by its result, an error, or because its caller cancelled it."""
        if job.timer is not None:
            job.timer.cancel()
        worker = job.worker
        if worker is not None and worker.jobs.pop(job.submit.key, None) is not None:
            self._send(worker, Cancel(job.submit.key))
            self._retire_if_done(worker)
        with self._lock:
            self._images -= job.images
            if self._images == 0:
                self._empty.notify_all()

    def _heard(self, worker: _Worker) -> None:
        """A worker has something to say, or is gone."""
        assert worker.connection is not None
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        match message:
            case Ready():
                worker.ready, worker.facts, worker.deaths = message, message, 0
                worker.setup = replace(worker.setup, weights_sha256=message.weights_sha256)
                if worker.started is not None and not worker.started.done():
                    worker.started.set_result(message)
                for job in worker.jobs.values():
                    self._send(worker, job.submit)
            case FrugalError():  # it cannot start, and will not the next time
                worker.deaths = STARTS
                if worker.started is not None and not worker.started.done():
                    worker.started.set_exception(message)
                for job in list(worker.jobs.values()):
                    self._fail(job, message)
            case Report():
                self._reported(worker, message)
            case Refused(key, why) if key in worker.jobs:
                self._fail(worker.jobs.pop(key), why)
        self._retire_if_done(worker)

    def _reported(self, worker: _Worker, report: Report) -> None:
        _tell(self._on_report, report)
        for moved in report.moved:
            if moved.key in worker.jobs:
                _tell(worker.jobs[moved.key].on_move, moved)
        for key, why in report.failed.items():
            if key in worker.jobs:
                self._fail(worker.jobs.pop(key), why)
        for key, result in report.finished.items():
            if key in worker.jobs:
                job = worker.jobs.pop(key)
                seconds = sum(result.seconds.values()) / job.images
                self._image_seconds += (seconds - self._image_seconds) / 8
                if job.submit.y.ndim == 3:
                    result = replace(result, image=result.image[0])
                if job.future.set_running_or_notify_cancel():
                    job.future.set_result(result)

    def _died(self, worker: _Worker) -> None:
        """Its process is gone: start another, and try its requests again, or fail those that were tried before."""
        was_ready = worker.ready is not None
        status = how_it_ended(worker.process)
        self._bury(worker)
        worker.deaths += not was_ready
        if worker.deaths >= STARTS or (not was_ready and worker.started is not None and worker not in self._workers):
            why: FrugalError = WorkerError("a worker died before it was ready; see what it printed")
            logger.error("a worker ended with %s before it was ready, and is not started again", status)
            if worker.started is not None and not worker.started.done():
                worker.started.set_exception(why)
            for job in list(worker.jobs.values()):
                self._fail(job, why)
            return
        for job in list(worker.jobs.values()):
            job.attempts += was_ready
            if job.attempts >= ATTEMPTS:
                self._fail(job, WorkerError("the worker died over this restoration, and again when it was retried"))
        if not worker.retired or worker.jobs:
            self.restarts += 1
            logger.warning("a worker ended with %s and is started again, with %d requests", status, len(worker.jobs))
            self._launch(worker).add_done_callback(lambda started: started.exception())  # heard where it is needed

    def _retire_if_done(self, worker: _Worker) -> None:
        if worker.retired and not worker.jobs and worker.process is not None:
            self._bury(worker)
            self._leaving = [one for one in self._leaving if one is not worker]

    def _bury(self, worker: _Worker) -> None:
        """End a worker's process, if it has not ended, and let go of it."""
        if worker.connection is not None:
            self._loop.remove_reader(worker.connection.fileno())
            worker.connection.close()
        if worker.process is not None:
            worker.process.kill()
            worker.process.wait()
        worker.connection = worker.process = worker.ready = None

    def _stop(self) -> None:
        """From another thread: fail what is left, kill the workers, end the loop."""

        async def end() -> None:
            for worker in (*self._workers, *self._leaving):
                worker.retired = True
                for job in list(worker.jobs.values()):
                    self._fail(job, WorkerError("the pool was closed before this restoration was done"))
                worker.jobs.clear()
                self._bury(worker)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def images_of(y: np.ndarray) -> int:
    """How many images a measurement, alone or in a batch, is of."""
    return len(y) if y.ndim == 4 else 1


def _tell(callback: Callable[[T], object] | None, what: T) -> None:
    """A caller's callback that fails must not take other callers' results with it."""
    if callback is not None:
        try:
            callback(what)
        except Exception:
            logger.exception("a callback given to the pool failed")
