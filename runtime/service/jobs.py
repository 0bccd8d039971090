"""Restorations that a service was asked for: how far each is, and what became of it. Lives in the event loop."""

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
"""Seconds for which a finished job's answer can be fetched."""
KEPT_BYTES = 64 << 20
KEPT_JOBS = 1024
"""Bytes and number of finished jobs kept; those that ended first go first."""


@dataclass(eq=False)
class Job:
    """One restoration. Once it is over it keeps the encoded picture and a few lines of text."""

    task: str
    because: str
    sigma: float
    metadata: Metadata
    """Metadata of the picture that was sent."""
    shown: Shown
    """Makes its picture of what is restored."""
    options: Mapping[str, Any]
    """Options of `frugal-rt restore` that ask for the same."""
    files: Mapping[str, Sequence[str]]
    """The SHA-256 of each file that was sent, by the option that names it there."""
    notes: Sequence[str] = ()
    """Sentences about what the files that were sent held and was left out."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "queued"
    """queued, running, done, failed or cancelled."""
    moved: Moved | None = None
    facts: bytes = b"{}"
    """Account of how the image came about, once it is there: JSON, a tenth of what its objects take."""
    image: bytes = b""
    """The restored picture, a PNG; empty before it is done."""
    error: FrugalError | None = None
    fetched: bool = False
    """Whether the picture was asked for."""
    ended: float = math.inf
    """Time of it, by time.monotonic()."""
    _future: "Future[Result] | None" = None
    _stopped: FrugalError | None = None
    """Why it was stopped, where its client did not ask for that."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _event: "asyncio.Task[str] | None" = None
    """Makes `event` of what it is now."""

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def size(self) -> int:
        """Bytes of what is kept of it."""
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
        """Begin it, and see it to its end. Raises what `submit` does; what the future raises is kept in `error`.

        submit: `Pool.submit`, its measurement and operator given; settings are the rest.
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
            self.error = error.with_traceback(None)  # which would keep all that its frames hold
            self._end("failed")
        else:
            self._end("done")

    async def pass_on(self, measurement: Measurement) -> None:
        """Be done with a picture that nothing is wrong with: the answer is what was sent."""
        picture = to_picture(measurement.picture)
        self.image = await asyncio.to_thread(encode_png, picture, None, self.metadata)
        self.facts = json.dumps({"unchanged": True}).encode()
        self._end("done")

    def cancel(self, why: FrugalError | None = None) -> None:
        """Stop it at the next step, if it is not over; `why` is then its error."""
        self._stopped = why
        if self._future is not None:
            self._future.cancel()

    async def changes(self, patience: float = 15.0) -> AsyncIterator[bool]:
        """True now and whenever something changed, at last when it is over; False after `patience` seconds of nothing.

        Who is slow to ask misses steps between, and never the last.
        """
        while True:
            over, changed = self.over, self._changed
            yield True
            if over:  # and it was when this was said
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), patience)
                except asyncio.TimeoutError:
                    yield False

    async def event(self) -> str:
        """Return all there is to say of it as a server-sent event, named by its state, with a preview, if any.

        Made once for all who watch, and the preview beside the event loop.
        """
        x0hat = None if self.moved is None else self.moved.x0hat
        if x0hat is None:
            return _event(self.said())
        if self._event is None:
            work = asyncio.to_thread(self._with_preview, self.said(), np.asarray(x0hat))
            self._event = asyncio.create_task(work)
        return await asyncio.shield(self._event)  # who stops watching does not stop it for others

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
    """A server-sent event of JSON, named by the state in it."""
    return f"event: {about['state']}\ndata: {json.dumps(about)}\n\n"


def facts(result: Result) -> dict[str, Any]:
    """Tell how an image came about: its aim, k, the trace that the switch saw, calls, seconds of the network's time."""
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
    """The jobs that can be asked for by their id. The pool limits those that are not over."""

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
        """Whether some job was over less than so many seconds ago, and its picture has not been asked for."""
        now = time.monotonic()
        return any(job.image and not job.fetched and now - job.ended < seconds for job in self._jobs.values())

    def forget(self) -> None:
        """Let go of jobs that were over long ago, and of the oldest where there are too many or they take too much."""
        now = time.monotonic()
        over = sorted((job for job in self._jobs.values() if job.over), key=lambda job: job.ended)
        number, size = len(over), sum(job.size for job in over)
        for job in over:
            if now - job.ended > KEPT_SECONDS or number > KEPT_JOBS or size > KEPT_BYTES:
                number, size = number - 1, size - job.size
                del self._jobs[job.id]
