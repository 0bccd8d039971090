"""Noise with keys (seed, sample, step): each key has its own counter-based stream, so images do not share noise."""

from enum import IntEnum

import numpy as np


class Use(IntEnum):
    """Uses of noise, each with a stream of its own."""

    START = 0
    """Noise of the first state."""
    STEP = 1
    """z of a step."""
    MEASUREMENT = 2
    """The noise of a simulated measurement, and the draw of a random mask."""


def generator(seed: int, sample: int, use: Use, step: int = 0) -> np.random.Generator:
    """Return the stream of a key. `seed` and `sample` lie in 0..2^64-1."""
    key = np.array([seed, sample], np.uint64)
    return np.random.Generator(np.random.Philox(counter=np.array([0, 0, step, use], np.uint64), key=key))


def normal(shape: tuple[int, ...], seed: int, sample: int, use: Use, step: int = 0) -> np.ndarray:
    """Draw standard normal noise, float32, of `shape`."""
    return generator(seed, sample, use, step).standard_normal(shape, dtype=np.float32)
