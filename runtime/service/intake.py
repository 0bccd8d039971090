"""How a service is run, and how a request becomes a job."""

import asyncio
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ...engines import InputError, WorkerError
from ..pictures.images import Photo, as_mask, decode_photo
from ..pictures.measurement import Measurement, full_size, prepare
from ..pool import Pool
from ..restorer import Result
from .errors import status_of
from .jobs import Job, Jobs
from .metrics import Metrics
from .parameters import Parameters

DECODERS = 2
"""Pictures that are decoded and prepared at once."""
MAX_TILED = 64
"""How many of the prior's images a picture restored in tiles may be as large as: a step of it is one call."""


@dataclass(frozen=True)
class Options:
    """How a service is run."""

    max_bytes: int = 32 << 20
    """Of a request's body."""
    max_pixels: int = 24_000_000
    """Of a picture, before it is decoded."""
    timeout: float = 300.0
    """Seconds for a restoration that does not say."""
    upload_seconds: float = 30.0
    """For a request's body to arrive."""
    token: str | None = None
    """What Authorization: Bearer must carry."""
    origins: Sequence[str] = ()
    """Whose pages may ask, for browsers; none but its own."""
    replicated: bool = False
    """Whether others answer at the same address: jobs, the page that needs them and the counts are of one process, and
    left out; respond-async is ignored, as RFC 7240 allows."""


class Service:
    """The state behind the routes."""

    def __init__(self, pool: Pool, options: Options, metrics: Metrics):
        self.pool, self.options, self.metrics = pool, options, metrics
        self.jobs = Jobs()
        self.draining = False
        self.decoders = asyncio.Semaphore(DECODERS)
        self.tasks: set[asyncio.Task[None]] = set()

    async def take(self, request: Request, previews: bool) -> tuple[Job, "asyncio.Task[None]"]:
        """Read a request and begin it. Raises HTTPException and FrugalError."""
        if self.draining:
            raise WorkerError("the service is being stopped; ask again later")
        picture, mask, text = await self._read(request)
        parameters = Parameters.read(text)
        settings = parameters.settings()
        async with self.decoders:
            photo, measurement = await asyncio.to_thread(self._prepare, picture, mask, parameters)
            files = await asyncio.to_thread(_hashes, images=picture, mask=mask)
        request.state.facts = {"task": measurement.task}
        job = Job.of(measurement, photo, parameters.options(), files)
        submitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def submit(**more: Any) -> "Future[Result]":
            future = self.pool.submit(measurement.y, measurement.operator, **more)
            submitted.set_result(None)
            return future

        settings |= {"deadline": parameters.timeout or self.options.timeout, "previews": previews}
        task = asyncio.create_task(self._see_through(job, submit, settings))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        await asyncio.wait({task, submitted}, return_when=asyncio.FIRST_COMPLETED)
        if not submitted.done():
            await task  # raises what `submit` raised
        return job, task

    async def _see_through(self, job: Job, submit: Callable[..., "Future[Result]"], settings: dict[str, Any]) -> None:
        started = time.perf_counter()
        await job.run(submit, **settings)
        self.metrics.restored.labels(job.state if job.error is None else status_of(job.error)[1]).inc()
        if job.state == "done":
            self.metrics.seconds.observe(time.perf_counter() - started)

    async def _read(self, request: Request) -> tuple[bytes, bytes | None, bytes | str | None]:
        """The picture, the mask and the parameters of a request. Raises HTTPException and InputError."""
        try:
            parts = await asyncio.wait_for(_parts(request), self.options.upload_seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the request took over {self.options.upload_seconds:g} s to arrive") from None
        except ClientDisconnect:
            raise HTTPException(400, "the request was cut short") from None  # told to nobody, and counted
        unknown = sorted(parts.keys() - {"image", "mask", "parameters"})
        if unknown:
            raise InputError(f"there is no part {unknown[0]!r}; send image, and mask and parameters if need be")
        if not parts.get("image"):
            raise InputError("the request has no image; send it as the part `image`, or as the body")
        if "parameters" in parts and "parameters" in request.query_params:
            raise InputError("parameters are given twice; send the part or the query, not both")
        text = parts.get("parameters", request.query_params.get("parameters"))
        return parts["image"], parts.get("mask") or None, text

    def _prepare(self, picture: bytes, mask: bytes | None, parameters: Parameters) -> tuple[Photo, Measurement]:
        """Decode a picture and settle what is asked of it. Raises InputError."""
        most = self.options.max_pixels
        name = "image.npy" if picture.startswith(b"\x93NUMPY") else "the image"
        photo = decode_photo(picture, name, max_pixels=most)
        missing = None if mask is None else as_mask(decode_photo(mask, "the mask", max_pixels=most))
        damage = parameters.damage(missing)
        shape = self.pool.image_shape
        if parameters.tile:
            height, width = full_size(photo, damage)
            largest = MAX_TILED * shape[1] * shape[2]
            if height * width > largest:
                raise InputError(f"the image has {height * width} pixels; up to {largest} are restored in tiles")
            if parameters.fit == "pad":
                height, width = max(height, shape[1]), max(width, shape[2])
            shape = (shape[0], height, width)
        return photo, prepare(photo, shape, damage, parameters.fit)

    def job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None:
            raise HTTPException(404, "there is no such job, or it is forgotten")
        return job


def _hashes(**files: bytes | None) -> dict[str, list[str]]:
    """The SHA-256 of each file that was sent, by name."""
    return {name: [hashlib.sha256(data).hexdigest()] for name, data in files.items() if data is not None}


async def _parts(request: Request) -> dict[str, bytes]:
    """The parts of a form, or the body as the part `image`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return {"image": await request.body()}
    try:
        form = await _InMemory(
            request.headers, request.stream(), max_files=2, max_fields=4, max_part_size=1 << 16
        ).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    return {
        name: await value.read() if isinstance(value, UploadFile) else value.encode("utf-8", "surrogatepass")
        for name, value in form.multi_items()
    }


class _InMemory(MultiPartParser):
    """Keeps a form's files in memory, where the edge limits them: the disk may be full."""

    spool_max_size = sys.maxsize
