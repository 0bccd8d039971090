"""Steps recorded once and replayed: on a GPU, one CUDA graph for the network, the operator and the sampler together.

A recording is of one move of so many rows that share an operator and a schedule. Its arrays stay where they are: rows
are loaded when they come together, and each replay moves them a step further in place, with no word from the host but
the noise. What a row has while it is loaded are views of those arrays.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from array_api_compat import array_namespace

from ..engines import Array, Engine
from .restoration import Restoration
from .schedule import Coefficients, Schedule

KEPT = 8
"""Recordings of an engine that a thread keeps; each holds the network's activations of its batch."""
NAMES = [field.name for field in fields(Coefficients) if field.name != "t"]
_local = threading.local()

MoveOf = Callable[..., tuple[Array, Array]]


def recording(rows: Sequence[Restoration], engine: Engine, move: MoveOf) -> "Recording | None":
    """What replays the next step of these rows, made if need be; None where the engine records nothing, or the rows
    have several operators or schedules, or one that asks the host while it computes."""
    first = rows[0]
    if not engine.records or not first.operator.recordable:
        return None
    if any(row.operator is not first.operator or row.schedule is not first.schedule for row in rows):
        return None
    kept = _kept(engine)
    key = (
        first.move,
        id(first.operator),
        len(first.schedule),
        len(rows),
    )  # it holds the operator: the id stays its own
    if key not in kept:
        made = Recording(rows, engine, move)
        if made.replay is None:
            return None
        kept[key] = made
        while len(kept) > KEPT:
            kept.popitem(last=False)[1].load([])
    kept.move_to_end(key)
    return kept[key]


def _kept(engine: Engine) -> "OrderedDict[Any, Recording]":
    """The recordings of this thread: arrays that two threads replay on would be both's."""
    if not hasattr(_local, "kept"):
        _local.kept = WeakKeyDictionary()
    found: OrderedDict[Any, Recording] = _local.kept.setdefault(engine, OrderedDict())
    return found


class Recording:
    """One move of `rows`, as `replay`, and the arrays that it reads and writes; `replay` is None where it cannot be
    recorded."""

    def __init__(self, rows: Sequence[Restoration], engine: Engine, move: MoveOf):
        first, like = rows[0], rows[0].x
        xp = self._xp = array_namespace(like)
        self._ahead = engine.ahead
        self._rows: list[Restoration] = []
        self._schedule: Schedule | None = None

        def empty(*shape: int, dtype: Any = like.dtype) -> Array:
            return xp.zeros(shape, dtype=dtype, device=like.device)

        count, steps = len(rows), len(first.schedule)
        self.x, self.x0hat, self.z = (empty(count, *like.shape) for _ in range(3))
        self._y = empty(count, *first.y.shape)
        self._sigma, self._constant = empty(count, 1, 1, 1), empty(count, 1, 1, 1)
        self._tables, self._timesteps = empty(steps, len(NAMES)), empty(steps, dtype=xp.int64)
        self._step = empty(count, dtype=xp.int64)
        kind, operator = first.move, first.operator

        def operators(f: Callable[..., tuple[Array, ...]]) -> tuple[Array, ...]:
            return f(operator, self._y, lambda a: a)

        def once() -> None:
            table = xp.take(self._tables, self._step, axis=0)
            columns = {name: table[:, i, None, None, None] for i, name in enumerate(NAMES)}
            c = Coefficients(t=xp.take(self._timesteps, self._step, axis=0), **columns)
            x, x0hat = move(kind, engine, operators, c, self.x, self.z, self._sigma, self._constant)
            self.x[...], self.x0hat[...] = x, x0hat
            self._step[...] = xp.clip(self._step - 1, 0, None)

        self.load(rows)
        self.replay = engine.record(once)
        self._rows = []  # to be loaded again: recording ran a few steps

    def step(self, rows: Sequence[Restoration]) -> tuple[Array, Array]:
        """x_{t-1} and x0hat, (B, C, H, W), of `rows`, which are held from now on.

        Both are overwritten by the next replay, but an estimate that is compared.
        """
        assert self.replay is not None
        if not all(row is mine and row.held is self for row, mine in zip_longest(rows, self._rows)):
            self.load(rows)
        for i, row in enumerate(rows):
            self.z[i, ...] = row.noise(self._ahead)()
        self.replay()
        compared = any(row.compares for row in rows)
        return self.x, self._xp.asarray(self.x0hat, copy=True) if compared else self.x0hat

    def load(self, rows: Sequence[Restoration]) -> None:
        """Take the state of `rows`; those that were held get arrays of their own."""
        for row in self._rows:
            if row.held is self:
                row.x, row.x0hat = (self._xp.asarray(array, copy=True) for array in (row.x, row.x0hat))
                row.held = None
        self._rows = list(rows)
        for i, row in enumerate(rows):
            self.x[i, ...], self._y[i, ...] = row.x, row.y
        if rows:
            self._sigma[...] = self._column([row.sigma for row in rows])
            self._constant[...] = self._column([row.constant for row in rows])
            self._step[...] = self._placed(np.array([row.step for row in rows]))
            self._take(rows[0].schedule)

    def _take(self, schedule: Schedule) -> None:
        if schedule is not self._schedule:
            self._tables[...] = self._placed(np.stack([schedule.tables[name] for name in NAMES], axis=1), self.x.dtype)
            self._timesteps[...] = self._placed(schedule.timesteps)
            self._schedule = schedule

    def _column(self, values: Sequence[float | None]) -> Array:
        return self._placed(np.asarray(values, np.float64), self.x.dtype)[:, None, None, None]

    def _placed(self, array: np.ndarray, dtype: Any = None) -> Array:
        return self._xp.asarray(array, dtype=dtype, device=self.x.device)
