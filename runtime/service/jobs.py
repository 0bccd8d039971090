"""Jobs: the restorations of a service, with their progress and results. They live in the event loop."""

import asyncio
import base64
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...engines import FrugalError
from ..pictures.decoding import Metadata
from ..pictures.images import encode_png, to_picture
from ..pictures.measurement import Measurement, Shown
from ..pictures.settings import png_settings, record
from ..pool.scheduler import Moved
from ..result import Result
from .errors import sentence

KEPT_SECONDS = 600.0
"""Seconds for which a finished job's result can be fetched."""
KEPT_BYTES = 64 << 20
KEPT_JOBS = 1024
"""Bytes and number of finished jobs kept; those that ended first go first."""


@dataclass(eq=False)
class Job:
    """A restoration. When it is over the job keeps the encoded picture and a few lines of text."""

    task: str
    because: str
    sigma: float
    metadata: Metadata
    """Metadata of the picture that was sent."""
    shown: Shown
    """The function from restored images to the picture."""
    options: Mapping[str, Any]
    """The equivalent options of `frugal-rt restore`."""
    files: Mapping[str, Sequence[str]]
    """The SHA-256 of each file that was sent, by the command's option for it."""
    notes: Sequence[str] = ()
    """Sentences about contents of the files that were left out."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "queued"
    """queued, running, done, failed or cancelled."""
    moved: Moved | None = None
    facts: bytes = b"{}"
    """The result's `facts` as JSON, which takes a tenth of the memory of its objects."""
    image: bytes = b""
    """The restored picture as a PNG; empty before the job is done."""
    error: FrugalError | None = None
    fetched: bool = False
    """Whether the picture was fetched."""
    ended: float = math.inf
    """Time of it, by time.monotonic()."""
    _future: "Future[Result] | None" = None
    _stopped: FrugalError | None = None
    """The error with which the job was stopped; None where its client cancelled it."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _event: "asyncio.Task[str] | None" = None
    """The task that makes `event` for the current state."""

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def size(self) -> int:
        """Bytes of memory that the finished job keeps."""
        return len(self.image) + len(self.facts)

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        metadata: Metadata,
        options: Mapping[str, Any],
        files: Mapping[str, Sequence[str]],
        notes: Sequence[str] = (),
    ) -> "Job":
        return cls(
            task=measurement.task,
            because=measurement.because,
            sigma=measurement.sigma,
            metadata=metadata,
            shown=measurement.shown,
            options=options,
            files=files,
            notes=notes,
        )

    async def run(self, submit: Callable[..., "Future[Result]"], **settings: Any) -> None:
        """Submit the restoration and wait for its end. Raises what `submit` raises; the future's error becomes `error`.

        submit: `Pool.submit` with its measurement and operator bound; settings are its other arguments.
        """
        loop = asyncio.get_running_loop()

        def on_move(moved: Moved) -> None:
            loop.call_soon_threadsafe(self._move, moved)

        self._future = submit(sigma=self.sigma, on_move=on_move, **settings)
        try:
            result = await asyncio.wrap_future(self._future)
            self.image = await asyncio.to_thread(self._encode, result)
            self.facts = json.dumps(facts(result)).encode()
        except asyncio.CancelledError:
            if not self._future.cancelled():
                raise  # it is this task that was cancelled, with the loop
            self.error = self._stopped
            self._end("failed" if self._stopped else "cancelled")
        except FrugalError as error:
            self.error = error.with_traceback(None)  # a traceback would keep the frames' objects alive
            self._end("failed")
        else:
            self._end("done")

    async def pass_on(self, measurement: Measurement) -> None:
        """Finish with an unchanged picture, in which nothing wrong was found."""
        picture = to_picture(measurement.picture)
        self.image = await asyncio.to_thread(encode_png, picture, None, self.metadata)
        self.facts = json.dumps({"unchanged": True}).encode()
        self._end("done")

    def cancel(self, why: FrugalError | None = None) -> None:
        """Stop the job at the next step, if it is not over; `why` becomes its error."""
        self._stopped = why
        if self._future is not None:
            self._future.cancel()

    async def changes(self, patience: float = 15.0) -> AsyncIterator[bool]:
        """Yield True now and after each change, the last time when the job is over; False after `patience` seconds.

        A slow reader misses steps in between, but never the last one.
        """
        while True:
            over, changed = self.over, self._changed
            yield True
            if over:  # it was over before this was yielded
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), patience)
                except asyncio.TimeoutError:
                    yield False

    async def event(self) -> str:
        """Return the job's state as a server-sent event, named by the state, with a preview if there is one.

        It is made once for all watchers; the preview is encoded in a thread.
        """
        x0hat = None if self.moved is None else self.moved.x0hat
        if x0hat is None:
            return _event(self.said())
        if self._event is None:
            work = asyncio.to_thread(self._with_preview, self.said(), np.asarray(x0hat))
            self._event = asyncio.create_task(work)
        return await asyncio.shield(self._event)  # cancelling one watcher does not cancel it for others

    def _with_preview(self, about: dict[str, Any], x0hat: np.ndarray) -> str:
        png = encode_png(to_picture(self.shown(x0hat)))
        return _event({**about, "preview": "data:image/png;base64," + base64.b64encode(png).decode()})

    def said(self) -> dict[str, Any]:
        """Describe the job, in JSON's types."""
        about: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "task": self.task,
            "because": self.because,
            "sigma": self.sigma,
            "notes": [*self.notes],
            **json.loads(self.facts),
        }
        if self.moved is not None:
            moved = self.moved
            about |= {"left": moved.left, "steps": moved.steps, "phase": moved.phase}
            about["settled"] = moved.settled if math.isfinite(moved.settled) else None
        if self.error is not None:
            about["error"] = sentence(self.error)
        return about

    def _move(self, moved: Moved) -> None:
        if not self.over:
            self.state, self.moved = "running", moved
            self._tell()

    def _end(self, state: str) -> None:
        self.state, self.ended, self._future = state, time.monotonic(), None
        self.moved = self.moved and replace(self.moved, x0hat=None)
        self.metadata = Metadata()  # it is in the image
        self._tell()

    def _tell(self) -> None:
        changed, self._changed, self._event = self._changed, asyncio.Event(), None
        changed.set()

    def _encode(self, result: Result) -> bytes:
        params = record(self.options, result.settings["weights_sha256"], self.files)
        settings = png_settings(result.settings, result.k, self.task, self.options.get("fit"), params)
        return encode_png(to_picture(self.shown(result.image)), settings, self.metadata)


