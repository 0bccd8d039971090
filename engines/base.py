"""The protocol of an engine: the calls that every backend offers, and nothing more.

Arrays are numpy or torch; results come back in the namespace and on the device of `x`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from . import machine
from .array_api import Array
from .errors import BackendError
from .memory import give_back


class Prediction(NamedTuple):
    """The network's answer for a batch."""

    out: Array
    """(B, C, H, W): eps, v or x0, as the plan's `prediction_type` says."""
    variance: Array | None
    """(B, C, H, W): the learned-range variance logit in [-1, 1], or None where the variance is fixed."""


ANSWERS = ("out", "variance")
"""The names of a Prediction's arrays in the plan's graphs."""

PRECISIONS = ("fp16", "bf16", "fp32")
"""Precisions of a network's arithmetic, the preferred one first."""

Pull = Callable[[Array], Array]
"""Takes a cotangent of `Prediction.out`, (B, C, H, W), to the cotangent of `x`, same shape."""


class Room(NamedTuple):
    """Bounds on the calls of an engine whose plan takes images of any size."""

    memory: int
    """Bytes of the memory that they live in."""
    grain: int = 1
    """Pixels that sides should be multiples of, as each size is compiled or recorded anew; 1 for no such cost."""
    side: int | None = None
    """The longest side, None for any."""


class Closable:
    """Lets an engine go when it is told to, not when Python finds it; calls after that are refused."""

    _closed = False

    def close(self) -> None:
        """Close as `Engine.close` does."""
        self._closed = True  # first: a call that finds something gone is to find this
        held = vars(self)  # the only references there are: calls under way have theirs
        for name in [*held]:
            if name != "_closed":
                held.pop(name, None)
        give_back()

    def need_open(self) -> None:
        """Raises BackendError after `close`."""
        if self._closed:
            raise BackendError("this engine has been closed; load the plan again")

    if not TYPE_CHECKING:  # or it would vouch for every name

        def __getattr__(self, name: str) -> Any:
            """Asked for what is not there: after `close`, everything."""
            self.need_open()
            return object.__getattribute__(self, name)  # raises AttributeError, of a property's own where it did


class OnHost(Closable):
    """Base of engines whose state lives in host memory: they upload nothing and record nothing."""

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
        """The engine's name for people: `onnxruntime (cpu)`."""
        ...

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        """Load what calls of `batch` rows will need, so that none of them pays; with `gradients`, pullbacks too.

        Raises MissingExtra or BackendError where the backend has no gradient.
        """
        ...

    def asarray(self, x: Any) -> Array:
        """Return `x` as a float32 array in the memory where this engine wants its state."""
        ...

    @property
    def room(self) -> Room:
        """Bounds on its calls, where the plan takes images of any size."""
        ...

    @property
    def can_capture(self) -> bool:
        """Whether `capture` may give something."""
        ...

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        """Begin to upload a host array, and return a function that waits for `asarray`. From any thread."""
        ...

    def throttle(self) -> None:
        """Throttle the host after a step: wait while it is more than a few steps ahead of the device."""
        ...

    @property
    def throttled_seconds(self) -> float:
        """Seconds that the host has waited in `throttle`, all in all."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture `work` as a CUDA graph and return a function that replays it in one launch; None where it cannot.

        `work` is called a few times. It must work in place on arrays made before, and never synchronise with the host.
        """
        ...

    def predict(self, x: Array, t: Array) -> Prediction:
        """One forward call, no gradient kept."""
        ...

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        """One forward call, and the vector-Jacobian product of `out` with respect to `x`, to be called once.

        Raises MissingExtra or BackendError where the backend has no gradient.
        """
        ...

    def close(self) -> None:
        """Let go of the network and of what calls have left, on the host and on a device: the memory is free on return.

        Calls after it raise BackendError; closing again does nothing.
        """
        ...
