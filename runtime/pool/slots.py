"""Slots of a pool, each for a worker process."""

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
    """A place for a worker process, with its plan and requests. A worker that dies is replaced in the slot."""

    setup: Setup
    environment: Mapping[str, str]
    """Environment variables of its process besides the pool's, which set its CUDA device."""
    started: "asyncio.Future[None]"
    """Future that is done when the first worker is warm."""
    requests: dict[int, Request] = field(default_factory=dict)
    link: Link | None = None
    facts: Ready | None = None
    """The worker's answer when it was last ready."""
    patience: float = math.inf
    """The most beats of a start; no limit for the first."""
    deaths: int = 0
    """Consecutive deaths of workers before they were ready."""
    retired: bool = False
    """Whether the slot takes no more requests, and ends when those it has are done."""
    failed: bool = False
    """Whether no worker can be started in it any more."""
    rests: int = 0
    """Consecutive rests, after each of which a worker is started again."""

    @property
    def answers(self) -> bool:
        """Whether its worker is warm, and has answered recently."""
        link = self.link  # read once: other threads may set it
        return link is not None and link.ready is not None and link.pulse.missed < LATE

    @property
    def images(self) -> int:
        return sum(request.images for request in self.requests.values())

    @property
    def is_over(self) -> bool:
        return self.retired and not self.requests
