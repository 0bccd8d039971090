"""Scheduler of network calls: it advances the rows of many requests, one shared call at a time, in one thread.

A pool's worker drives it. It is independent of processes and HTTP.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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
"""Steps of a row that weigh as much as one later arrival, so that short restorations overtake a long one."""
PATIENCE = 3
"""The most calls that may leave out the first row in the queue for a fuller batch."""


@dataclass(frozen=True)
class Moved:
    """A row that a call advanced by a step."""

    key: int
    """The request's key."""
    row: int
    left: int
    """Steps left, T-1 .. 0."""
    steps: int
    phase: str
    """"gradient", "forward" or "flow"."""
    settled: float
    """PSNR in dB between the last two estimates compared; -inf before there are two."""
    x0hat: Array | None
    """(C, H, W) on [-1, 1]: the current estimate; None where it is not wanted."""


@dataclass(frozen=True)
class Underway:
    """A network call in progress."""

    number: int
    """The call's number, counted from the scheduler's first."""
    keys: tuple[int, ...]
    """The keys of the requests with rows in it."""
    seconds: float
    """Measured time of such a call."""


@dataclass(frozen=True)
class Call:
    """The outcome of a network call."""

    phase: str
    pulls: bool
    rows: int
    room: int
    """The batch size of the call, which its rows may not fill."""
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
    """The most rows of a call with a row of this request."""


@dataclass
class _Turn:
    """An unfinished row and its place in the queue."""

    entry: _Entry
    index: int
    rank: float
    """Rank within a priority; the lowest comes first."""
    passed: int = 0
    """Calls that left the row out, since it came first, for a fuller batch."""

    @property
    def row(self) -> Restoration:
        return self.entry.rows[self.index]


class Scheduler:
    """Scheduler of the rows of many requests: `step` makes a call of rows that share a move, of any requests.

    Higher priorities come first, and within a priority rows are ordered by arrival. A row counts as one arrival later
    for every earlier row of its request, and for every QUANTUM steps it has had. Among the first rows of each move the
    scheduler takes those that fill a call best.
    """

    def __init__(self, costs: Costs):
        self.costs = costs
        self.underway: Underway | None = None
        """The call that `step` is making; any thread may read it."""
        self._calling = threading.Lock()
        self._stop = Stop()
        """The Stop of the call in progress."""
        self._given_up: set[int] = set()
        """Keys given up for which `cancel` has not been called yet."""
        self._calls = itertools.count()
        self._turns: list[_Turn] = []
        self._arrivals = 0

    def __len__(self) -> int:
        """Return the number of unfinished rows."""
        return len(self._turns)

    def add(self, key: int, restorer: Restorer, rows: Sequence[Restoration], priority: int = 0) -> None:
        """Take a request: `rows` of a call of `restorer._begin`, reported under `key`. They may join the next call."""
        entry = _Entry(key, restorer, list(rows), priority)
        self._turns += [_Turn(entry, i, self._arrivals + i) for i in range(len(rows))]
        self._arrivals += 1

    def give_up(self, key: int) -> None:
        """Give a request up; interrupt the call in progress where all its rows are given up. `cancel` must follow.

        Any thread may call it.
        """
        with self._calling:
            self._given_up.add(key)
            self._stop_if_given_up()

    def cancel(self, key: int) -> None:
        """Forget a request; do nothing where the key is unknown."""
        self._turns = [turn for turn in self._turns if turn.entry.key != key]
        with self._calling:
            self._given_up.discard(key)

    def step(self) -> Call:
        """Make the next call; `len(self)` must not be 0.

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
                    with self._stoppable((entry.key,), seconds):
                        finished[entry.key] = entry.restorer._gather(entry.rows, entry.seconds, entry.largest)
                except (DivergedError, Stopped) as error:
                    failed[entry.key] = error
        self._turns = [turn for turn in self._turns if turn.row.step >= 0 and turn.entry.key not in failed]
        return Call(phase, pulls, len(batch), room, seconds, tuple(moved), finished, failed)

    def _next(self) -> tuple[list[_Turn], int]:
        """Return the rows of the next call, and its batch size."""
        reach = 2 * max(self.costs.room(False), self.costs.room(True))
        turns = sorted(self._turns, key=lambda turn: (-turn.entry.priority, turn.rank))[:reach]
        groups: dict[tuple[int, object], list[_Turn]] = {}
        for turn in turns:
            groups.setdefault((id(turn.entry.restorer.engine), turn.row.move), []).append(turn)
        calls = [self._call(group) for group in groups.values()]
        first = turns[0]
        if first.passed >= PATIENCE:
            return calls[0]
        batch, room = max(calls, key=lambda call: len(call[0]) / call[1])  # the first of equal ones
        first.passed += first not in batch
        return batch, room

    def _call(self, group: list[_Turn]) -> tuple[list[_Turn], int]:
        """Return the first rows of a group that fit a call, and the call's size.

        An image in tiles is a call by itself.
        """
        if isinstance(group[0].entry.restorer.engine, Tiled):
            return group[:1], 1
        pulls, weight = group[0].row.move.pulls, group[0].entry.restorer._weight
        return group[: self.costs.size(len(group), pulls, weight)], self.costs.room(pulls, weight)

    def _seconds(self, restorer: Restorer, pulls: bool, rows: int) -> float:
        """Return the measured time of a call, scaled by its pixels."""
        if isinstance(restorer.engine, Tiled):
            return restorer.engine.tiles * self.costs.of(pulls)[rows]
        return restorer._weight * self.costs.of(pulls)[rows]

    def _advance(self, batch: Sequence[_Turn]) -> dict[int, FrugalError]:
        """Make the call; where it fails, a call for each row, so that only the requests at fault fail."""
        engine, pulls = batch[0].entry.restorer.engine, batch[0].row.move.pulls
        seconds = self._seconds(batch[0].entry.restorer, pulls, len(batch))
        keys = tuple({turn.entry.key for turn in batch})
        try:
            with self._stoppable(keys, seconds):
                advance([turn.row for turn in batch], engine)
        except Stopped as stopped:
            return dict.fromkeys(keys, stopped)
        except Exception as error:  # noqa: BLE001 (a caller's own operator may raise anything)
            if len(batch) > 1:
                failures = [self._advance([turn]) for turn in batch]
                return {key: why for failure in failures for key, why in failure.items()}
            (turn,) = batch
            named = turn.row.operator.name
            why = error if isinstance(error, FrugalError) else InputError(f"{named} raised {error!r} in a step")
            return {turn.entry.key: why}
        return {}

    @contextlib.contextmanager
    def _stoppable(self, keys: tuple[int, ...], seconds: float) -> Iterator[None]:
        """Enclose work of the requests `keys`, which ends where all are given up; `seconds`: as in Underway."""
        with self._calling:
            self.underway = Underway(next(self._calls), keys, seconds)
            self._stop = Stop()
            self._stop_if_given_up()
        try:
            with stoppable(self._stop):
                yield
        finally:
            with self._calling:
                self.underway = None

    def _stop_if_given_up(self) -> None:
        """Interrupt the call in progress where all its rows are given up."""
        if self.underway is not None and self._given_up.issuperset(self.underway.keys):
            self._stop.ask()
