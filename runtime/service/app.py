"""The HTTP service around a pool: an ASGI application."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ... import __version__
from ...engines import (
    BackendError,
    BusyError,
    DeadlineError,
    DivergedError,
    FrugalError,
    InputError,
    WorkerError,
)
from ..images import FORMATS, Photo, as_mask, decode_photo
from ..pool import Pool
from ..restorer import Result
from ..settings import PRESETS
from ..switch import EARLIEST, LATEST, THRESHOLD
from ..tasks import Job as Asked
from ..tasks import full_size, prepare
from .edge import Edge
from .jobs import Job, Jobs
from .metrics import Metrics
from .parameters import Parameters

PAGE = {"index.html": "text/html; charset=utf-8", "page.js": "text/javascript", "page.css": "text/css"}
DECODERS = 2
"""Pictures that are decoded and prepared at once."""
MAX_TILED = 64
"""How many of the prior's images a picture restored in tiles may be as large as: a step of it is one call."""
STATUS: dict[type[FrugalError], tuple[int, str]] = {
    BusyError: (429, "busy"),
    DeadlineError: (504, "deadline"),
    WorkerError: (503, "worker"),
    DivergedError: (422, "diverged"),
    BackendError: (500, "backend"),
    InputError: (422, "input"),
}
"""The status of each error, and the cause it is counted under."""


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
            photo, asked = await asyncio.to_thread(self._prepare, picture, mask, parameters)
        request.state.facts = {"task": asked.task}
        job = Job.of(asked, photo, parameters.fit)
        submitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def submit(**more: Any) -> "Future[Result]":
            future = self.pool.submit(asked.y, asked.operator, **more)
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
        self.metrics.restored.labels(job.state).inc()
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

    def _prepare(self, picture: bytes, mask: bytes | None, parameters: Parameters) -> tuple[Photo, Asked]:
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


def create_app(pool: Pool, options: Options | None = None, metrics: Metrics | None = None) -> FastAPI:
    """An application that restores with `pool`, which stays the caller's to close.

    metrics: those that the pool's `on_report` feeds; without, steps are not counted.
    """
    options, metrics = options or Options(), metrics or Metrics()
    app = FastAPI(
        title="frugal-rt",
        version=__version__,
        summary="Zero-shot diffusion image restoration.",
        docs_url=None,  # they would come from somebody else's servers
        redoc_url=None,
    )
    service = app.state.service = Service(pool, options, metrics)
    single = APIRouter()  # what only the process that keeps it can answer

    def serving(request: Request) -> Service:
        return service

    Serving = Annotated[Service, Depends(serving)]

    def refusal(status: int, error: str, cause: str, headers: dict[str, str] | None = None) -> JSONResponse:
        metrics.rejected.labels(cause).inc()
        return JSONResponse({"error": error}, status, headers)

    @app.exception_handler(FrugalError)
    async def refused(request: Request, error: FrugalError) -> JSONResponse:
        known = next((kind for kind in type(error).__mro__ if kind in STATUS), None)
        status, cause = STATUS[known] if known else (500, "other")
        headers = {"Retry-After": str(round(error.retry_after))} if isinstance(error, BusyError) else None
        return refusal(status, str(error), cause, headers)

    @app.exception_handler(StarletteHTTPException)
    async def not_taken(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), str(error.status_code), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> JSONResponse:
        clauses = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return refusal(422, "; ".join(clauses), "input")

    @app.post("/v1/restore", openapi_extra={"requestBody": _body()}, responses=_RESPONSES, response_class=Response)
    async def restore(request: Request, serving: Serving, previews: bool = False) -> Response:
        """Restore a picture: the part `image` of a form, or the body.

        Answers with the restored picture as a PNG; with `Prefer: respond-async`, where jobs are kept, at once, with a
        job to ask for.
        """
        job, task = await serving.take(request, previews)
        if "respond-async" in request.headers.get("prefer", "") and not options.replicated:
            serving.jobs.add(job)
            return JSONResponse(job.said(), 202, {"Location": f"/v1/jobs/{job.id}"})
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # some servers cancel this, and send no disconnect
            gone.cancel()
            if not task.done():
                job.cancel()  # the client is gone
        await task
        return _outcome(job)

    @single.get("/v1/jobs/{job_id}", responses=_ERRORS)
    async def job(job_id: str, serving: Serving) -> dict[str, Any]:
        """How far a job is, or what became of it."""
        return serving.job(job_id).said()

    @single.get("/v1/jobs/{job_id}/image", responses=_RESPONSES, response_class=Response)
    async def image(job_id: str, serving: Serving) -> Response:
        """The restored picture of a job that is done; 409 before."""
        job = serving.job(job_id)
        if not job.over:
            raise HTTPException(409, "the job is not done")
        return _outcome(job)

    @single.get(
        "/v1/jobs/{job_id}/events",
        responses={200: {"content": {"text/event-stream": {}}}, **_ERRORS},
        response_class=StreamingResponse,
    )
    async def events(job_id: str, serving: Serving) -> StreamingResponse:
        """How far a job is, as server-sent events of its JSON named by its state; the last says what became of it."""
        job = serving.job(job_id)

        async def stream() -> AsyncIterator[str]:
            async for changed in job.changes():
                yield f"event: {job.state}\ndata: {json.dumps(job.said(preview=True))}\n\n" if changed else ": \n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @single.delete("/v1/jobs/{job_id}", status_code=204, responses=_ERRORS)
    async def cancel(job_id: str, serving: Serving) -> None:
        """Stop a job, or forget what became of it."""
        job = serving.job(job_id)
        if job.over:
            serving.jobs.remove(job)
        job.cancel()

    @app.get("/v1/service")
    async def about(serving: Serving) -> dict[str, Any]:
        """What this service restores with, and what it takes."""
        channels, height, width = serving.pool.image_shape
        return {
            "frugal_rt": __version__,
            "prior": serving.pool.prior,
            "backend": serving.pool.backend,
            "image": {"channels": channels, "height": height, "width": width},
            "max_bytes": options.max_bytes,
            "max_pixels": options.max_pixels,
            "formats": [*FORMATS, "NPY"],
            "presets": PRESETS,
            "switch": {"threshold": THRESHOLD, "earliest": EARLIEST, "latest": LATEST},
        }

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: _ERROR})
    async def readyz(serving: Serving) -> dict[str, str]:
        """Whether restorations are taken."""
        if serving.draining or not serving.pool.is_ready:
            raise HTTPException(503, "draining" if serving.draining else "no worker is ready")
        return {"status": "ready"}

    @single.get("/metrics", include_in_schema=False)
    async def metrics_page(serving: Serving) -> Response:
        return Response(metrics.text(pool), media_type="text/plain; version=0.0.4; charset=utf-8")

    @single.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html")

    @single.get("/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name == "sample.png":
            return Response((resources.files(__package__) / ".." / "portrait.png").read_bytes(), media_type="image/png")
        if name not in PAGE:
            raise HTTPException(404, "there is nothing here")
        return _file(name)

    if not options.replicated:
        app.include_router(single)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "prefer", "x-request-id"],
            expose_headers=["location", "retry-after", "x-request-id", "x-frugal-rt"],
        )
    app.add_middleware(
        Edge,
        most=options.max_bytes,
        token=options.token,
        on_refusal=lambda status: metrics.rejected.labels(str(status)).inc(),
    )
    return app


