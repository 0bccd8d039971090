"""The public class for many callers: a bounded queue, and worker processes whose requests share network calls."""

import asyncio
import atexit
import itertools
import os
import pickle
import threading
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
    from typing_extensions import Unpack  # every type checker has it

LIMIT = 64
"""The most images in a pool, being restored or waiting."""
SETTINGS = {field.name for field in fields(Guidance)}


class Pool:
    """`Restorer.restore` for many callers, by a worker process for each device.

        with Pool("photo") as pool:
            future = pool.submit(y, operator, sigma=0.05)     # from any thread
            result = await pool.restore(y, operator)          # from a coroutine

    Requests at different steps, with different operators and settings, share network calls. Each result is the same as
    alone, bit by bit with onnxruntime on the CPU. A worker that dies is started again, and its requests are restored
    again.

    - `plan`: the path of a plan, or an embedded prior's name.
    - `backend`, `trust_engines`: as in `Restorer.load`.
    - `devices`: CUDA devices, with a worker each; (None,): one worker, whose backend chooses the device.
    - `limit`: the most images in the pool; beyond it `submit` raises BusyError. An image counts as several where it, or
      the sum of its tiles, has more than 262,144 pixels, or takes more than 100 steps.
    - `on_report`: called with a Report of each network call, in the pool's thread.

    The constructor returns when the workers are warm. It raises what `Restorer.load` raises.
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
        self._swapping = threading.Lock()
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
        """The path of the plan in use."""
        return os.fspath(self._plan)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the prior's images."""
        return self._workers.facts.image_shape

    @property
    def any_size(self) -> bool:
        """Whether images of any size are run whole; otherwise larger ones than `image_shape` are cut into tiles."""
        return self._workers.facts.any_size

    @property
    def prior(self) -> str:
        """The prior's name."""
        return self._workers.facts.prior

    @property
    def backend(self) -> str:
        """The backend's name as it is shown."""
        return self._workers.facts.backend

    @property
    def costs(self) -> Costs:
        """The costs of a step by batch size, as a worker measured them at its start."""
        return self._workers.facts.costs

    @property
    def images(self) -> int:
        """Images in the pool; a large one, or one with many steps, counts as several."""
        return self._places.taken

    @property
    def limit(self) -> int:
        """The most images in the pool."""
        return self._places.limit

    @property
    def restarts(self) -> int:
        """The number of workers that died and were started again."""
        return self._workers.restarts

    @property
    def is_ready(self) -> bool:
        """Whether a worker can restore now, and requests are taken."""
        return not self._places.closed and self._workers.is_ready

    @property
    def processes(self) -> list[int]:
        """The process ids of the running workers."""
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
        """Submit a measurement; return a future of the Result of `Restorer.restore`.

        Cancelling the future stops the restoration at the next step.

        - `y`, `operator`, settings (sigma, steps, switch, seed, ...): as in `Restorer.restore`, without `batch` and
          `on_step`.
        - `priority`: requests with a higher one come first.
        - `deadline`: seconds from now.
        - `on_move`: called with a Moved after each step of each image, in the pool's thread, so it must be quick.
        - `previews`: whether a Moved carries the estimate.

        Raises BusyError at the pool's limit, InputError for an operator that cannot be pickled, WorkerError where there
        is no worker. The future raises what `restore` raises, DeadlineError, or WorkerError.
        """
        unknown = sorted(settings.keys() - SETTINGS)
        if unknown:
            raise KindError(f"there is no setting {unknown[0]!r}; there are {', '.join(sorted(SETTINGS))}")
        y = to_array(y, "the measurement")
        y = y.astype(np.float32) if y.dtype.kind == "f" else y  # the worker refuses other types
        images = len(y) if y.ndim == 4 else 1
        key = next(self._keys)
        try:
            pickled = pickle.dumps(operator)
        except Exception as error:  # pickling a caller's own objects may raise anything
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
        """Return the pixels that the network processes for an image in each step."""
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
        """Change to another plan: load it, warm it up, send it new requests, and let the old workers finish theirs.

        Raises what `Restorer.load` raises; the old plan then stays in use.
        """
        with self._swapping:  # the plan that was asked for last stays
            self._workers.open(self._devices, self._setup(plan, backend or self._backend))
            self._plan, self._backend = plan, backend or self._backend

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Stop taking requests; with `drain` finish those taken, for at most `timeout` seconds; stop the workers.

        Unfinished requests fail with WorkerError. It may be called twice.
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
    """Return the most steps of a request, or 1 where its settings are invalid, which a worker will report."""
    try:
        steps = asked.most_steps_with(operator)
    except (TypeError, ValueError):  # the worker reports it
        return 1
    return steps if type(steps) is int and steps > 0 else 1
