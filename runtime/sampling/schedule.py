"""Noise schedules, and the coefficients of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import Namespace
from ...engines.betas import UNSAID, train_betas

EARLY_RATE, LATE_RATE, MOST_FRESH = 1.5, 8.0, 0.85
"""Rates at which the closed form renews x_t's noise, in units of the ancestral sampler's rate: EARLY_RATE as abar goes
to 0, LATE_RATE as it goes to 1. MOST_FRESH is the largest eta, DDRM's. Chosen on tune-100 (docs/method.md)."""
LEAST_NOISE = 0.02
"""Deviation of the noise, on the [-1, 1] scale, at the last step of a schedule that begins below pure noise."""
TINY = 1e-6
"""Deviation that replaces a sigma of 0."""
FLIPS = 4
"""The number of ways to flip an image for a network: as it is, left to right, upside down, both."""


def fresh_share(abar: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Return eta of each step, (T,).

    The share of the noise's variance that is kept is 1 - eta^2 = (1 - beta/(1-abar))^rate. The ancestral step has rate
    1. The meaning of a rate does not depend on the number of steps.
    """
    rate = EARLY_RATE + (LATE_RATE - EARLY_RATE) * abar
    share: np.ndarray = np.minimum(MOST_FRESH, np.sqrt(1 - (1 - beta / (1 - abar)) ** rate))
    return share


def check_steps(steps: int, betas: np.ndarray) -> None:
    """Raise InputError for a number of steps outside of 2..T_train, with the prior's `betas` (T_train,)."""
    if not 2 <= steps <= len(betas):
        raise InputError(f"steps must lie in 2..{len(betas)}, the prior's training steps; got {steps}")


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of a step for a batch of rows: (B, 1, 1, 1), or (1, 1, 1, 1) where rows share them; `t` is (B,)."""

    t: Array
    abar: Array
    abar_prev: Array
    beta: Array
    alpha: Array
    fresh: Array
    """eta: the amplitude of new noise in x_{t-1}, divided by that of all its noise, in the closed form."""
    x0_x: Array
    """x0hat = x0_x * x - x0_out * out, whether the network predicts eps, v or x0."""
    x0_out: Array
    mean_x0: Array
    """Ancestral mean = mean_x0 * x0hat + mean_x * x."""
    mean_x: Array
    log_var: Array
    log_var_max: Array
    """A learned variance lies between log_var (the posterior's) and log_var_max (log beta)."""
    noise: Array
    """1; 0 at the last step."""
    noise_left: Array
    """sqrt((1 - abar_{t-1}) / (1 - abar)): the ratio of the noise's amplitudes in x_{t-1} and x_t; 0 at the last step.
    """
    mirrored: Array
    """1 where the network sees the image flipped left to right, else 0."""
    inverted: Array
    """1 where the network sees the image upside down, else 0."""
    share: Array
    """1 over the number of steps so far, this one included: the weight of this step's x0hat in their mean."""

    @property
    def kept(self) -> Array:
        """sqrt(1 - eta^2): the amplitude of the noise in x_{t-1} that is x_t's, divided by that of all its noise."""
        kept: Array = (1 - self.fresh**2) ** 0.5
        return kept

    def rows(self, rows: slice) -> "Coefficients":
        """Select some rows' coefficients; values that rows share stay as they are."""
        return Coefficients(
            **{
                field.name: array if array.shape[0] == 1 else array[rows, ...]
                for field in fields(self)
                for array in [getattr(self, field.name)]
            }
        )


@dataclass(frozen=True)
class Schedule:
    """A training schedule reduced to T steps, indexed T-1 (the most noise) .. 0. Tables are float64."""

    timesteps: np.ndarray
    """(T,) the timesteps for the network, as in training, ascending."""
    abar: np.ndarray
    """(T,) the cumulative products of alpha at the steps."""
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    flips: bool = False
    """Whether the network sees the image flipped in the FLIPS ways in turn, in the moves that allow it."""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        steps: int,
        start: float | None = None,
        power: float | None = 0.5,
        last: float = LEAST_NOISE,
        *,
        flips: bool = False,
    ) -> "Schedule":
        """Return at most `steps` steps: `respaced` if `start` is None, `held` if `power` is None, else `below`."""
        if start is None:
            made = cls.respaced(config, steps)
        elif power is None:
            made = cls.held(config, start, steps if flips else 1)
        else:
            made = cls.below(config, start, steps, power, last)
        return replace(made, flips=flips)

    @classmethod
    def respaced(cls, config: Mapping[str, Any], steps: int) -> "Schedule":
        """Return the training timesteps round(linspace(0, T_train - 1, steps)), betas recomputed from their abar.

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
    def below(
        cls, config: Mapping[str, Any], sigma: float, steps: int, power: float = 0.5, last: float = LEAST_NOISE
    ) -> "Schedule":
        """Return a schedule of at most `steps` steps from a picture y = x0 + sigma n down to x0.

        With s^2 = (1 - abar) / abar, sqrt(abar) y is x_t where s = sigma. The first step has that abar, and the
        training timestep t with the nearest noise level. In the others s^(1/power) falls evenly to
        last^(1/power), each at a training timestep. There are fewer steps where fewer different t lie between.
        """
        abar, sigma = np.cumprod(1 - train_betas(config)), max(sigma, TINY)
        variance, last = sigma**2, min(sigma, last)
        levels = np.linspace(sigma ** (1 / power), last ** (1 / power), steps) ** (2 * power)
        noises = (levels / (1 + levels)) ** 0.5  # sqrt(1 - abar), finite for any schedule
        kept = np.unique(np.abs((1 - abar) ** 0.5 - noises[:, None]).argmin(axis=1))
        return cls(
            kept,
            np.append(abar[kept[:-1]], 1 / (1 + variance)),
            config.get("prediction_type", UNSAID["prediction_type"]),
            config.get("variance_type", UNSAID["variance_type"]),
        )

    @classmethod
    def held(cls, config: Mapping[str, Any], sigma: float, steps: int) -> "Schedule":
        """Return `steps` steps at the noise level of a picture y = x0 + sigma n; each estimates x0. See `below`."""
        one = cls.below(config, sigma, 1)
        return replace(one, timesteps=np.repeat(one.timesteps, steps), abar=np.repeat(one.abar, steps))

    @cached_property
    def _placed(self) -> dict[Any, dict[str, Array]]:
        return {}

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """Return every coefficient as a table (T,), by its field of Coefficients."""
        abar = self.abar
        abar_prev = np.append(1.0, abar[:-1])
        alpha = abar / abar_prev
        beta = 1 - alpha
        posterior = beta * (1 - abar_prev) / (1 - abar)
        posterior[0] = (*posterior, *beta)[1]  # above 0 for its logarithm; the last step adds no noise
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
        """Return every coefficient of a step, (1, 1, 1, 1), in the library, type and device of `like`; cached."""
        key = (step, type(like), like.dtype, str(like.device))
        if key not in self._placed:
            tables = self._tables_at(like, xp)
            self._placed[key] = {name: xp.reshape(table[step, ...], (1, 1, 1, 1)) for name, table in tables.items()}
        return self._placed[key]

    def _tables_at(self, like: Array, xp: Namespace) -> dict[str, Array]:
        """Return the tables and the timesteps on the device of `like`; they are uploaded once."""
        key = (type(like), like.dtype, str(like.device))
        if key not in self._placed:
            self._placed[key] = {
                name: xp.asarray(table, dtype=like.dtype, device=like.device) for name, table in self.tables.items()
            }
        return self._placed[key]

    @staticmethod
    def gather(schedules: Sequence["Schedule"], steps: Sequence[int], like: Array, xp: Any) -> Coefficients:
        """Return the coefficients of each row's step, in the library, type and device of `like`."""
        pairs = list(zip(schedules, steps, strict=True))
        timesteps = tuple(int(schedule.timesteps[step]) for schedule, step in pairs)
        t = sent(timesteps, np.int64, None, like.device, xp)
        rows = [schedule.at(step, like, xp) for schedule, step in pairs]
        if all(row is rows[0] for row in rows):
            return Coefficients(t=t, **rows[0])  # rows at the same step share coefficients, by broadcasting
        return Coefficients(t=t, **{name: xp.concat([row[name] for row in rows], axis=0) for name in rows[0]})


@lru_cache(4096)
def sent(numbers: tuple[float | None, ...], kind: type, dtype: Any, device: Any, xp: Any) -> Array:
    """Return `numbers`, NaN for None, rounded to numpy's `kind` and then as `dtype` on a device.

    Equal numbers share an array, as an upload would synchronise.
    """
    array: Array = xp.asarray(np.array(numbers, kind), dtype=dtype, device=device)
    return array
