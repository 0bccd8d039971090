"""Noise keyed by (seed, sample, step): a counter-based stream per key, so no image's noise depends on another's."""

from enum import IntEnum

import numpy as np


class Use(IntEnum):
    """Uses of noise, each with a stream of its own."""

    START = 0
    """The state at step T - 1."""
    STEP = 1
    """z of an ancestral step."""
    MEASUREMENT = 2
    """The noise of a simulated measurement, and the draw of a random mask."""


def generator(seed: int, sample: int, use: Use, step: int = 0) -> np.random.Generator:
    """The stream of one key. `seed` and `sample` are non-negative and below 2**64."""
    key = np.array([seed, sample], np.uint64)
    return np.random.Generator(np.random.Philox(counter=np.array([0, 0, step, use], np.uint64), key=key))


def normal(shape: tuple[int, ...], seed: int, sample: int, use: Use, step: int = 0) -> np.ndarray:
    """Standard normal noise, float32, of `shape`."""
    return generator(seed, sample, use, step).standard_normal(shape, dtype=np.float32)
