"""One restoration as a small state, and the call that advances a batch of them by one step.

The plain loop in `restorer.py` drives these; a service that mixes requests can drive the same ones.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..engines import Array, DivergedError, Engine
from .metrics import psnr
from .noise import Use, generator, normal
from .operators import Operator
from .sampler import dmps_step, dps_step, likelihood_score, residual_gradient, settled_guidance
from .schedule import Schedule
from .switch import Switch


@cache
def _prefetch(process: int) -> ThreadPoolExecutor:
    """Draws the noise of the next step while the network runs this one. Threads do not outlive a fork."""
    return ThreadPoolExecutor(1, "frugal-rt-noise")


class Phase(Enum):
    """Which equation guides the next step."""

    DPS = "dps"
    DMPS = "dmps"
    DONE = "done"


@dataclass
class Restoration:
    """One image being restored. `x` is (C, H, W); `step` is the index of the next step, T-1 .. 0, then -1."""

    operator: Operator
    y: Array
    sigma: float
    schedule: Schedule
    switch: Switch
    zeta: float | None
    lam: float | None
    seed: int
    sample: int
    x: Array
    step: int = field(init=False)
    x0hat: Array | None = None
    """The last unguided estimate, (C, H, W)."""
    trace: list[float] = field(default_factory=list)
    """PSNR in dB between consecutive estimates; entry i belongs to step T-2-i."""
    k: int | None = None
    """How many DMPS steps were left at the switch; None while in DPS."""
    _drawn: "dict[int, Future[np.ndarray]]" = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.step = len(self.schedule) - 1
        self._switch_if_due()

    @property
    def phase(self) -> Phase:
        if self.step < 0:
            return Phase.DONE
        return Phase.DPS if self.k is None else Phase.DMPS

    def noise(self) -> np.ndarray:
        """z of the next step, (C, H, W) float32; that of the step after it is drawn meanwhile."""
        drawn = self._drawn.pop(self.step, None) or self._draw(self.step)
        if self.step > 0:
            self._drawn = {self.step - 1: self._draw(self.step - 1)}
        return drawn.result()

    def _draw(self, step: int) -> "Future[np.ndarray]":
        stream = generator(self.seed, self.sample, Use.STEP, step)
        return _prefetch(os.getpid()).submit(stream.standard_normal, tuple(self.x.shape), np.float32)

    def accept(self, x: Array, x0hat: Array, settled: float | None) -> None:
        """Take the outcome of one step."""
        self.x, self.x0hat = x, x0hat
        self.step -= 1
        if settled is not None:
            self.trace.append(settled)
        self._switch_if_due()

    def _switch_if_due(self) -> None:
        left = self.step + 1
        if self.k is None and self.switch.due(left, self.trace[-1] if self.trace else -np.inf):
            self.k = left


def start_noise(shape: tuple[int, ...], seed: int, sample: int) -> np.ndarray:
    """x at step T-1: standard normal, (C, H, W) float32."""
    return normal(shape, seed, sample, Use.START)


@np.errstate(invalid="ignore")  # what is not finite is an error below, not a warning
def advance(rows: Sequence[Restoration], engine: Engine) -> None:
    """Advance every row by one step with one network call. All rows share a phase; steps and operators may differ.

    Raises DivergedError when a row leaves the finite numbers.
    """
    xp = array_namespace(rows[0].x)
    x = _stack([row.x for row in rows], xp)
    z = engine.asarray(_stack([row.noise() for row in rows], np))
    c = Schedule.gather([row.schedule for row in rows], [row.step for row in rows], x, xp)
    each = _by_operator(rows, xp)
    sigma = _column([row.sigma for row in rows], x, xp)
    if rows[0].phase is Phase.DPS:
        zeta = _column([row.zeta for row in rows], x, xp)

        def gradient(x0hat: Array) -> tuple[Array, ...]:
            return each(lambda operator, y, pick: residual_gradient(operator, y, pick(x0hat), pick(sigma)))

        x_next, x0hat = dps_step(x, z, c, engine.pullback, gradient, zeta)
    else:
        own = [row.lam is None for row in rows]
        lam = _column([row.lam or 0.0 for row in rows], x, xp)

        def by_score() -> Array:
            return lam * each(lambda op, y, pick: (likelihood_score(op, y, *map(pick, (x, sigma, c.abar))),))[0]

        def settled(x0hat: Array, cap: Array) -> Array:
            values = (x, x0hat, sigma, c.abar, cap)
            return each(lambda op, y, pick: (settled_guidance(op, y, *map(pick, values)),))[0]

        def guide(x0hat: Array, cap: Array) -> Array:
            if all(own):
                return settled(x0hat, cap)
            chosen = xp.asarray(np.array(own), device=x.device)[:, None, None, None]
            return xp.where(chosen, settled(x0hat, cap), by_score())

        x_next, x0hat = dmps_step(x, z, c, engine.predict, guide)
    if not bool(xp.all(xp.isfinite(x_next))):
        raise DivergedError(
            f"the restoration left the finite numbers at step {rows[0].step}; check sigma, or lower zeta or lambda"
        )
    closeness = _closeness(rows, x0hat, xp)
    for i, row in enumerate(rows):
        row.accept(x_next[i, ...], x0hat[i, ...], closeness[i])


def _closeness(rows: Sequence[Restoration], x0hat: Array, xp: Any) -> list[float | None]:
    """PSNR between each row's new estimate and its last; None where there is no last."""
    last = [row.x0hat if row.x0hat is not None else x0hat[i, ...] for i, row in enumerate(rows)]
    values = psnr(x0hat, _stack(last, xp))
    return [None if row.x0hat is None else float(value) for row, value in zip(rows, values, strict=True)]


def _stack(arrays: Sequence[Array], xp: Any) -> Array:
    """Arrays as the rows of one; a single one is not copied."""
    return xp.stack(arrays) if len(arrays) > 1 else arrays[0][None, ...]


def _column(values: Sequence[float | None], like: Array, xp: Any) -> Array:
    """(B, 1, 1, 1), NaN for None."""
    return xp.asarray(np.asarray(values, np.float64), dtype=like.dtype, device=like.device)[:, None, None, None]


Pick = Callable[[Array], Array]
PerOperator = Callable[[Any, Array, Pick], tuple[Array, ...]]  # an Operator; a Linear one in DMPS


def _by_operator(rows: Sequence[Restoration], xp: Any) -> Callable[[PerOperator], tuple[Array, ...]]:
    """A function that evaluates `f(operator, y, pick)` once an operator and puts the rows of what it gives in order.

    `pick(a)` takes an operator's rows out of a batch `a`.
    """
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(id(row.operator), []).append(i)
    measurements = [_stack([rows[i].y for i in group], xp) for group in groups.values()]

    def each(f: PerOperator) -> tuple[Array, ...]:
        if len(groups) == 1:
            return f(rows[0].operator, measurements[0], lambda a: a)

        def pick(group: list[int], a: Array) -> Array:
            return a if a.shape[0] == 1 else _stack([a[i, ...] for i in group], xp)  # one row stands for all

        parts = [
            f(rows[group[0]].operator, y, partial(pick, group))
            for group, y in zip(groups.values(), measurements, strict=True)
        ]
        order = [i for group in groups.values() for i in group]
        mixed = (xp.concat(values, axis=0) for values in zip(*parts, strict=True))
        return tuple(_stack([values[order.index(i), ...] for i in range(len(rows))], xp) for values in mixed)

    return each
