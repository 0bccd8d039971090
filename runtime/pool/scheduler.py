"""Scheduler of network calls: advances the restorations of many requests, a shared call at a time, in one thread.

A service's worker drives this; nothing here knows processes, clocks or HTTP.
"""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...engines import Array, DivergedError, FrugalError, InputError
from ...engines.errors import Stopped
from ...engines.stopping import Stop, stoppable
from ...engines.tiled import Tiled
from ..restorer import Restorer
from ..result import Result
from ..sampling.advance import advance
from ..sampling.loop import no_seconds
from ..sampling.restoration import Restoration
from .costs import Costs

QUANTUM = 20
"""Steps of a row that weigh as much as one later arrival: so a long restoration lets short ones by, one at a time."""
PATIENCE = 3
"""Calls that may pass over the row whose turn it is for a fuller one."""


@dataclass(frozen=True)
class Moved:
    """A row that a call brought one step further."""

    key: int
    """The request's."""
    row: int
    left: int
    """Steps left, T-1 .. 0."""
    steps: int
    phase: str
    """"gradient", "forward" or "flow"."""
    settled: float
    """PSNR in dB between the last two estimates compared; -inf before."""
    x0hat: Array | None
    """(C, H, W) on [-1, 1]: the current estimate; None where nobody asked for it."""


@dataclass(frozen=True)
class Underway:
    """A network call that has begun."""

    number: int
    """Its place among the scheduler's calls."""
    keys: tuple[int, ...]
    """The requests whose rows it has."""
    seconds: float
    """Measured time of such a call."""


@dataclass(frozen=True)
class Call:
    """The outcome of one network call."""

    phase: str
    pulls: bool
    rows: int
    room: int
    """The rows it could have had."""
    seconds: float
    moved: tuple[Moved, ...]
    finished: Mapping[int, Result]
    failed: Mapping[int, FrugalError]


@dataclass
class _Entry:
    """A request whose rows take turns."""

    key: int
    restorer: Restorer
    rows: list[Restoration]
    priority: int
    seconds: dict[str, float] = field(default_factory=no_seconds)
    largest: int = 1
    """The most rows that shared a call with one of its own, these included."""


@dataclass
class _Turn:
    """A row that is not at its end, and when it is its turn."""

    entry: _Entry
    index: int
    rank: float
    """Less is sooner, at one priority."""
    passed: int = 0
    """Calls since it came first and was left for a fuller one."""

    @property
    def row(self) -> Restoration:
        return self.entry.rows[self.index]


