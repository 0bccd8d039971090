"""The state of one restoration (a row). `advance.py` advances batches of rows; its caller chooses them."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...engines import Array
from ..operators import Denoise, Operator
from .noise import Use, generator, normal
from .schedule import Schedule
from .switch import Switch

DRAWN_FROM, DRAWN_FROM_GRADIENTS = 0.5, 1.0
"""The least deviation of the start's noise from which `frugal` draws x0: where it takes no gradients, and after them.
Below it, little but what was measured is left to restore. Chosen on tune-20 (docs/decisions/drawn.md)."""


@cache
def _prefetch(process: int) -> ThreadPoolExecutor:
    """Return the thread, of this process, that draws the next step's noise during a network call. Threads do not
    survive a fork."""
    return ThreadPoolExecutor(1, "frugal-rt-noise")


class Phase(Enum):
    """The phase of a step, before or after the switch."""

    GRADIENT = "gradient"
    """Steps may take gradients."""
    FORWARD = "forward"
    """Steps are forward calls alone."""
    FLOW = "flow"
    """Steps of an aim: they start from the picture, or a plain estimate, taken to be the state at its noise level."""
    DONE = "done"


class Move(Enum):
    """The equation of equations.py that makes a step. Rows of a network call share a move."""

    DPS = "dps_step"
    DMPS = "dmps_step"
    FRUGAL = "frugal_step"
    CLOSED_FORM = "closed_form"
    DRAWN = "drawn_estimate"
    """`CLOSED_FORM` with x0 drawn around its estimate: `frugal` once no gradient follows, where texture is lost."""
    FLOW = "probability_flow_step"
    SPLITTING = "splitting_step"
    MATCHED = "matched_estimate"
    """`splitting_step` after `matched_estimate`."""
    MEAN = "mean_step"

    @property
    def pulls(self) -> bool:
        """Whether the step takes a gradient through the network."""
        return self in (Move.DPS, Move.FRUGAL, Move.MATCHED)

    @property
    def draws(self) -> bool:
        """Whether the step draws noise."""
        return self not in (Move.FLOW, Move.SPLITTING, Move.MATCHED, Move.MEAN)

    @property
    def flips(self) -> bool:
        """Whether the network may see the image flipped; not in the papers' own methods."""
        return self not in (Move.DPS, Move.DMPS)


