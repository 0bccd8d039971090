"""The loop that takes rows from their first step to images."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np

from ...engines import Array, Engine
from .advance import advance, settle
from .restoration import Move, Phase, Restoration

T = TypeVar("T")
TRIALS = 3
"""Steps that are timed for a figure."""
PHASES = (Phase.GRADIENT, Phase.FORWARD, Phase.FLOW)
"""The phases of steps, in the order of the seconds reported."""


@dataclass(frozen=True)
class StepEvent:
    """The state after a step, for `on_step`."""

    step: int
    """Steps left, T-1 .. 0."""
    steps: int
    phases: tuple[str, ...]
    """For each row, the phase of the step just made: "gradient", "forward" or "flow"."""
    settled: tuple[float, ...]
    """For each row, the PSNR in dB between the last two estimates compared; -inf before there are two."""
    x0hat: np.ndarray
    """(B, C, H, W) on [-1, 1]: the current estimates."""


def run(
    rows: Sequence[Restoration],
    engine: Engine,
    batch: int = 1,
    on_step: Callable[[StepEvent], object] | None = None,
) -> dict[str, float]:
    """Take rows to their end, a step at a time, by network calls of at most `batch` rows.

    `on_step` gets the rows that were moved: rows that start at a lower noise level have fewer steps. Returns the
    seconds of each phase, "gradient", "forward" and "flow". Raises DivergedError, and any exception of `on_step`.
    """
    engine.prepare(any(row.move.pulls for row in rows), batch)
    seconds = no_seconds()
    while live := [row for row in rows if row.step >= 0]:
        phases = [row.phase for row in live]
        moves = [(row.phase, row.move) for row in live]
        for phase, move in product(PHASES, Move):
            due = [row for row, now in zip(live, moves, strict=True) if now == (phase, move)]
            for rows_of_a_call in halved(due, batch):
                started = time.perf_counter()
                advance(rows_of_a_call, engine)
                if any(row.phase is not phase for row in rows_of_a_call):
                    float(rows_of_a_call[0].x[0, 0, 0])  # synchronises, so that the seconds are this phase's
                seconds[phase.value] += time.perf_counter() - started
        if on_step is not None:
            settle(live)
            on_step(
                StepEvent(
                    step=max(row.step for row in live) + 1,
                    steps=max(len(row.schedule) for row in live),
                    phases=tuple(phase.value for phase in phases),
                    settled=tuple(row.trace[-1] if row.trace else -np.inf for row in live),
                    x0hat=np.stack([to_numpy(row.x0hat) for row in live if row.x0hat is not None]),
                )
            )
    return seconds


def no_seconds() -> dict[str, float]:
    """Return zero seconds for each phase."""
    return {phase.value: 0.0 for phase in PHASES}


def step_seconds(rows: Sequence[Restoration], engine: Engine) -> float:
    """Return the least seconds, of TRIALS, of a step of `rows` together, after a first one that allocates and compiles.

    The rows share a move and have more than TRIALS steps left.
    """
    engine.prepare(rows[0].move.pulls, len(rows))
    taken = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        advance(rows, engine)
        float(rows[0].x[0, 0, 0])  # synchronises with the device
        taken.append(time.perf_counter() - started)
    return min(taken)


def halved(rows: Sequence[T], batch: int) -> Iterator[Sequence[T]]:
    """Yield `rows` in pieces of `batch`, then the rest in pieces of a half of it, a quarter, and so on.

    Rows switch at different steps, which leaves groups of any size, and engines compile or keep memory for each batch
    size.
    """
    while rows:
        while batch > len(rows):
            batch //= 2
        yield rows[:batch]
        rows = rows[batch:]


def to_numpy(array: Array) -> np.ndarray:
    """Return a numpy or torch array as numpy; a device array is copied, which synchronises."""
    on_host: Any = array
    return np.asarray(on_host.cpu() if hasattr(array, "cpu") else on_host)
