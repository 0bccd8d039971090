"""The HTTP service around a pool: an ASGI application."""

import contextlib
import json
from collections.abc import AsyncIterator
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from ...engines import BusyError, FrugalError
from ...engines.version import __version__
from ..pictures.images import PORTRAIT
from ..pool import Pool
from ..sampling.guidance import PRESETS
from ..sampling.switch import EARLIEST, LATEST, THRESHOLD
from .errors import sentence, status_of
from .intake import SERVED, Options, Service, unless_gone
from .jobs import Job
from .metrics import Metrics
from .middleware import Edge, path_of
from .openapi import ERROR, ERRORS, RESPONSES, body
from .visitors import Visitors

RESTORE = "/v1/restore"
PAGE = {"index.html": "text/html; charset=utf-8", "page.js": "text/javascript", "page.css": "text/css"}


def create_app(
    pool: Pool, options: Options | None = None, metrics: Metrics | None = None, visitors: Visitors | None = None
) -> FastAPI:
    """Return an application that restores with `pool`, which the caller closes.

    metrics: those that the pool's `on_report` updates; without them steps are not counted. visitors: rules for requests
    without a token; by default any host name is accepted, and web pages of this service and of `options.origins` alone.
    """
    options, metrics = options or Options(), metrics or Metrics()
    service = Service(pool, options, metrics)

    @contextlib.asynccontextmanager
    async def preparing(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.preparers.start()
            yield
        finally:
            service.preparers.close()

    app = FastAPI(
        title="frugal-rt",
        version=__version__,
        summary="Zero-shot diffusion image restoration.",
        docs_url=None,  # its scripts would be loaded from another server
        redoc_url=None,
        lifespan=preparing,
    )
    app.state.service = service
    single = APIRouter()  # routes that only the process with the job can answer

    async def serving() -> Service:  # a plain function would wait for a thread, at every request
        return service

    Serving = Annotated[Service, Depends(serving)]

    def refusal(
        request: Request, status: int, error: str, cause: str, headers: dict[str, str] | None = None
    ) -> JSONResponse:
        if path_of(request.scope) == RESTORE:
            metrics.reject(cause)
        request.state.facts = {**getattr(request.state, "facts", {}), "error": error}  # for the log
        return JSONResponse({"error": error}, status, headers)

    @app.exception_handler(FrugalError)
    async def refused(request: Request, error: FrugalError) -> JSONResponse:
        status, cause = status_of(error)
        headers = {"Retry-After": str(round(error.retry_after))} if isinstance(error, BusyError) else None
        return refusal(request, status, sentence(error), cause, headers)

    @app.exception_handler(StarletteHTTPException)
    async def not_taken(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return refusal(request, error.status_code, str(error.detail), str(error.status_code), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> JSONResponse:
        clauses = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return refusal(request, 422, "; ".join(clauses), "input")

    @app.post(RESTORE, openapi_extra={"requestBody": body()}, responses=RESPONSES, response_class=Response)
    async def restore(request: Request, serving: Serving, previews: bool = False) -> Response:
        """Restore a picture: the part `image` of a form, or the body.

        Answers with the restored picture as a PNG; with `Prefer: respond-async`, where jobs are kept, at once, with a
        job to ask for.
        """
        job, task = await serving.take(request, previews)
        if "respond-async" in request.headers.get("prefer", "") and not options.replicated:
            serving.jobs.add(job)
            return JSONResponse(job.said(), 202, {"Location": f"{request.scope.get('root_path', '')}/v1/jobs/{job.id}"})
        await unless_gone(request, task, job.cancel)
        await task
        return _outcome(job)

    @single.get("/v1/jobs/{job_id}", responses=ERRORS)
    async def job(job_id: str, serving: Serving) -> dict[str, Any]:
        """Say how far a job is, or what became of it."""
        return serving.job(job_id).said()

    @single.get("/v1/jobs/{job_id}/image", responses=RESPONSES, response_class=Response)
    async def image(job_id: str, serving: Serving) -> Response:
        """The restored picture of a job that is done; 409 before."""
        job = serving.job(job_id)
        if not job.over:
            raise HTTPException(409, "the job is not done")
        return _outcome(job)

    @single.get(
        "/v1/jobs/{job_id}/events",
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
        response_class=StreamingResponse,
    )
    async def events(job_id: str, serving: Serving) -> StreamingResponse:
        """Stream a job's JSON as server-sent events named by its state; the last says what became of it."""
        job = serving.job(job_id)

        async def stream() -> AsyncIterator[str]:
            async for changed in job.changes():
                yield await job.event() if changed else ": \n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @single.delete("/v1/jobs/{job_id}", status_code=204, responses=ERRORS)
    async def cancel(job_id: str, serving: Serving) -> None:
        """Stop a job, or forget what became of it."""
        job = serving.job(job_id)
        if job.over:
            serving.jobs.remove(job)
        job.cancel()

    @app.get("/v1/service")
    async def about(serving: Serving) -> dict[str, Any]:
        """Say what this service restores with, and what it takes."""
        channels, height, width = serving.pool.image_shape
        return {
            "frugal_rt": __version__,
            "prior": serving.pool.prior,
            "backend": serving.pool.backend,
            "image": {"channels": channels, "height": height, "width": width, "any_size": serving.pool.any_size},
            "max_bytes": options.max_bytes,
            "max_pixels": options.max_pixels,
            "formats": [*SERVED, "NPY"],
            "presets": PRESETS,
            "switch": {"threshold": THRESHOLD, "earliest": EARLIEST, "latest": LATEST},
        }

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: ERROR})
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
            return Response(PORTRAIT.read_bytes(), media_type="image/png")
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
        visitors=visitors or Visitors(origins=options.origins),
        on_refusal=lambda path, status: metrics.reject(str(status)) if path == RESTORE else None,
    )
    return app


def _outcome(job: Job) -> Response:
    """Return the picture of a finished job. Raises the job's error."""
    if job.error is not None:
        raise job.error.with_traceback(None)  # or it would keep the frames of every request that it was told to
    if job.state == "cancelled":
        raise HTTPException(410, "the restoration was cancelled")
    job.fetched = True
    said = {name: value for name, value in job.said().items() if name not in ("id", "state", "trace")}
    return Response(job.image, media_type="image/png", headers={"X-Frugal-RT": json.dumps(said)})


def _file(name: str) -> Response:
    headers = {
        "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'",
        "Cache-Control": "no-cache",
    }
    return Response((resources.files(__package__) / "page" / name).read_bytes(), media_type=PAGE[name], headers=headers)