@dataclass
class Restoration:
    """An image being restored. `x` is (C, H, W); `step` is the index of the next step, T-1 .. 0, then -1."""

    operator: Operator
    y: Array
    sigma: float
    schedule: Schedule
    switch: Switch
    zeta: float | None
    """The paper's constant zeta of DPS; None: the sampler's step size."""
    lam: float | None
    """The paper's constant lambda of DMPS; None: the sampler's bounded step size."""
    every: int | None
    """M of `frugal`: a gradient at every M-th step, and the closed form at each; None for other methods."""
    stride: int
    """Steps between the estimates that the switch compares."""
    seed: int
    sample: int
    x: Array
    method: str | None = "frugal"
    """One of guidance.METHODS; None with an aim."""
    aim: str | None = None
    """One of guidance.AIMS, where steps are of the probability flow, the mean or the splitting; None with a method."""
    steps: int | None = None
    """The steps asked for; a schedule that starts at a low noise level may have fewer."""
    start: float | None = None
    """Deviation of the noise in `x` at the first step, on the [-1, 1] scale; None where `x` is pure noise."""
    matched: bool = False
    """Whether each step of the splitting takes a gradient."""
    step: int = field(init=False)
    x0hat: Array | None = None
    """The last unguided estimate, (C, H, W)."""
    earlier: Array | None = None
    """The estimate with which the next one is compared."""
    trace: list[float] = field(default_factory=list)
    """PSNR in dB between estimates `stride` steps apart, at the steps in `compared`; the last may be `pending`."""
    pending: list[Array] = field(default_factory=list)
    """Mean squares, on the engine's device, of comparisons that are not in the trace yet."""
    k: int | None = None
    """Steps left at the switch; None before it."""
    gradients: int = 0
    held: object = None
    """Token of the `captured.Loaded` that owns the memory of `x` and `x0hat`; None where the row owns it."""
    _drawn: "dict[int, Future[Fetch]]" = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.step = len(self.schedule) - 1
        self.switch_if_due()

    @property
    def phase(self) -> Phase:
        if self.step < 0:
            return Phase.DONE
        if self.aim is not None:
            return Phase.FLOW
        return Phase.GRADIENT if self.k is None else Phase.FORWARD

    @property
    def move(self) -> Move:
        """The move of the next step."""
        if self.aim is not None:
            if not isinstance(self.operator, Denoise):
                return Move.MATCHED if self.matched else Move.SPLITTING
            return Move.FLOW if self.aim == "detail" else Move.MEAN
        if self.method in ("dps", "hybrid", "dmps"):
            return Move.DPS if self.phase is Phase.GRADIENT else Move.DMPS
        due = self.phase is Phase.GRADIENT and (len(self.schedule) - 1 - self.step) % (self.every or 1) == 0
        if due:
            return Move.FRUGAL
        return Move.DRAWN if self.draws_estimate else Move.CLOSED_FORM

    @property
    def draws_estimate(self) -> bool:
        """Whether the next step, if it takes no gradient, draws x0 around its estimate: once `frugal` takes no more
        gradients, where its start says that enough is unknown. In a JPEG's cells every step draws it."""
        least = DRAWN_FROM_GRADIENTS if self.gradients else DRAWN_FROM
        known = self.start is not None and self.start < least
        return self.method == "frugal" and self.phase is Phase.FORWARD and not known

    @property
    def compares(self) -> bool:
        """Whether the next step's estimate is compared with an earlier one."""
        return self.aim is None and (len(self.schedule) - 1 - self.step) % self.stride == 0

    @property
    def compared(self) -> tuple[int, ...]:
        """The step of each entry of a complete trace; it equals the steps left then."""
        if self.aim is not None:
            return ()
        return tuple(range(len(self.schedule) - 1 - self.stride, -1, -self.stride))

    @property
    def constant(self) -> float | None:
        """The next move's number: DPS's zeta, DMPS's lambda, or the steps that a gradient of frugal replaces."""
        return {Move.DPS: self.zeta, Move.FRUGAL: self.every}.get(self.move, self.lam)

    @property
    def asks(self) -> bool:
        """Whether the trace may end the gradients before the next step."""
        return self.k is None and self.switch.asks(self.step + 1)

    @property
    def diverged(self) -> bool:
        """Whether the trace shows that the row is no longer finite."""
        return bool(self.trace) and np.isnan(self.trace[-1])

    def noise(self, upload: "Callable[[np.ndarray], Fetch]") -> "Fetch":
        """Return z of the next step, (C, H, W) float32, being uploaded by `upload`; begin to draw the step after it."""
        drawn = self._drawn.pop(self.step, None) or self._draw(self.step, upload)
        self._drawn = {self.step - 1: self._draw(self.step - 1, upload)} if self.step > 0 else {}
        return drawn.result()

    def noises(
        self, draws: Executor, step: int, count: int, upload: "Callable[[np.ndarray], Fetch]"
    ) -> "Future[Fetch]":
        """Return z of the steps from `step` on, ascending, (count, C, H, W), uploaded together.

        Each is drawn by a task of `draws`, which begins tasks in order.
        """
        seed, sample = self.seed, self.sample
        block = np.empty((count, *self.x.shape), np.float32)

        def draw(i: int) -> None:
            generator(seed, sample, Use.STEP, step + i).standard_normal(dtype=np.float32, out=block[i])

        others = [draws.submit(draw, i) for i in range(count - 1)]

        def last() -> Fetch:
            draw(count - 1)
            for one in others:  # they have begun before, so waiting cannot deadlock
                one.result()
            return upload(block)

        return draws.submit(last)

    def _draw(self, step: int, upload: "Callable[[np.ndarray], Fetch]") -> "Future[Fetch]":
        return self.noises(_prefetch(os.getpid()), step, 1, lambda block: upload(block[0]))

    def accept(self, x: Array, x0hat: Array, apart: Array | None) -> None:
        """Take the result of a step; `apart` is the mean square between its estimate and the one compared before."""
        self.gradients += self.move.pulls
        if self.compares:
            if apart is not None:
                self.pending.append(apart)
            self.earlier = x0hat
        self.x, self.x0hat = x, x0hat
        self.step -= 1

    def switch_if_due(self) -> None:
        """End the gradients where the switch is due."""
        left = self.step + 1
        if self.k is None and self.switch.due(left, self.trace[-1] if self.trace else -np.inf):
            self.k = left


Fetch = Callable[[], Array]
"""Waits for an upload, and returns the array."""


def start_noise(shape: tuple[int, ...], seed: int, sample: int) -> np.ndarray:
    """Draw x at step T-1: standard normal, (C, H, W) float32."""
    return normal(shape, seed, sample, Use.START)


class Group(NamedTuple):
    """The rows of a call with one operator: the slice `rows` of the call's batch."""

    operator: Any
    """The operator; Linear, except in DPS."""
    y: Array
    """(b, c, h, w): the measurements of the rows."""
    rows: slice
