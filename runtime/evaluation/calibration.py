"""Samples of the posterior: their mean, their standard deviation, and how often the clean image lies within it."""

import numpy as np

from ...engines import InputError
from ..operators import Operator
from .contender import Contender, OnStep, Outcome

EXPECTED = {1: 0.683, 2: 0.954}
"""Share of a Gaussian's values within 1 and 2 standard deviations."""
STRIDE = 1 << 32
"""Sample j of image i has the key (seed, j STRIDE + i), so that its noise does not depend on the numbers of either."""


def draw(
    contender: Contender,
    y: np.ndarray,
    operator: Operator,
    sigma: float,
    seed: int,
    samples: int,
    on_step: OnStep,
) -> tuple[Outcome, np.ndarray]:
    """Return the mean of `samples` >= 2 restorations of each image, and their standard deviation (N, C, H, W).

    The deviation has `samples` - 1 in the denominator. The outcome's calls and seconds are the sums over samples, its k
    is their mean. Raises InputError, Refused.
    """
    if samples < 2:
        raise InputError(f"a deviation takes at least 2 samples; got {samples}")
    shape = (len(y), *operator.image_shape)
    mean, squares = np.zeros(shape), np.zeros(shape)
    taken: list[Outcome] = []
    for j in range(samples):
        taken.append(contender.restore(y, operator, sigma, seed, j * STRIDE, on_step))
        apart = taken[-1].images - mean  # Welford's update, which keeps no samples
        mean += apart / (j + 1)
        squares += apart * (taken[-1].images - mean)

    def total(figure: str) -> list[float]:
        sums: list[float] = np.sum([getattr(outcome, figure) for outcome in taken], axis=0).tolist()
        return sums

    k = None if taken[0].k[0] is None else [value / samples for value in total("k")]
    outcome = Outcome(
        images=mean.astype(np.float32),
        k=k or [None] * len(y),
        forwards=total("forwards"),
        gradients=total("gradients"),
        seconds=sum(outcome.seconds for outcome in taken),
    )
    return outcome, np.sqrt(squares / (samples - 1))


def coverage(clean: np.ndarray, mean: np.ndarray, deviation: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    """Compare the deviation of `samples` restorations with their true error; arrays (N, C, H, W), a figure an image.

    coverage1, coverage2: the share of values with |clean - mean| <= 1 and 2 deviations. The deviation is multiplied by
    sqrt(1 + 1 / samples), as the mean has an error too. correlation: between deviation and absolute error over an
    image's values; NaN where either is constant.
    """
    rows = len(clean)
    error = np.abs(np.asarray(clean, np.float64) - mean).reshape(rows, -1)
    spread = (np.asarray(deviation, np.float64) * np.sqrt(1 + 1 / samples)).reshape(rows, -1)
    figures = {f"coverage{n}": (error <= n * spread).mean(axis=1) for n in EXPECTED}
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = [one - one.mean(axis=1, keepdims=True) for one in (error, spread)]
        norms = [np.sqrt((one**2).sum(axis=1)) for one in centred]
        figures["correlation"] = (centred[0] * centred[1]).sum(axis=1) / (norms[0] * norms[1])
    return figures