def _event(about: Mapping[str, Any]) -> str:
    """Return a server-sent event of JSON, named by its state."""
    return f"event: {about['state']}\ndata: {json.dumps(about)}\n\n"


def facts(result: Result) -> dict[str, Any]:
    """Return the costs and choices of a restoration: aim, k, the switch's trace, calls, and seconds."""
    trace = [{"left": left, "psnr": psnr} for left, psnr in zip(result.compared, result.trace[0], strict=True)]
    return {
        "unchanged": False,
        "aim": result.settings["aim"],
        "k": result.k[0],
        "trace": trace,
        "forwards": result.forwards[0],
        "gradients": result.gradients[0],
        "seconds": round(sum(result.seconds.values()), 4),
    }


class Jobs:
    """The jobs by id. The pool limits the number of unfinished ones."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job) -> None:
        self.forget()
        self._jobs[job.id] = job

    def get(self, name: str) -> Job | None:
        self.forget()
        return self._jobs.get(name)

    def remove(self, job: Job) -> None:
        self._jobs.pop(job.id, None)

    def unfetched(self, seconds: float) -> bool:
        """Return whether a job ended less than `seconds` ago, and its picture has not been fetched."""
        now = time.monotonic()
        return any(job.image and not job.fetched and now - job.ended < seconds for job in self._jobs.values())

    def forget(self) -> None:
        """Drop jobs that ended long ago, and the oldest where finished jobs are too many or too large."""
        now = time.monotonic()
        over = sorted((job for job in self._jobs.values() if job.over), key=lambda job: job.ended)
        number, size = len(over), sum(job.size for job in over)
        for job in over:
            if now - job.ended > KEPT_SECONDS or number > KEPT_JOBS or size > KEPT_BYTES:
                number, size = number - 1, size - job.size
                del self._jobs[job.id]
