"""Noise schedules, and the coefficients a step needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import Namespace
from ...engines.betas import UNSAID, train_betas

EARLY_RATE, LATE_RATE, MOST_FRESH = 1.5, 8.0, 0.85
"""How fast the closed form renews x_t's noise, in units of the ancestral sampler's rate, far above and far below a
signal-to-noise ratio of 1; and eta at most, DDRM's. Chosen on tune-100 (docs/method.md)."""
LEAST_NOISE = 0.02
"""Deviation of the noise at the last step of a schedule that begins below pure noise, on the [-1, 1] scale."""
TINY = 1e-6
"""Noise of a picture that is said to have none."""
FLIPS = 4
"""Ways to put a picture before a network that knows pieces of any picture: as it is, mirrored, upside down, both."""


def fresh_share(abar: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """eta of each step, (T,): 1 - eta^2 = (1 - beta/(1-abar))^rate is what is kept of the noise.

    The ancestral step keeps it to the power 1. A power means the same whatever the number of steps.
    """
    rate = EARLY_RATE + (LATE_RATE - EARLY_RATE) * abar
    share: np.ndarray = np.minimum(MOST_FRESH, np.sqrt(1 - (1 - beta / (1 - abar)) ** rate))
    return share


def check_steps(steps: int, betas: np.ndarray) -> None:
    """Raise InputError for a number of steps that a method cannot take with a prior trained with `betas`."""
    if not 2 <= steps <= len(betas):
        raise InputError(f"steps must lie in 2..{len(betas)}, the prior's training steps; got {steps}")


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of one step for a batch of rows: (B, 1, 1, 1), or (1, 1, 1, 1) for all rows; `t` is (B,)."""

    t: Array
    abar: Array
    abar_prev: Array
    beta: Array
    alpha: Array
    fresh: Array
    """eta: the share of x_{t-1}'s noise, in amplitude, that the closed form draws anew."""
    x0_x: Array
    """x0hat = x0_x * x - x0_out * out, whatever the network predicts."""
    x0_out: Array
    mean_x0: Array
    """Ancestral mean = mean_x0 * x0hat + mean_x * x."""
    mean_x: Array
    log_var: Array
    log_var_max: Array
    """The learned range goes from log_var (the posterior's) to log_var_max (log beta)."""
    noise: Array
    """1, but 0 at the last step."""
    noise_left: Array
    """sqrt((1 - abar_{t-1}) / (1 - abar)): the share of x_t's noise, in amplitude, that x_{t-1} has; 0 at the last."""
    mirrored: Array
    """1 where the network is to see the image mirrored, left and right exchanged, else 0."""
    inverted: Array
    """1 where it is to see the image upside down, else 0."""
    share: Array
    """1 over the number of steps made, this one included: the weight of this step's x0hat in the mean of all."""

    def rows(self, rows: slice) -> "Coefficients":
        """Select some rows' coefficients; a value that all rows share stays as it is."""
        return Coefficients(
            **{
                field.name: array if array.shape[0] == 1 else array[rows, ...]
                for field in fields(self)
                for array in [getattr(self, field.name)]
            }
        )


@dataclass(frozen=True)
class Schedule:
    """A training schedule cut down to T steps, indexed T-1 (the most noise) .. 0. Tables in float64."""

    timesteps: np.ndarray
    """(T,) the original integers the network was trained with, ascending."""
    abar: np.ndarray
    """(T,) cumulative products of alpha at those timesteps."""
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    flips: bool = False
    """Whether the network is to see the image in the FLIPS ways, in turn, by the moves that flip it."""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        steps: int,
        start: float | None = None,
        power: float | None = 0.5,
        *,
        flips: bool = False,
    ) -> "Schedule":
        """`steps` steps at most: `respaced` where `start` is None, `held` where `power` is, else `below`."""
        if start is None:
            made = cls.respaced(config, steps)
        elif power is None:
            made = cls.held(config, start, steps if flips else 1)
        else:
            made = cls.below(config, start, steps, power)
        return replace(made, flips=flips)

    @classmethod
    def respaced(cls, config: Mapping[str, Any], steps: int) -> "Schedule":
        """The training timesteps round(linspace(0, T_train - 1, steps)), betas recomputed from the kept abar.

        Raises InputError if `steps` is not in 2..T_train.
        """
        betas = train_betas(config)
        check_steps(steps, betas)
        kept = np.round(np.linspace(0, len(betas) - 1, steps)).astype(np.int64)
        return cls(
            kept,
            np.cumprod(1 - betas)[kept],
            config.get("prediction_type", UNSAID["prediction_type"]),
            config.get("variance_type", UNSAID["variance_type"]),
        )

    @classmethod
    def below(cls, config: Mapping[str, Any], sigma: float, steps: int, power: float = 0.5) -> "Schedule":
        """`steps` steps at most from a picture y = x0 + sigma n down to x0.

        With s^2 = (1 - abar) / abar, sqrt(abar) y is x_t where s = sigma. The first step has that abar, and the trained
        t of the nearest noise. In the others s^(1 / power) falls evenly to LEAST_NOISE^(1 / power), at a trained t
        each; there are fewer where so many different t do not lie between, and none where `sigma` is below LEAST_NOISE.
        """
        abar, sigma = np.cumprod(1 - train_betas(config)), max(sigma, TINY)
        variance, last = sigma**2, min(sigma, LEAST_NOISE)
        levels = np.linspace(sigma ** (1 / power), last ** (1 / power), steps) ** (2 * power)
        noises = (levels / (1 + levels)) ** 0.5  # sqrt(1 - abar), finite whatever the schedule ends in
        kept = np.unique(np.abs((1 - abar) ** 0.5 - noises[:, None]).argmin(axis=1))
        return cls(
            kept,
            np.append(abar[kept[:-1]], 1 / (1 + variance)),
            config.get("prediction_type", UNSAID["prediction_type"]),
            config.get("variance_type", UNSAID["variance_type"]),
        )

    @classmethod
    def held(cls, config: Mapping[str, Any], sigma: float, steps: int) -> "Schedule":
        """`steps` steps at the noise of a picture y = x0 + sigma n, of which each estimates x0; as `below` of one."""
        one = cls.below(config, sigma, 1)
        return replace(one, timesteps=np.repeat(one.timesteps, steps), abar=np.repeat(one.abar, steps))

    @cached_property
    def _placed(self) -> dict[Any, dict[str, Array]]:
        return {}

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """Every coefficient as a (T,) table, by the name of the Coefficients field."""
        abar = self.abar
        abar_prev = np.append(1.0, abar[:-1])
        alpha = abar / abar_prev
        beta = 1 - alpha
        posterior = beta * (1 - abar_prev) / (1 - abar)
        posterior[0] = (*posterior, *beta)[1]  # only its logarithm's sake: no noise is added at the last step
        log_posterior, log_beta = (
            np.log(np.maximum(of, np.finfo(float).tiny)) for of in (posterior, beta)
        )  # 0 where held
        steps = np.arange(len(abar))
        x0_x, x0_out = {
            "epsilon": (1 / np.sqrt(abar), np.sqrt(1 / abar - 1)),
            "v_prediction": (np.sqrt(abar), np.sqrt(1 - abar)),
            "sample": (0 * abar, -np.ones_like(abar)),
        }[self.prediction_type]
        return {
            "abar": abar,
            "abar_prev": abar_prev,
            "beta": beta,
            "alpha": alpha,
            "fresh": fresh_share(abar, beta),
            "x0_x": x0_x,
            "x0_out": x0_out,
            "mean_x0": beta * np.sqrt(abar_prev) / (1 - abar),
            "mean_x": (1 - abar_prev) * np.sqrt(alpha) / (1 - abar),
            "log_var": log_beta if self.variance_type.startswith("fixed_large") else log_posterior,
            "log_var_max": log_beta,
            "noise": (steps > 0).astype(np.float64),
            "noise_left": np.append(0.0, ((1 - abar[:-1]) / (1 - abar[1:])) ** 0.5),
            "mirrored": np.float64(self.flips * (steps % 2)),
            "inverted": np.float64(self.flips * (steps // 2 % 2)),
            "share": 1 / (len(abar) - steps),
        }

    def at(self, step: int, like: Array, xp: Namespace) -> dict[str, Array]:
        """Every coefficient of one step, (1, 1, 1, 1) in the namespace, type and device of `like`; the same object for
        the same step."""
        key = (step, type(like), like.dtype, str(like.device))
        if key not in self._placed:
            tables = self._tables_at(like, xp)
            self._placed[key] = {name: xp.reshape(table[step, ...], (1, 1, 1, 1)) for name, table in tables.items()}
        return self._placed[key]

    def _tables_at(self, like: Array, xp: Namespace) -> dict[str, Array]:
        """The tables where `like` is, and the timesteps; sent there once."""
        key = (type(like), like.dtype, str(like.device))
        if key not in self._placed:
            self._placed[key] = {
                name: xp.asarray(table, dtype=like.dtype, device=like.device) for name, table in self.tables.items()
            }
        return self._placed[key]

    @staticmethod
    def gather(schedules: Sequence["Schedule"], steps: Sequence[int], like: Array, xp: Any) -> Coefficients:
        """The coefficients of each row's own step, in the namespace, type and device of `like`."""
        pairs = list(zip(schedules, steps, strict=True))
        timesteps = tuple(int(schedule.timesteps[step]) for schedule, step in pairs)
        t = sent(timesteps, np.int64, None, like.device, xp)
        rows = [schedule.at(step, like, xp) for schedule, step in pairs]
        if all(row is rows[0] for row in rows):
            return Coefficients(t=t, **rows[0])  # one for all, by broadcasting
        return Coefficients(t=t, **{name: xp.concat([row[name] for row in rows], axis=0) for name in rows[0]})


@lru_cache(4096)
def sent(numbers: tuple[float | None, ...], kind: type, dtype: Any, device: Any, xp: Any) -> Array:
    """`numbers`, NaN for None, as numpy's `kind` and then as `dtype`: one array for all who ask for the same ones, as a
    device would be waited for to take them."""
    array: Array = xp.asarray(np.array(numbers, kind), dtype=dtype, device=device)
    return array
