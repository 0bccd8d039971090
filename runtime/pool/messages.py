"""The messages between a pool and its workers."""

from dataclasses import dataclass

import numpy as np

from ...engines import FrugalError
from ..result import Result
from ..sampling.guidance import Guidance
from .costs import Costs
from .scheduler import Moved, Underway


@dataclass(frozen=True)
class Setup:
    """The first message to a worker."""

    plan: str
    backend: str
    weights_sha256: str | None
    """The prior that it must find in the plan; None takes any."""
    trust_engines: bool = False
    """As of `Restorer.load`."""
    costs: Costs | None = None
    """Costs that another worker measured here before; None has the worker measure them."""


@dataclass(frozen=True)
class Ready:
    """A worker's first answer, once its engine is warm."""

    backend: str
    image_shape: tuple[int, int, int]
    any_size: bool
    """Whether the plan takes images of any size, and not that of `image_shape` alone."""
    prior: str
    weights_sha256: str
    costs: Costs


@dataclass(frozen=True)
class Submit:
    """A request for a worker."""

    key: int
    operator: bytes
    """A pickled Operator."""
    y: np.ndarray
    asked: Guidance
    priority: int
    previews: bool
    """Whether each step's estimate is sent."""


@dataclass(frozen=True)
class Cancel:
    """Forget a request."""

    key: int


@dataclass(frozen=True)
class Report:
    """The account of one network call. `moved` carries estimates only for requests that asked for them."""

    phase: str
    pulls: bool
    rows: int
    room: int
    seconds: float
    """Seconds in the network, the sampler and the operators."""
    own: float
    """Around them: the scheduler, and the connection."""
    active: int
    """Rows that are not at their end."""
    moved: tuple[Moved, ...]
    finished: dict[int, Result]
    failed: dict[int, FrugalError]


@dataclass(frozen=True)
class Refused:
    """A request that could not begin."""

    key: int
    why: FrugalError


@dataclass(frozen=True)
class Ping:
    """Answer, whatever you are at."""


@dataclass(frozen=True)
class Pong:
    """A worker's answer to a Ping."""

    call: Underway | None
    preparing: tuple[int, ...]
    """The requests in preparation."""
