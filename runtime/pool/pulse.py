"""Whether a worker hangs, judged by what it answers to a ping a second.

Time is counted in beats, each of which the pool itself lived through: a machine that was suspended has counted none.
"""

from collections.abc import Container
from dataclasses import dataclass

from .messages import Pong

BEAT = 1.0
"""Seconds between pings at least."""
LATE = 3
"""Beats without an answer after which a worker is not counted on."""
SILENCE = 10
"""Beats without an answer after which it hangs: its reading thread answers while the engine computes."""
LONGEST = 20
"""Times its measured cost that a call, or a start, may take."""
CALL = 120
"""Beats that a call may take anyway, as costs are measured without the caller's operator."""
PREPARATION = 5
"""Beats that the preparation of a request may go on after the request was given up."""
START = 120
"""Beats that a start may take anyway."""


@dataclass(frozen=True)
class Hang:
    """A reason to kill a worker."""

    why: str
    keys: frozenset[int] | None = None
    """The requests that it hangs over; None where it may be any of them."""


class Pulse:
    """A worker's answers of late. `patience`: beats without an answer that are allowed before it is ready."""

    def __init__(self, patience: float):
        self.missed = 0
        """Beats since it should have answered."""
        self._patience = patience
        self._pinged = False
        self._call: int | None = None
        self._beats = 0
        """Answers that named this call."""
        self._given_up: dict[int, int] = {}
        """The answers that named a request in preparation after it was given up, by its key."""

    def beat(self) -> bool:
        """Count a beat, and say whether a ping is to be sent: one at a time is on its way."""
        if self._pinged:
            self.missed += 1
            return False
        self._pinged = True
        return True

    def ready(self) -> None:
        """Take it that the worker answers pings from now on."""
        self._patience, self.missed = SILENCE, 0

    def silent(self) -> Hang | None:
        """The hang of a worker that has not answered for too long."""
        if self.missed < self._patience:
            return None
        return Hang(f"a worker did not answer for {self.missed * BEAT:.0f} s")

    def heard(self, pong: Pong, asked: Container[int]) -> Hang | None:
        """Take an answer; the hang that it shows. asked: the keys of requests that are not given up."""
        self._pinged, self.missed = False, 0
        call = pong.call
        self._beats = self._beats + 1 if call is not None and call.number == self._call else 0
        self._call = None if call is None else call.number
        if call is not None and self._beats * BEAT > max(CALL * BEAT, LONGEST * call.seconds):
            why = f"a network call of {call.seconds:.3g} s was not done after {self._beats * BEAT:.0f} s"
            return Hang(why, frozenset(call.keys))
        self._given_up = {key: self._given_up.get(key, -1) + 1 for key in pong.preparing if key not in asked}
        endless = frozenset(key for key, beats in self._given_up.items() if beats > PREPARATION)
        if endless:
            return Hang(f"a request was still prepared {PREPARATION * BEAT:.0f} s after it was given up", endless)
        return None
