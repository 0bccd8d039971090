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
from .operators import Linear, Operator, Resolvable
from .sampler import (
    dmps_step,
    dps_step,
    likelihood_score,
    residual_gradient,
    resolved,
    spectral,
    spectral_step,
    steered_step,
)
from .schedule import Schedule
from .switch import Switch


@cache
def _prefetch(process: int) -> ThreadPoolExecutor:
    """Draws the noise of the next step while the network runs this one. Threads do not outlive a fork."""
    return ThreadPoolExecutor(1, "frugal-rt-noise")


class Phase(Enum):
    """Whether the structure of the image is still being found."""

    DPS = "dps"
    DMPS = "dmps"
    DONE = "done"


class Move(Enum):
    """Which equation of sampler.py makes a step. Rows of one network call share it."""

    DPS = "dps_step"
    DMPS = "dmps_step"
    STEERED = "steered_step"
    SPECTRAL = "spectral_step"

    @property
    def pulls(self) -> bool:
        """Whether it takes a gradient through the network."""
        return self in (Move.DPS, Move.STEERED)


@dataclass
class Restoration:
    """One image being restored. `x` is (C, H, W); `step` is the index of the next step, T-1 .. 0, then -1."""

    operator: Operator
    y: Array
    sigma: float
    schedule: Schedule
    switch: Switch
    zeta: float | None
    """A constant step for DPS, as in the paper; None is its own."""
    lam: float | None
    """A constant step for DMPS, as in the paper; None is the closed form's own move."""
    every: int | None
    """The DPS phase takes a gradient at every so manieth step, the closed form at each; None is the paper's DPS."""
    stride: int
    """Estimates so many steps apart are compared, for the switch."""
    seed: int
    sample: int
    x: Array
    step: int = field(init=False)
    x0hat: Array | None = None
    """The last unguided estimate, (C, H, W)."""
    earlier: Array | None = None
    """The estimate that the next one compared is compared with."""
    trace: list[float] = field(default_factory=list)
    """PSNR in dB between estimates `stride` steps apart, those of the steps in `compared`."""
    k: int | None = None
    """How many DMPS steps were left at the switch; None while in DPS."""
    pullbacks: int = 0
    _drawn: "dict[int, Future[np.ndarray]]" = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.step = len(self.schedule) - 1
        self._switch_if_due()

    @property
    def phase(self) -> Phase:
        if self.step < 0:
            return Phase.DONE
        return Phase.DPS if self.k is None else Phase.DMPS

    @property
    def move(self) -> Move:
        """What makes the next step."""
        if self.phase is Phase.DPS and self.every is None:
            return Move.DPS
        if self.phase is Phase.DPS and (len(self.schedule) - 1 - self.step) % (self.every or 1) == 0:
            return Move.STEERED
        return Move.SPECTRAL if self.lam is None or self.phase is Phase.DPS else Move.DMPS

    @property
    def compares(self) -> bool:
        """Whether the estimate of the next step is one that is compared."""
        return (len(self.schedule) - 1 - self.step) % self.stride == 0

    @property
    def compared(self) -> tuple[int, ...]:
        """The step of each entry of a whole trace, which is how many were left when it was taken."""
        return tuple(range(len(self.schedule) - 1 - self.stride, -1, -self.stride))

    def noise(self) -> np.ndarray:
        """z of the next step, (C, H, W) float32; that of the step after it is drawn meanwhile."""
        drawn = self._drawn.pop(self.step, None) or self._draw(self.step)
        if self.step > 0:
            self._drawn = {self.step - 1: self._draw(self.step - 1)}
        return drawn.result()

    def _draw(self, step: int) -> "Future[np.ndarray]":
        stream = generator(self.seed, self.sample, Use.STEP, step)
        return _prefetch(os.getpid()).submit(stream.standard_normal, tuple(self.x.shape), np.float32)

    def accept(self, x: Array, x0hat: Array) -> None:
        """Take the outcome of one step."""
        self.pullbacks += self.move.pulls
        if self.compares:
            if self.earlier is not None:
                self.trace.append(float(psnr(x0hat[None, ...], self.earlier[None, ...])[0]))
            self.earlier = x0hat
        self.x, self.x0hat = x, x0hat
        self.step -= 1
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
    """Advance every row by one step with one network call. All rows share a move; steps and operators may differ.

    Raises DivergedError when a row leaves the finite numbers.
    """
    xp = array_namespace(rows[0].x)
    x = _stack([row.x for row in rows], xp)
    z = engine.asarray(_stack([row.noise() for row in rows], np))
    c = Schedule.gather([row.schedule for row in rows], [row.step for row in rows], x, xp)
    each = _by_operator(rows, xp)
    sigma = _column([row.sigma for row in rows], x, xp)

    def gradient(x0hat: Array) -> tuple[Array, ...]:
        return each(lambda operator, y, pick: residual_gradient(operator, y, pick(x0hat), pick(sigma)))

    def transition(x0hat: Array) -> Array:
        def of(operator: Resolvable, y: Array, pick: Pick) -> tuple[Array]:
            known = y, pick(x), pick(x0hat), pick(z), pick(sigma), c.pick(pick)
            return (spectral(operator, *known) if isinstance(operator, Linear) else resolved(operator, *known),)

        return each(of)[0]

    match rows[0].move:
        case Move.DPS:
            zeta = _column([row.zeta for row in rows], x, xp)
            x_next, x0hat = dps_step(x, z, c, engine.pullback, gradient, zeta)
        case Move.STEERED:
            x_next, x0hat = steered_step(x, c, engine.pullback, gradient, transition)
        case Move.DMPS:
            lam = _column([row.lam for row in rows], x, xp)
            score = each(lambda op, y, pick: (likelihood_score(op, y, *map(pick, (x, sigma, c.abar))),))[0]
            x_next, x0hat = dmps_step(x, z, c, engine.predict, lam, score)
        case Move.SPECTRAL:
            x_next, x0hat = spectral_step(x, c, engine.predict, transition)
    if not bool(xp.all(xp.isfinite(x_next))):
        raise DivergedError(
            f"the restoration left the finite numbers at step {rows[0].step}; check sigma, or lower zeta or lambda"
        )
    for i, row in enumerate(rows):
        row.accept(x_next[i, ...], x0hat[i, ...])


def _stack(arrays: Sequence[Array], xp: Any) -> Array:
    """Arrays as the rows of one; a single one is not copied."""
    return xp.stack(arrays) if len(arrays) > 1 else arrays[0][None, ...]


def _column(values: Sequence[float | None], like: Array, xp: Any) -> Array:
    """(B, 1, 1, 1), NaN for None."""
    return xp.asarray(np.asarray(values, np.float64), dtype=like.dtype, device=like.device)[:, None, None, None]


Pick = Callable[[Array], Array]
PerOperator = Callable[[Any, Array, Pick], tuple[Array, ...]]  # an Operator; a Resolvable one in DMPS


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
