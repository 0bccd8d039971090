"""The protocol of an engine: the calls that every backend offers, and nothing more.

Arrays are numpy's or torch's. Results are arrays of the same library and on the same device as `x`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from . import machine
from .array_api import Array
from .errors import BackendError
from .memory import give_back


class Prediction(NamedTuple):
    """The network's output for a batch."""

    out: Array
    """(B, C, H, W): eps, v or x0, as the plan's `prediction_type` says."""
    variance: Array | None
    """(B, C, H, W): the learned-range variance logit in [-1, 1], or None where the variance is fixed."""


ANSWERS = ("out", "variance")
"""The names of a Prediction's arrays in the plan's graphs."""

PRECISIONS = ("fp16", "bf16", "fp32")
"""Precisions of a network's arithmetic, the preferred one first."""

Pull = Callable[[Array], Array]
"""The vector-Jacobian product: takes a cotangent of `Prediction.out`, (B, C, H, W), to that of `x`, same shape."""


class Room(NamedTuple):
    """Bounds on the calls of an engine whose plan takes images of any size."""

    memory: int
    """Bytes of the memory that calls compute in: the host's or the device's."""
    grain: int = 1
    """Pixels that sides should be multiples of, as each size is compiled or captured anew; 1 where they are not."""
    side: int | None = None
    """The longest side in pixels; None for any."""


class Closable:
    """Base of engines that free their memory in `close`, not when Python collects them; later calls are refused."""

    _closed = False

    def close(self) -> None:
        """Close as `Engine.close` does."""
        self._closed = True  # first, so that a call which finds an attribute gone finds out why
        held = vars(self)  # the only references but those of calls in progress
        for name in [*held]:
            if name != "_closed":
                held.pop(name, None)
        give_back()

    def need_open(self) -> None:
        """Raise BackendError after `close`."""
        if self._closed:
            raise BackendError("this engine has been closed; load the plan again")

    if not TYPE_CHECKING:  # a type checker would take every name to exist

        def __getattr__(self, name: str) -> Any:
            """Raise BackendError for a missing attribute after `close`, AttributeError before."""
            self.need_open()
            return object.__getattribute__(self, name)  # raises AttributeError, a property's own where it raised one


class OnHost(Closable):
    """Base of engines whose state lives in host memory: they upload nothing and capture no graphs."""

    can_capture = False
    throttled_seconds = 0.0

    @property
    def room(self) -> Room:
        return Room(machine.memory())

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        ready = self.asarray(array)
        return lambda: ready

    def asarray(self, x: Any) -> Array:
        raise NotImplementedError

    def throttle(self) -> None: ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        return None


class Engine(Protocol):
    """One backend running one plan. `x` is (B, C, H, W) on [-1, 1]; `t` is (B,) int64, one timestep per row.

    H and W are the plan's, or any multiples of its stride.
    """

    @property
    def name(self) -> str:
        """The engine's name as it is shown, such as `onnxruntime (cpu)`."""
        ...

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        """Load what calls of `batch` rows need, so that the first is not slower; with `gradients`, for pullbacks too.

        Raises MissingExtra or BackendError where the backend has no gradient.
        """
        ...

    def asarray(self, x: Any) -> Array:
        """Return `x` as a float32 array in the memory where this engine keeps its state."""
        ...

    @property
    def room(self) -> Room:
        """Bounds on the calls, where the plan takes images of any size."""
        ...

    @property
    def can_capture(self) -> bool:
        """Whether `capture` may return a function."""
        ...

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        """Begin to upload a host array; return a function that waits for it and returns it, as `asarray` would.

        Any thread may call it.
        """
        ...

    def throttle(self) -> None:
        """Wait, after a step, while the host is more than a few steps ahead of the device."""
        ...

    @property
    def throttled_seconds(self) -> float:
        """Total seconds that the host has waited in `throttle`."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture `work` as a CUDA graph and return a function that replays it in one launch; None where it cannot.

        `work` is called a few times. It must work in place on arrays made before, and never synchronise with the host.
        """
        ...

    def predict(self, x: Array, t: Array) -> Prediction:
        """Run one forward call; keep no activations."""
        ...

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        """Run one forward call; return its answer and the vector-Jacobian product of `out` in `x`, to be called once.

        Raises MissingExtra or BackendError where the backend has no gradient.
        """
        ...

    def close(self) -> None:
        """Free the network and the buffers of calls, on the host and on the device, before returning.

        Later calls raise BackendError; closing again does nothing.
        """
        ...
