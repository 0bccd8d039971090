"""Intake of a service: its limits, and the steps from a request to a job."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request

from ...engines import WorkerError
from ..pictures.decoding import FORMATS, Limits
from ..pictures.measurement import Measurement
from ..pool import Pool
from ..result import Result
from .errors import status_of
from .jobs import Job, Jobs
from .metrics import Metrics
from .parameters import Parameters
from .peers import peer_of
from .preparer import Ask, Prepared
from .preparing import Preparers
from .uploads import Upload, Uploads

SERVED = tuple(kind for kind in FORMATS if kind not in ("PPM", "AVIF"))
"""The accepted formats of pictures. PPM of odd depths is decoded slowly in Python, and AVIF's decoder starts
threads."""
MAX_METADATA = 256 << 10
"""The most bytes of an ICC profile, and of EXIF, which are copied into the answer."""
STOPPED = "the service was stopped before this restoration was done"


@dataclass(frozen=True)
class Options:
    """Limits and rules of a service."""

    max_bytes: int = 16 << 20
    """The most bytes of a request's body; reading and decoding hold two to four copies."""
    max_pixels: int = 1 << 22
    """The most pixels of a picture, checked before decoding, which takes 16 bytes a pixel."""
    timeout: float = 300.0
    """The most seconds of a restoration from the request's arrival, and of all restorations after a stop."""
    upload_seconds: float = 30.0
    """Seconds for a request's body to arrive."""
    idle_seconds: float = 10.0
    """Seconds for a request's head to arrive, and for a part of an answer to be read."""
    token: str | None = None
    """The token that `Authorization: Bearer` must carry."""
    origins: Sequence[str] = ()
    """Origins of other web pages that may send requests."""
    hosts: Sequence[str] = ()
    """Host names that a service without a token accepts, besides this machine's and the one it listens on."""
    replicated: bool = False
    """Whether other processes answer at the same address. Jobs, the page and the metrics belong to a single process and
    are then left out; respond-async is ignored, as RFC 7240 allows."""


class Service:
    """The state behind the routes."""

    def __init__(self, pool: Pool, options: Options, metrics: Metrics):
        self.pool, self.options, self.metrics = pool, options, metrics
        self.jobs = Jobs()
        self.draining = False
        self.uploads = Uploads(options.max_bytes, options.upload_seconds)
        limits = Limits(options.max_pixels, SERVED, compiled=True, max_metadata=MAX_METADATA)
        self.preparers = Preparers(limits, options.max_bytes)
        self._preparing = 0
        self._running: dict[asyncio.Task[None], Job] = {}
        self._given_up = False

    @property
    def is_busy(self) -> bool:
        """Whether a request that was taken is not finished."""
        return bool(self._preparing or self._running)

    def give_up(self) -> None:
        """Fail unfinished requests."""
        self._given_up = True
        for job in self._running.values():
            job.cancel(WorkerError(STOPPED))

    async def take(self, request: Request, previews: bool) -> tuple[Job, "asyncio.Task[None]"]:
        """Read a request and begin its job; its deadline starts now. Raises HTTPException and FrugalError."""
        arrived = time.monotonic()
        self._check_open()
        async with self.uploads.receive(request) as upload:
            self._check_open()  # reading the request may have taken long
            self._preparing += 1
            try:
                return await self._begin(request, upload, previews, arrived)
            finally:
                self._preparing -= 1

    async def _begin(
        self, request: Request, upload: Upload, previews: bool, arrived: float
    ) -> tuple[Job, "asyncio.Task[None]"]:
        parameters = Parameters.read(upload.parameters)
        settings = parameters.settings()
        deadline = arrived + min(parameters.timeout or self.options.timeout, self.options.timeout)
        prepared = await self._prepared(request, upload, parameters, deadline)
        if self._given_up:
            raise WorkerError(STOPPED)
        measurement = prepared.measurement
        request.state.facts = {"task": measurement.task}
        job = Job.of(measurement, prepared.metadata, parameters.options(), prepared.files, prepared.notes)
        if measurement.is_clean:
            return job, self._running_as(job, self._pass_on(job, measurement))
        submitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def submit(**more: Any) -> "Future[Result]":
            future = self.pool.submit(measurement.y, measurement.operator, **more)
            submitted.set_result(None)
            return future

        settings |= {"deadline": deadline - time.monotonic(), "previews": previews}
        task = self._running_as(job, self._see_through(job, submit, settings))
        await asyncio.wait({task, submitted}, return_when=asyncio.FIRST_COMPLETED)
        if not submitted.done():
            await task  # raises what `submit` raised
        return job, task

    async def _prepared(self, request: Request, upload: Upload, parameters: Parameters, deadline: float) -> Prepared:
        masked = upload.mask is not None
        prior = self.pool.image_shape, self.pool.any_size
        ask = Ask(parameters.damage(None), parameters.fit, *prior, masked, parameters.frame)
        peer = peer_of(request.client)
        work = asyncio.create_task(self.preparers.prepare(ask, upload.picture, upload.mask, peer, deadline))
        await unless_gone(request, work, work.cancel)
        if not work.done():
            raise HTTPException(400, "the client hung up")  # told to nobody, and counted
        return work.result()

    def _running_as(self, job: Job, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begin a job's work; a stopping service waits for it."""
        task = asyncio.create_task(work)
        self._running[task] = job
        task.add_done_callback(self._running.pop)
        return task

    async def _see_through(self, job: Job, submit: Callable[..., "Future[Result]"], settings: dict[str, Any]) -> None:
        started = time.perf_counter()
        await job.run(submit, **settings)
        self.jobs.forget()
        self.metrics.restored.labels(job.state if job.error is None else status_of(job.error)[1]).inc()
        if job.state == "done":
            self.metrics.seconds.observe(time.perf_counter() - started)

    async def _pass_on(self, job: Job, measurement: Measurement) -> None:
        await job.pass_on(measurement)
        self.jobs.forget()
        self.metrics.restored.labels(job.state).inc()

    def _check_open(self) -> None:
        if self.draining:
            raise WorkerError("the service is being stopped; ask again later")

    def job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None:
            raise HTTPException(404, "there is no such job, or it is forgotten")
        return job


async def unless_gone(request: Request, work: "asyncio.Task[Any]", stop: Callable[[], object]) -> None:
    """Wait until `work` is done; call `stop` if the client disconnects before, or the server cancels this task."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:  # some servers cancel the task instead of sending a disconnect
        gone.cancel()
        if not work.done():
            stop()


async def _gone(request: Request) -> None:
    """Return when the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