def _outcome(job: Job) -> Response:
    """The picture of a job that is over. Raises what it failed with."""
    if job.error is not None:
        raise job.error
    if job.state == "cancelled":
        raise HTTPException(410, "the restoration was cancelled")
    job.fetched = True
    said = {name: value for name, value in job.said().items() if name not in ("id", "state", "trace")}
    return Response(job.image, media_type="image/png", headers={"X-Frugal-RT": json.dumps(said)})


async def _gone(request: Request) -> None:
    """Ends when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _file(name: str) -> Response:
    headers = {
        "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response((resources.files(__package__) / "page" / name).read_bytes(), media_type=PAGE[name], headers=headers)


_ERROR: dict[str, Any] = {
    "description": "What is wrong, and what to do.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
            "example": {"error": "the picture is 100x80, and denoise with this prior starts from 64x64; ..."},
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((401, 404, 409, 410), _ERROR)
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The restored picture.", "content": {"image/png": {"schema": {"type": "string"}}}},
    202: {"description": "Taken; Location says where to ask.", "content": {"application/json": {}}},
    **dict.fromkeys((400, 401, 404, 408, 409, 410, 413, 422, 429, 500, 503, 504), _ERROR),
}


def _body() -> dict[str, Any]:
    """The body of POST /v1/restore, in OpenAPI."""
    schema = Parameters.model_json_schema()
    binary = {"type": "string", "format": "binary"}
    parts = {"image": binary, "mask": binary, "parameters": {"type": "string", "contentSchema": schema}}
    example = schema["examples"][1]
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": parts, "required": ["image"]},
                "encoding": {"parameters": {"contentType": "application/json"}},
                "examples": {
                    "a hole in the middle": {"value": {"image": "(a file)", "parameters": json.dumps(example)}}
                },
            },
            "image/*": {"schema": binary},
            "application/octet-stream": {"schema": binary},
        },
    }
