"""The place that a worker process has in a pool."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .link import Link
from .messages import Ready, Setup
from .pulse import LATE
from .requests import Request


@dataclass(eq=False)
class Slot:
    """A place for a worker process, started again in it when it dies: the slot keeps the plan and the requests."""

    setup: Setup
    environment: Mapping[str, str]
    """Variables of its process besides the pool's: the one CUDA device that it sees."""
    started: "asyncio.Future[None]"
    """Done when its first worker is warm."""
    requests: dict[int, Request] = field(default_factory=dict)
    link: Link | None = None
    facts: Ready | None = None
    """Its worker's answer when it was last ready."""
    patience: float = math.inf
    """Beats that a start may take; no limit before there was one."""
    deaths: int = 0
    """Deaths in a row before it was ready."""
    retired: bool = False
    """Whether it takes no more requests, and goes when those it has are done."""
    failed: bool = False
    """No worker can be started in it, now or any more."""
    rests: int = 0
    """Rests in a row, after each of which a worker is tried again."""

    @property
    def answers(self) -> bool:
        """Whether its worker is warm, and did answer lately."""
        link = self.link  # any thread may ask
        return link is not None and link.ready is not None and link.pulse.missed < LATE

    @property
    def images(self) -> int:
        return sum(request.images for request in self.requests.values())

    @property
    def is_over(self) -> bool:
        return self.retired and not self.requests
