"""Steps as CUDA graphs: on a GPU, a step's network call, operator and sampler are captured once and replayed.

Rows that share an operator and a number of steps are loaded into arrays at fixed addresses. Each replay of a move takes
them a step further in place. The host uploads the noise alone, in blocks of several steps. While a row is loaded, its
state consists of views of those arrays.
"""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from functools import cache
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ...engines import Array, Engine
from ...engines.array_api import array_namespace
from ...engines.machine import cores
from ...engines.stopping import Stop, stoppable
from .restoration import Fetch, Group, Move, Restoration
from .schedule import Coefficients, Schedule

KEPT = 16
"""The most sets of arrays that an engine keeps in a thread."""
BYTES_KEPT = 2 << 30
"""The most bytes of all sets of a thread without the one used last. Images of each size have a set of their own."""
WORTH = 16
"""The least steps left for which moves are captured; capturing runs each a few times."""
BLOCK = 8
"""Steps whose noise is drawn and uploaded together, during the steps of the block before."""
NAMES = [field.name for field in fields(Coefficients) if field.name != "t"]
NUMBERS = ("sigma", "zeta", "every", "lam")
"""Attributes of a row that a move may read."""
_local = threading.local()

MoveOf = Callable[..., tuple[Array, Array]]


@cache
def _draws(process: int) -> ThreadPoolExecutor:
    """Return the threads that draw noise, of this process: threads do not survive a fork. One core is slower than a
    GPU.
    """
    return ThreadPoolExecutor(max(1, cores() - 2), "frugal-rt-noise")


def captured(rows: Sequence[Restoration], engine: Engine, move: MoveOf) -> "Loaded | None":
    """Return the arrays that replay the next step of these rows, made if needed; None where it is not captured.

    It is not where the engine captures nothing, the rows differ in operator or schedule, the operator synchronises with
    the host, or too few steps are left.
    """
    first = rows[0]
    if not engine.can_capture or not first.operator.capturable:
        return None
    if any(row.operator is not first.operator or row.schedule is not first.schedule for row in rows):
        return None
    kept = _kept(engine)
    # The set refers to the operator, so that no other one can get its id.
    key = (id(first.operator), len(first.schedule), len(rows))
    if key not in kept:
        if first.step + 1 < WORTH:
            return None
        kept[key] = Loaded(rows, engine.upload)
        while len(kept) > KEPT:
            kept.popitem(last=False)[1].load([])
        _forget(kept[key])
    kept.move_to_end(key)
    kept[key].used = time.monotonic()
    return kept[key] if kept[key].replays(first.move, engine, move) else None


def _kept(engine: Engine) -> "OrderedDict[Any, Loaded]":
    """Return this thread's sets of arrays: two threads must not replay on the same arrays."""
    if not hasattr(_local, "kept"):
        _local.kept = WeakKeyDictionary()
    found: OrderedDict[Any, Loaded] = _local.kept.setdefault(engine, OrderedDict())
    return found


def _forget(new: "Loaded") -> None:
    """Free the sets used longest ago, of any engine, until the rest has at most BYTES_KEPT.

    Restorers for other image sizes have engines of their own around the same network.
    """
    others = [(one, of, key) for of in _local.kept.values() for key, one in of.items() if one is not new]
    held = new.bytes + sum(one.bytes for one, *_ in others)
    for one, of, key in sorted(others, key=lambda entry: entry[0].used):
        if held <= BYTES_KEPT:
            return
        one.load([])
        del of[key]
        held -= one.bytes


