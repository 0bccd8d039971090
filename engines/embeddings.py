"""Embeddings of the timesteps, computed once for each network."""

from collections.abc import Callable

import numpy as np

from .array_api import Array


class Embeddings:
    """Cache of the plan's timestep embeddings, (K,) for each timestep; `compute` takes t (B,) int64 to (B, K)."""

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray]):
        self._compute = compute
        self._rows: dict[int, np.ndarray] = {}

    def __call__(self, t: Array) -> np.ndarray:
        """Return the embeddings (B, K) of the timesteps t (B,)."""
        steps = [int(float(t[i])) for i in range(len(t))]
        new = sorted(set(steps) - self._rows.keys())
        if new:
            self._rows.update(zip(new, self._compute(np.asarray(new, np.int64)), strict=True))
        return np.stack([self._rows[one] for one in steps])
