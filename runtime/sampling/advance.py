"""The call that advances a batch of restorations by one step.

On a device only the test of the switch synchronises; all other values are transferred at the end.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from ...engines import Array, DivergedError, Engine
from ...engines.array_api import Namespace, array_namespace
from ..operators import Coded, Decomposable, Linear
from .captured import captured
from .equations import (
    ancestral,
    ddrm_transition,
    dmps_gain,
    dmps_step,
    dps_step,
    estimate,
    flipped,
    frugal_step,
    gradient_at_x_t,
    likelihood_score,
    matched_direction,
    matched_estimate,
    mean_step,
    mean_transition,
    probability_flow_step,
    residual_gradient,
    resolvent_transition,
    splitting_step,
)
from .psnr import decibels, mean_square
from .restoration import Group, Move, Restoration
from .schedule import Coefficients, Schedule, sent


@np.errstate(invalid="ignore")  # values that are not finite raise an error below
def advance(rows: Sequence[Restoration], engine: Engine) -> None:
    """Advance every row by a step, with one network call for all. Rows share a move; steps and operators may differ.

    Raises DivergedError where a row is no longer finite: before the step where the host computes; on a device, at the
    call after the next one in which estimates are compared.
    """
    rows = _by_operator(rows)
    lost = next((row for row in rows if row.diverged), None)
    if lost is not None:
        raise DivergedError(_left(lost))
    loaded = captured(rows, engine, move)
    x, x0hat = _move(rows, engine) if loaded is None else loaded.step(rows)
    engine.throttle()
    on_host = _on_host(x)
    if on_host and not bool(array_namespace(x).all(array_namespace(x).isfinite(x))):
        raise DivergedError(_left(rows[0]))
    apart = _compared(rows, x0hat)
    for i, row in enumerate(rows):
        row.accept(x[i, ...], x0hat[i, ...], apart.get(i))
        row.held = None if loaded is None else loaded.name
    if on_host or any(row.asks or row.step < 0 for row in rows):
        settle(rows)
    for row in rows:
        row.switch_if_due()


def settle(rows: Iterable[Restoration]) -> None:
    """Transfer the mean squares that rows have compared to the host, all at once."""
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
    groups: Sequence[Group],
    c: Coefficients,
    x: Array,
    z: Array | None,
    sigma: Array,
    constant: Array,
    flips: bool = False,
) -> tuple[Array, Array]:
    """Return x_{t-1} and the unguided x0hat, (B, C, H, W): one network call, then `kind`'s equation for each operator.

    Where `kind` is MEAN, x is the mean of the estimates so far, and the network sees y.

    `c` holds the rows' coefficients, `z` their noise, None where `kind` draws none. `sigma` and `constant` are
    (B, 1, 1, 1); `constant` is `Restoration.constant`, NaN for None. With `flips` the network sees each image flipped
    by `c`, if `kind` allows it.
    """
    noisy = c.abar**0.5 * _joined([one.y for one in groups]) if kind is Move.MEAN else x
    turned = partial(flipped, c=c) if flips and kind.flips else _as_it_is
    noisy = turned(noisy)
    if kind.pulls:
        (out, variance), pull_turned = engine.pullback(noisy, c.t)
    else:
        out, variance = engine.predict(noisy, c.t)
    x0hat, unclipped = (turned(one) for one in estimate(noisy, out, c))

    def pull(v: Array) -> Array:
        return turned(pull_turned(turned(v)))

    if kind is Move.FLOW:
        return probability_flow_step(x, x0hat, c), x0hat
    if kind is Move.MEAN:
        return mean_step(x, x0hat, c), x0hat
    if kind in (Move.SPLITTING, Move.MATCHED):
        near = x0hat
        if kind is Move.MATCHED:
            each = (
                matched_direction(one.operator, one.y, x0hat[one.rows], sigma[one.rows], c.rows(one.rows))
                for one in groups
            )
            back, asked, noise = (_joined(of_groups) for of_groups in zip(*each, strict=True))
            near = matched_estimate(x0hat, unclipped, pull, back, asked, noise, c)
        parts_of = (
            splitting_step(one.operator, one.y, near[one.rows], sigma[one.rows], c.rows(one.rows)) for one in groups
        )
        return _joined([*parts_of]), x0hat
    assert z is not None  # every other move draws
    if kind.pulls:
        parts = [residual_gradient(one.operator, one.y, x0hat[one.rows], sigma[one.rows]) for one in groups]
        gradient, excess = (_joined(of_groups) for of_groups in zip(*parts, strict=True))
        gradient, polyak = gradient_at_x_t(gradient, excess, unclipped, pull, c)
    match kind:
        case Move.DPS:
            return dps_step(ancestral(x, x0hat, variance, z, c), gradient, polyak, constant, c), x0hat
        case Move.DMPS:
            lam, gain = dmps_gain(constant, c)
            scores = []
            for operator, y, rows in groups:
                scores.append(likelihood_score(operator, y, x[rows], sigma[rows], c.rows(rows).abar, gain[rows]))
            return dmps_step(ancestral(x, x0hat, variance, z, c), _joined(scores), lam, c), x0hat
    draws = []
    for operator, y, rows in groups:
        draw = _transition(operator, kind is Move.DRAWN)
        draws.append(draw(operator, y, x[rows], x0hat[rows], z[rows], sigma[rows], c.rows(rows)))
    drawn = _joined(draws)
    return (frugal_step(drawn, gradient, polyak, constant, c) if kind is Move.FRUGAL else drawn), x0hat


def _transition(operator: Linear, drawn: bool) -> Callable[..., Array]:
    """Return the equation of the closed form's draw: `mean_transition` for rounded coefficients, which draws x0 always,
    `ddrm_transition` for an operator with an SVD, `resolvent_transition` for any other."""
    if isinstance(operator, Coded):
        return mean_transition
    return partial(ddrm_transition if isinstance(operator, Decomposable) else resolvent_transition, drawn=drawn)


def _move(rows: Sequence[Restoration], engine: Engine) -> tuple[Array, Array]:
    xp = array_namespace(rows[0].x)
    x = _stack([row.x for row in rows], xp)
    z = _stack([row.noise(engine.upload)() for row in rows], xp) if rows[0].move.draws else None
    c = Schedule.gather([row.schedule for row in rows], [row.step for row in rows], x, xp)
    sigma, constant = (_column([getattr(row, name) for row in rows], x, xp) for name in ("sigma", "constant"))
    return move(rows[0].move, engine, _groups(rows, xp), c, x, z, sigma, constant, rows[0].schedule.flips)


def _as_it_is(images: Array) -> Array:
    return images


def _by_operator(rows: Sequence[Restoration]) -> list[Restoration]:
    """Return `rows` with those of one operator side by side, otherwise in their order."""
    first: dict[int, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(id(row.operator), i)
    return sorted(rows, key=lambda row: first[id(row.operator)])


def _groups(rows: Sequence[Restoration], xp: Namespace) -> list[Group]:
    """Return the groups of rows with one operator, in the order of `_by_operator`."""
    groups, start = [], 0
    for _, of_one in groupby(rows, key=lambda row: id(row.operator)):
        together = list(of_one)
        stop = start + len(together)
        groups.append(Group(together[0].operator, _stack([row.y for row in together], xp), slice(start, stop)))
        start = stop
    return groups


def _joined(parts: Sequence[Array]) -> Array:
    """Concatenate the arrays of groups; a single one is not copied."""
    return array_namespace(parts[0]).concat(parts, axis=0) if len(parts) > 1 else parts[0]


def _compared(rows: Sequence[Restoration], x0hat: Array) -> dict[int, Array]:
    """Return the mean square difference between compared estimates, by row, for rows that compare at this step."""
    compare = [i for i, row in enumerate(rows) if row.compares and row.earlier is not None]
    if not compare:
        return {}
    xp = array_namespace(x0hat)
    now = x0hat if len(compare) == len(rows) else _stack([x0hat[i, ...] for i in compare], xp)
    apart = mean_square(now, _stack([earlier for i in compare if (earlier := rows[i].earlier) is not None], xp))
    return {i: apart[n, ...] for n, i in enumerate(compare)}


def _left(row: Restoration) -> str:
    return f"the restoration left the finite numbers at step {row.step}; check sigma, or lower zeta or lambda"


def _on_host(array: Array) -> bool:
    return str(array.device) == "cpu"


def _stack(arrays: Sequence[Array], xp: Namespace) -> Array:
    """Stack arrays as rows; a single one is not copied."""
    return xp.stack(arrays) if len(arrays) > 1 else arrays[0][None, ...]


def _column(values: Sequence[float | None], like: Array, xp: Any) -> Array:
    """Return the values as (B, 1, 1, 1), NaN for None."""
    return sent(tuple(values), np.float64, like.dtype, like.device, xp)[:, None, None, None]