class Scheduler:
    """Requests in, network calls out: `step` makes one call of rows that share an equation, whoever they belong to.

    Higher priorities go first; within one, rows go by arrival. A row counts as one arrival later for every row of its
    request before it, and for every QUANTUM steps it has had. Among the rows whose turn it is, the scheduler takes
    those that fill the next call best.
    """

    def __init__(self, costs: Costs):
        self.costs = costs
        self.underway: Underway | None = None
        """The call that `step` is making; any thread may ask."""
        self._calling = threading.Lock()
        self._stop = Stop()
        """Ends that call."""
        self._given_up: set[int] = set()
        """Requests that `cancel` is still to be told of."""
        self._calls = itertools.count()
        self._turns: list[_Turn] = []
        self._arrivals = 0

    def __len__(self) -> int:
        """Rows that are not at their end."""
        return len(self._turns)

    def add(self, key: int, restorer: Restorer, rows: Sequence[Restoration], priority: int = 0) -> None:
        """Take a request: `rows` of one `restorer._begin`, to be told of by `key`. They join at the next call."""
        entry = _Entry(key, restorer, list(rows), priority)
        self._turns += [_Turn(entry, i, self._arrivals + i) for i in range(len(rows))]
        self._arrivals += 1

    def give_up(self, key: int) -> None:
        """End the call under way where all its rows are given up; `cancel` follows. From any thread."""
        with self._calling:
            self._given_up.add(key)
            self._stop_if_given_up()

    def cancel(self, key: int) -> None:
        """Forget a request. Nothing happens where there is none."""
        self._turns = [turn for turn in self._turns if turn.entry.key != key]
        with self._calling:
            self._given_up.discard(key)

    def step(self) -> Call:
        """Make the next call, of which there must be one: `len(self)` is not 0.

        A row that diverges, or whose operator raises, fails its own request and no other.
        """
        batch, room = self._next()
        row = batch[0].row
        phase, pulls = row.phase.value, row.move.pulls
        started = time.perf_counter()
        failed = self._advance(batch)
        seconds = time.perf_counter() - started
        moved, finished = [], {}
        for turn in batch:
            entry, row = turn.entry, turn.row
            if entry.key in failed:
                continue
            turn.rank += 1 / QUANTUM
            turn.passed = 0
            entry.seconds[phase] += seconds / len(batch)
            entry.largest = max(entry.largest, len(batch))
            settled = row.trace[-1] if row.trace else -np.inf
            moved.append(Moved(entry.key, turn.index, row.step + 1, len(row.schedule), phase, settled, row.x0hat))
            if all(one.step < 0 for one in entry.rows):
                try:
                    finished[entry.key] = entry.restorer._gather(entry.rows, entry.seconds, entry.largest)
                except DivergedError as error:
                    failed[entry.key] = error
        self._turns = [turn for turn in self._turns if turn.row.step >= 0 and turn.entry.key not in failed]
        return Call(phase, pulls, len(batch), room, seconds, tuple(moved), finished, failed)

    def _next(self) -> tuple[list[_Turn], int]:
        """The rows of the next call, and how many it could have."""
        reach = 2 * max(self.costs.room(False), self.costs.room(True))
        turns = sorted(self._turns, key=lambda turn: (-turn.entry.priority, turn.rank))[:reach]
        groups: dict[tuple[int, object], list[_Turn]] = {}
        for turn in turns:
            groups.setdefault((id(turn.entry.restorer.engine), turn.row.move), []).append(turn)
        calls = [self._call(group) for group in groups.values()]
        first = turns[0]
        if first.passed >= PATIENCE:
            return calls[0]
        batch, room = max(calls, key=lambda call: len(call[0]) / call[1])  # the first of those that are equal
        first.passed += first not in batch
        return batch, room

    def _call(self, group: list[_Turn]) -> tuple[list[_Turn], int]:
        """Take the rows of a group, in their order, that a call has room for. Tiles of an image are their own batch."""
        if isinstance(group[0].entry.restorer.engine, Tiled):
            return group[:1], 1
        pulls, weight = group[0].row.move.pulls, group[0].entry.restorer._weight
        return group[: self.costs.size(len(group), pulls, weight)], self.costs.room(pulls, weight)

    def _seconds(self, restorer: Restorer, pulls: bool, rows: int) -> float:
        """The measured time of a call, of so many times the pixels that it was measured with."""
        if isinstance(restorer.engine, Tiled):
            return restorer.engine.tiles * self.costs.of(pulls)[rows]
        return restorer._weight * self.costs.of(pulls)[rows]

    def _advance(self, batch: Sequence[_Turn]) -> dict[int, FrugalError]:
        """The call; where it fails, one for each row alone, so that only those fail that must."""
        engine, pulls = batch[0].entry.restorer.engine, batch[0].row.move.pulls
        seconds = self._seconds(batch[0].entry.restorer, pulls, len(batch))
        with self._calling:
            self.underway = Underway(next(self._calls), tuple({turn.entry.key for turn in batch}), seconds)
            self._stop = Stop()
            self._stop_if_given_up()
        try:
            with stoppable(self._stop):
                advance([turn.row for turn in batch], engine)
        except Stopped as stopped:
            return dict.fromkeys((turn.entry.key for turn in batch), stopped)
        except Exception as error:  # noqa: BLE001 (a caller's own operator may raise anything)
            if len(batch) > 1:
                failures = [self._advance([turn]) for turn in batch]
                return {key: why for failure in failures for key, why in failure.items()}
            (turn,) = batch
            named = turn.row.operator.name
            why = error if isinstance(error, FrugalError) else InputError(f"{named} raised {error!r} in a step")
            return {turn.entry.key: why}
        finally:
            with self._calling:
                self.underway = None
        return {}

    def _stop_if_given_up(self) -> None:
        """End the call under way where nobody waits for any of its rows."""
        if self.underway is not None and self._given_up.issuperset(self.underway.keys):
            self._stop.ask()
