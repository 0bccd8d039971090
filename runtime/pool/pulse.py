"""Detection of hanging workers by their answers to a ping each beat.

Time is counted in beats, which advance only while the pool itself runs, and not while the machine is suspended.
"""

from collections.abc import Container
from dataclasses import dataclass

from .messages import Pong

BEAT = 0.25
"""The least seconds between pings."""
LATE = 12
"""Beats without an answer after which a worker gets no new requests if another one answers."""
SILENCE = 40
"""Beats without an answer after which a worker counts as hanging: its reading thread answers during calls."""
LONGEST = 20
"""The most time of a call or a start, as a multiple of its measured cost."""
CALL = 480
"""Beats that a call may take at any cost measured, as costs do not include the caller's operator."""
PREPARATION = 5
"""Beats that the preparation of a request may continue after the first answer that names it, once it was given up. That
answer comes within a beat, so the worker is killed 1.25 to 1.5 s after. Most preparations end before, by themselves."""
START = 480
"""Beats that a start may take at any cost measured."""


@dataclass(frozen=True)
class Hang:
    """A reason to kill a worker."""

    why: str
    keys: frozenset[int] | None = None
    """The requests that may be the cause; None where it may be any of the worker's."""


class Pulse:
    """A worker's recent answers. `patience`: beats without an answer that are allowed before it is ready."""

    def __init__(self, patience: float):
        self.missed = 0
        """Beats since an answer was due."""
        self._patience = patience
        self._pinged = False
        self._call: int | None = None
        self._beats = 0
        """Consecutive answers that named the current call."""
        self._given_up: dict[int, int] = {}
        """By key, the answers that named a request in preparation after it was given up."""

    def beat(self) -> bool:
        """Count a beat; return whether to send a ping, of which one at a time is unanswered."""
        if self._pinged:
            self.missed += 1
            return False
        self._pinged = True
        return True

    def ready(self) -> None:
        """Expect answers to pings from now on."""
        self._patience, self.missed = SILENCE, 0

    def silent(self) -> Hang | None:
        """Return the Hang of a worker that has not answered for too long, or None."""
        if self.missed < self._patience:
            return None
        return Hang(f"a worker did not answer for {self.missed * BEAT:.0f} s")

    def heard(self, pong: Pong, asked: Container[int]) -> Hang | None:
        """Take an answer; return the Hang that it shows, or None. asked: the keys of requests not given up."""
        self._pinged, self.missed = False, 0
        call = pong.call
        self._beats = self._beats + 1 if call is not None and call.number == self._call else 0
        self._call = None if call is None else call.number
        if call is not None and self._beats * BEAT > max(CALL * BEAT, LONGEST * call.seconds):
            why = f"a network call of {call.seconds:.3g} s was not done after {self._beats * BEAT:.0f} s"
            return Hang(why, frozenset(call.keys))
        self._given_up = {key: self._given_up.get(key, -1) + 1 for key in pong.preparing if key not in asked}
        endless = frozenset(key for key, beats in self._given_up.items() if beats >= PREPARATION)
        if endless:
            return Hang(f"a request was still prepared {PREPARATION * BEAT:g} s after it was given up", endless)
        return None
