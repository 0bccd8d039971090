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
    """The SHA-256 that the plan's weights must have; None accepts any."""
    trust_engines: bool = False
    """As in `Restorer.load`."""
    costs: Costs | None = None
    """Costs that another worker measured on this machine; None: the worker measures them."""


@dataclass(frozen=True)
class Ready:
    """A worker's first answer, once its engine is warm."""

    backend: str
    image_shape: tuple[int, int, int]
    any_size: bool
    """Whether the plan takes images of any size; otherwise only that of `image_shape`."""
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
    """A message to forget a request."""

    key: int


@dataclass(frozen=True)
class Report:
    """The account of a network call. `moved` carries estimates only for requests that want them."""

    phase: str
    pulls: bool
    rows: int
    room: int
    seconds: float
    """Seconds of the call: network, sampler and operators."""
    own: float
    """Seconds of the scheduler and the connection."""
    active: int
    """Rows that are not finished."""
    moved: tuple[Moved, ...]
    finished: dict[int, Result]
    failed: dict[int, FrugalError]


@dataclass(frozen=True)
class Refused:
    """A worker's refusal of a request, with the error."""

    key: int
    why: FrugalError


@dataclass(frozen=True)
class Ping:
    """A message that the worker's reading thread answers at once."""


@dataclass(frozen=True)
class Pong:
    """A worker's answer to a Ping."""

    call: Underway | None
    preparing: tuple[int, ...]
    """The requests in preparation."""