class Loaded:
    """Arrays for as many rows as `like`, with their operator and number of steps, and the moves captured on them.

    It does not refer to the engine, which is the key it is kept under and would otherwise never be freed.
    """

    def __init__(self, like: Sequence[Restoration], upload: Callable[[np.ndarray], Fetch]):
        first, x = like[0], like[0].x
        xp = self._xp = array_namespace(x)
        self.name = object()
        """Token that rows hold instead of this object, so that it is freed with its engine."""
        self.used = time.monotonic()
        """Time of its last use."""
        self._upload, self._operator, self._flips = upload, first.operator, first.schedule.flips
        self._rows: list[Restoration] = []
        self._schedule: Schedule | None = None
        self._replays: dict[Move, Callable[[], None] | None] = {}
        self._blocks: dict[tuple[int, int], Future[Fetch]] = {}

        def empty(*shape: int, dtype: Any = x.dtype) -> Array:
            return xp.zeros(shape, dtype=dtype, device=x.device)

        count, steps = len(like), len(first.schedule)
        self._x, self._x0hat = empty(count, *x.shape), empty(count, *x.shape)
        self._noise = empty(count, BLOCK, *x.shape)
        """Noise z of step s, at index s modulo BLOCK."""
        self._y = empty(count, *first.y.shape)
        self._numbers = empty(len(NUMBERS), count, 1, 1, 1)
        """The rows' NUMBERS, NaN for None."""
        self._tables, self._timesteps = empty(steps, len(NAMES)), empty(steps, dtype=xp.int64)
        self._step, self._order = empty(count, dtype=xp.int64), xp.arange(count, device=x.device)
        whole = (self._x, self._x0hat, self._noise, self._y)
        self.bytes = sum(math.prod(array.shape) for array in whole) * xp.finfo(x.dtype).bits // 8

    def replays(self, kind: Move, engine: Engine, move: MoveOf) -> bool:
        """Return whether a move is captured; capture it at the first call, if that is possible."""
        if kind not in self._replays:
            rows, self._rows = self._rows, []
            for row in rows:
                self._give_back(row)
            with stoppable(Stop()):  # nobody stops a capture, which would break it
                self._replays[kind] = engine.capture(lambda: self._once(kind, engine, move))  # runs a few steps
        return self._replays[kind] is not None

    def step(self, rows: Sequence[Restoration]) -> tuple[Array, Array]:
        """Return x_{t-1} and x0hat, (B, C, H, W), of `rows`, which stay loaded.

        The next replay overwrites both, except estimates that are compared.
        """
        replay = self._replays[rows[0].move]
        assert replay is not None
        loaded = all(row is mine and row.held is self.name for row, mine in zip_longest(rows, self._rows))
        if not loaded:
            self.load(rows)
        if rows[0].move.draws:
            self._take_blocks([i for i, row in enumerate(rows) if not loaded or (row.step + 1) % BLOCK == 0])
        replay()
        compared = any(row.compares for row in rows)
        return self._x, self._xp.asarray(self._x0hat, copy=True) if compared else self._x0hat

    def load(self, rows: Sequence[Restoration]) -> None:
        """Load the state of `rows`; rows that were loaded before get arrays of their own."""
        for row in self._rows:
            self._give_back(row)
        self._rows, self._blocks = list(rows), {}
        if not rows:
            return
        for i, row in enumerate(rows):
            self._x[i, ...], self._y[i, ...] = row.x, row.y
        numbers = [[getattr(row, name) for row in rows] for name in NUMBERS]
        self._numbers[...] = self._placed(np.asarray(numbers, np.float64)[:, :, None, None, None])
        self._step[...] = self._xp.astype(self._placed(np.array([row.step for row in rows])), self._step.dtype)
        schedule = rows[0].schedule
        if schedule is not self._schedule:
            self._tables[...] = self._placed(np.stack([schedule.tables[name] for name in NAMES], axis=1))
            self._timesteps[...] = self._xp.astype(self._placed(schedule.timesteps), self._timesteps.dtype)
            self._schedule = schedule

    def _once(self, kind: Move, engine: Engine, move: MoveOf) -> None:
        xp = self._xp
        table = xp.take(self._tables, self._step, axis=0)
        columns = {name: table[:, i, None, None, None] for i, name in enumerate(NAMES)}
        c = Coefficients(t=xp.take(self._timesteps, self._step, axis=0), **columns)
        z = self._noise[self._order, self._step % BLOCK]
        sigma, zeta, every, lam = (self._numbers[i, ...] for i in range(len(NUMBERS)))
        constant = {Move.DPS: zeta, Move.FRUGAL: every}.get(kind, lam)
        groups = [Group(self._operator, self._y, slice(None))]
        x, x0hat = move(kind, engine, groups, c, self._x, z, sigma, constant, self._flips)
        self._x[...], self._x0hat[...] = x, x0hat
        self._step[...] = xp.clip(self._step - 1, 0, None)

    def _give_back(self, row: Restoration) -> None:
        if row.held is self.name:
            row.x, row.x0hat = (self._xp.asarray(array, copy=True) for array in (row.x, row.x0hat))
            row.held = None

    def _take_blocks(self, due: Sequence[int]) -> None:
        """Copy the noise of these rows' next block of steps into place, and begin to draw the block after it."""
        for ahead in (0, 1):
            for i in due:
                step = self._rows[i].step
                block, count = step // BLOCK - ahead, BLOCK if ahead else step % BLOCK + 1
                if block >= 0 and (i, block) not in self._blocks:
                    draws = _draws(os.getpid())
                    self._blocks[i, block] = self._rows[i].noises(draws, block * BLOCK, count, self._upload)
        for i in due:
            block, last = divmod(self._rows[i].step, BLOCK)
            self._noise[i, : last + 1, ...] = self._blocks.pop((i, block)).result()()

    def _placed(self, array: np.ndarray) -> Array:
        """Place a few numbers on the rows' device without waiting; as floats, which hold every timestep exactly."""
        return self._xp.astype(self._upload(np.asarray(array, np.float32))(), self._x.dtype)
