"""The call that advances a batch of restorations by one step.

On a device nothing waits for it but the test of the switch: what else the host wants to know it asks for at the end.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ...engines import Array, DivergedError, Engine
from ..operators import Linear, Resolvable
from .captured import recording
from .equations import (
    dmps_step,
    dps_step,
    likelihood_score,
    residual_gradient,
    resolved,
    spectral,
    spectral_step,
    steered_step,
)
from .psnr import decibels, mean_square
from .restoration import Move, Restoration
from .schedule import Coefficients, Schedule, sent


@np.errstate(invalid="ignore")  # what is not finite is an error below, not a warning
def advance(rows: Sequence[Restoration], engine: Engine) -> None:
    """Advance every row by one step with one network call. All rows share a move; steps and operators may differ.

    Raises DivergedError when a row has left the finite numbers: at once where the host computes, and before anything is
    done; on a device, at the call after the next one in which estimates are compared.
    """
    lost = next((row for row in rows if row.diverged), None)
    if lost is not None:
        raise DivergedError(_left(lost))
    recorded = recording(rows, engine, move)
    x, x0hat = _move(rows, engine) if recorded is None else recorded.step(rows)
    engine.pace()
    on_host = _on_host(x)
    if on_host and not bool(array_namespace(x).all(array_namespace(x).isfinite(x))):
        raise DivergedError(_left(rows[0]))
    apart = _compared(rows, x0hat)
    for i, row in enumerate(rows):
        row.accept(x[i, ...], x0hat[i, ...], apart.get(i))
        row.held = None if recorded is None else recorded.name
    if on_host or any(row.asks or row.step < 0 for row in rows):
        settle(rows)
    for row in rows:
        row.switch_if_due()


def settle(rows: Iterable[Restoration]) -> None:
    """Bring what rows have compared to the host, all of it in one transfer."""
    waiting = [row for row in rows if row.pending]
    if not waiting:
        return
    values = [value for row in waiting for value in row.pending]
    stacked = array_namespace(values[0]).stack(values)
    found = iter(decibels(np.asarray(stacked.cpu() if hasattr(stacked, "cpu") else stacked)))
    for row in waiting:
        row.trace += [float(next(found)) for _ in row.pending]
        row.pending = []


def move(
    kind: Move,
    engine: Engine,
    operators: "PerOperator",
    c: Coefficients,
    x: Array,
    z: Array,
    sigma: Array,
    constant: Array,
) -> tuple[Array, Array]:
    """x_{t-1} and x0hat, (B, C, H, W): the equation `kind` for rows whose coefficients are `c`.

    `sigma` and `constant` are (B, 1, 1, 1), the latter as of `Restoration.constant`, NaN for None.
    """

    def gradient(x0hat: Array) -> tuple[Array, ...]:
        return operators(lambda operator, y, pick: residual_gradient(operator, y, pick(x0hat), pick(sigma)))

    def transition(x0hat: Array) -> Array:
        def of(operator: Resolvable, y: Array, pick: Pick) -> tuple[Array]:
            known = y, pick(x), pick(x0hat), pick(z), pick(sigma), c.pick(pick)
            return (spectral(operator, *known) if isinstance(operator, Linear) else resolved(operator, *known),)

        return operators(of)[0]

    match kind:
        case Move.DPS:
            return dps_step(x, z, c, engine.pullback, gradient, constant)
        case Move.STEERED:
            return steered_step(x, c, engine.pullback, gradient, transition, constant)
        case Move.DMPS:
            score = operators(lambda op, y, pick: (likelihood_score(op, y, *map(pick, (x, sigma, c.abar))),))[0]
            return dmps_step(x, z, c, engine.predict, constant, score)
    return spectral_step(x, c, engine.predict, transition)


def _move(rows: Sequence[Restoration], engine: Engine) -> tuple[Array, Array]:
    xp = array_namespace(rows[0].x)
    x = _stack([row.x for row in rows], xp)
    z = _stack([row.noise(engine.ahead)() for row in rows], xp)
    c = Schedule.gather([row.schedule for row in rows], [row.step for row in rows], x, xp)
    sigma, constant = (_column([getattr(row, name) for row in rows], x, xp) for name in ("sigma", "constant"))
    return move(rows[0].move, engine, _by_operator(rows, xp), c, x, z, sigma, constant)


def _compared(rows: Sequence[Restoration], x0hat: Array) -> dict[int, Array]:
    """By row, the mean square between the estimate and the one it is compared with, of those that compare."""
    compare = [i for i, row in enumerate(rows) if row.compares and row.earlier is not None]
    if not compare:
        return {}
    xp = array_namespace(x0hat)
    now = x0hat if len(compare) == len(rows) else _stack([x0hat[i, ...] for i in compare], xp)
    apart = mean_square(now, _stack([rows[i].earlier for i in compare], xp))
    return {i: apart[n, ...] for n, i in enumerate(compare)}


def _left(row: Restoration) -> str:
    return f"the restoration left the finite numbers at step {row.step}; check sigma, or lower zeta or lambda"


def _on_host(array: Array) -> bool:
    return str(array.device) == "cpu"


def _stack(arrays: Sequence[Array], xp: Any) -> Array:
    """Arrays as the rows of one; a single one is not copied."""
    return xp.stack(arrays) if len(arrays) > 1 else arrays[0][None, ...]


def _column(values: Sequence[float | None], like: Array, xp: Any) -> Array:
    """(B, 1, 1, 1), NaN for None."""
    return sent(tuple(values), np.float64, like.dtype, like.device, xp)[:, None, None, None]


Pick = Callable[[Array], Array]
PerOperator = Callable[[Callable[[Any, Array, Pick], tuple[Array, ...]]], tuple[Array, ...]]
"""Evaluates `f(operator, y, pick)` once an operator and puts the rows of what it gives in order; `pick(a)` takes an
operator's rows out of a batch `a`. The operator is a Resolvable one but in DPS."""


def _by_operator(rows: Sequence[Restoration], xp: Any) -> PerOperator:
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(id(row.operator), []).append(i)
    measurements = [_stack([rows[i].y for i in group], xp) for group in groups.values()]

    def each(f: Callable[[Any, Array, Pick], tuple[Array, ...]]) -> tuple[Array, ...]:
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
