"""The cost of a step by the size of its batch, measured."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..operators import Denoise
from ..restorer import Restorer
from ..sampling.advance import advance

SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes that calls have; between them memory is made anew, or a graph compiled."""


GAIN = 0.03
"""A size is used if it saves this share of an image's time beside the size below it."""


@dataclass(frozen=True)
class Costs:
    """Seconds of one step of a batch by its size, in calls without and with a gradient; sizes ascend from 1."""

    forward: Mapping[int, float]
    pullback: Mapping[int, float]

    @classmethod
    def measure(cls, restorer: Restorer, most: int = SIZES[-1]) -> "Costs":
        """Measured on this machine, up to the size that no longer saves GAIN, or `most`. Also warms the engine up."""
        return cls(cls._curve(restorer, "always", most), cls._curve(restorer, "never", most))

    @staticmethod
    def _curve(restorer: Restorer, switch: str, most: int) -> dict[int, float]:
        operator = Denoise(restorer.image_shape)
        seconds: dict[int, float] = {}
        for size in (size for size in SIZES if size <= most):
            restorer.engine.prepare(switch == "never", size)
            y = np.zeros((size, *restorer.image_shape), np.float32)
            rows = restorer.start(y, operator, sigma=1.0, steps=4, switch=switch)
            taken = []
            for _ in range(3):  # the first pays for memory
                started = time.perf_counter()
                advance(rows, restorer.engine)
                float(rows[0].x[0, 0, 0])  # a device answers late: wait for a value
                taken.append(time.perf_counter() - started)
            if seconds and min(taken) / size > (1 - GAIN) * seconds[size // 2] / (size // 2):
                break
            seconds[size] = min(taken)
        return seconds

    def of(self, pulls: bool) -> Mapping[int, float]:
        """The curve of calls with or without a gradient."""
        return self.pullback if pulls else self.forward

    def size(self, rows: int, pulls: bool) -> int:
        """The size of the next call where `rows` wait for one."""
        return max(size for size in self.of(pulls) if size <= rows)

    def room(self, pulls: bool) -> int:
        """The largest size."""
        return max(self.of(pulls))
