"""Restorations for many callers at once: a bounded queue before worker processes that share their network calls."""

import asyncio
import atexit
import itertools
import os
import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engines import InputError, KindError
from ...engines.tiled import tile_count
from ..operators import Operator
from ..pictures.kinds import to_array
from ..result import Result
from ..sampling.choices import Settings
from ..sampling.guidance import Guidance
from .costs import Costs
from .messages import Report, Setup, Submit
from .requests import OnMove, Places, Request, places_of
from .wire import packed
from .workers import Workers

if TYPE_CHECKING:
    from typing_extensions import Unpack  # a type checker brings it along

LIMIT = 64
"""Images that a pool takes at once, those in work and those that wait."""
SETTINGS = {field.name for field in fields(Guidance)}


class Pool:
    """`Restorer.restore` for many callers at once, by one worker process for each device.

        with Pool("celeba.plan") as pool:
            future = pool.submit(y, operator, sigma=0.05)     # from any thread
            result = await pool.restore(y, operator)          # from a coroutine

    Requests at different steps, of different operators and settings, share network calls. Each result is as it would be
    alone, bit for bit with onnxruntime on the CPU. A worker that dies is started again, and its requests with it.

    - `plan`: the path of a plan, or an embedded prior's name.
    - `backend`, `trust_engines`: as of `Restorer.load`.
    - `devices`: CUDA devices, a worker each; (None,) is one worker that chooses.
    - `limit`: images that are taken at once; `submit` raises BusyError beyond it. An image counts once for each 262,144
      pixels of it or of its tiles, and for each 100 steps of so many.
    - `on_report`: called with a Report of each network call, in the pool's thread.

    It opens once the workers are warm, and raises what `Restorer.load` does.
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
        self._plan, self._backend, self._devices = plan, backend, tuple(devices)
        self._trust = trust_engines
        self._keys = itertools.count()
        self._places = Places(limit)
        self._workers = Workers(on_report)
        try:
            self._workers.open(self._devices, self._setup(plan, backend))
        except BaseException:
            self._workers.stop()
            raise
        atexit.register(self.close, drain=False)

    def _setup(self, plan: str | os.PathLike[str], backend: str) -> Setup:
        return Setup(os.fspath(plan), backend, None, self._trust)

    @property
    def plan(self) -> str:
        """The path of the plan that it restores with."""
        return os.fspath(self._plan)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the prior's images."""
        return self._workers.facts.image_shape

    @property
    def any_size(self) -> bool:
        """Whether images may be of any size, seen whole; others than `image_shape` are cut into tiles otherwise."""
        return self._workers.facts.any_size

    @property
    def prior(self) -> str:
        """The prior's name."""
        return self._workers.facts.prior

    @property
    def backend(self) -> str:
        """The backend's name, for people."""
        return self._workers.facts.backend

    @property
    def costs(self) -> Costs:
        """The cost of steps by the size of their batch, as a worker measured it when it started."""
        return self._workers.facts.costs

    @property
    def images(self) -> int:
        """Images taken and not done; a large one, or one of many steps, counts as several."""
        return self._places.taken

    @property
    def limit(self) -> int:
        """Images that it takes at once."""
        return self._places.limit

    @property
    def restarts(self) -> int:
        """Workers that were started again because they died."""
        return self._workers.restarts

    @property
    def is_ready(self) -> bool:
        """Whether some worker can restore now, and requests are taken."""
        return not self._places.closed and self._workers.is_ready

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return self._workers.processes

    def submit(
        self,
        y: Any,
        operator: Operator,
        *,
        priority: int = 0,
        deadline: float | None = None,
        on_move: OnMove | None = None,
        previews: bool = False,
        **settings: "Unpack[Settings]",
    ) -> "Future[Result]":
        """Submit a measurement: a future of the Result of `Restorer.restore`. Cancelling it stops at the next step.

        - `y`, `operator`, settings (sigma, steps, switch, seed, ...): as `Restorer.restore` takes them, without `batch`
          and `on_step`.
        - `priority`: higher goes first.
        - `deadline`: seconds from now.
        - `on_move`: called with a Moved after each step of each image, in the pool's thread, so it must be quick.
        - `previews`: whether a Moved carries the estimate.

        Raises BusyError at the pool's limit, InputError for an operator that cannot go to another process, WorkerError
        where there is no worker. The future raises what `restore` does, DeadlineError, or WorkerError.
        """
        unknown = sorted(settings.keys() - SETTINGS)
        if unknown:
            raise KindError(f"there is no setting {unknown[0]!r}; there are {', '.join(sorted(SETTINGS))}")
        y = to_array(y, "the measurement")
        y = y.astype(np.float32) if y.dtype.kind == "f" else y  # others are for the worker to refuse
        images = len(y) if y.ndim == 4 else 1
        key = next(self._keys)
        try:
            pickled = pickle.dumps(operator)
        except Exception as error:  # whatever the operator holds raises what it likes
            raise InputError(
                f"{operator.name} cannot go to the worker's process ({error}); define it, and the functions it is "
                "made of, in a module"
            ) from error
        asked = Guidance(**settings)
        submit = Submit(key, pickled, y, asked, priority, previews and on_move is not None)
        try:
            message = packed(submit)
        except Exception as error:
            raise InputError(f"a setting cannot go to the worker's process: {error}") from error
        seconds = self._workers.image_seconds / max(1, len(self._workers))
        places = places_of(images, self._pixels(operator), _steps(asked, operator), self.limit)
        with self._places.take(places, seconds) as future:
            request = Request(key, images, y.ndim == 3, message, future, self._places, on_move)
            self._workers.take(request, None if deadline is None else time.monotonic() + deadline)
        return future

    def _pixels(self, operator: Operator) -> int:
        """The pixels that the network sees of an image, in each step."""
        _, height, width = operator.image_shape
        if self.any_size:
            return height * width
        _, high, wide = self.image_shape
        return high * wide * tile_count(height, high) * tile_count(width, wide)

    async def restore(
        self,
        y: Any,
        operator: Operator,
        *,
        priority: int = 0,
        deadline: float | None = None,
        on_move: OnMove | None = None,
        previews: bool = False,
        **settings: "Unpack[Settings]",
    ) -> Result:
        """Submit a measurement and await its Result. Cancelling the coroutine cancels the restoration."""
        how: dict[str, Any] = {"priority": priority, "deadline": deadline, "on_move": on_move, "previews": previews}
        return await asyncio.wrap_future(self.submit(y, operator, **how, **settings))

    def swap(self, plan: str | os.PathLike[str], backend: str | None = None) -> None:
        """Go over to another plan: load it, warm it up, send it new requests, and let the old one finish its own.

        Raises what `Restorer.load` does; the old plan stays then.
        """
        self._workers.open(self._devices, self._setup(plan, backend or self._backend))
        self._plan, self._backend = plan, backend or self._backend

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take nothing more; with `drain` finish what was taken, for `timeout` seconds at most; stop the workers.

        What is not finished fails with WorkerError. May be called twice.
        """
        self._places.close()
        if drain:
            self._places.wait(timeout)
        self._workers.stop()
        atexit.unregister(self.close)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)


def _steps(asked: Guidance, operator: Operator) -> int:
    """The most steps of a request, or one where they are nothing that a worker will take."""
    try:
        steps = asked.most_steps_with(operator)
    except (TypeError, ValueError):  # which the worker tells
        return 1
    return steps if type(steps) is int and steps > 0 else 1
