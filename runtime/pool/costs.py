"""Measured costs of a step by batch size."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..restorer import Restorer

SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes of calls. They are few, as each one allocates memory or compiles a graph."""


GAIN = 0.03
"""The least share of an image's time that a size must save, compared with the next smaller size, to be used."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a step by batch size, ascending from 1, in calls without and with a gradient."""

    forward: Mapping[int, float]
    pullback: Mapping[int, float]

    @classmethod
    def measure(cls, restorer: Restorer, most: int = SIZES[-1]) -> "Costs":
        """Measure on this machine, up to the size that no longer saves GAIN, or `most`. It warms the engine up."""
        return cls(cls._curve(restorer, False, most), cls._curve(restorer, True, most))

    @staticmethod
    def _curve(restorer: Restorer, pulls: bool, most: int) -> dict[int, float]:
        seconds: dict[int, float] = {}
        for size in (size for size in SIZES if size <= most):
            taken = restorer._time_step(size, pulls)
            if seconds and taken / size > (1 - GAIN) * seconds[size // 2] / (size // 2):
                break
            seconds[size] = taken
        return seconds

    def of(self, pulls: bool) -> Mapping[int, float]:
        """Return the seconds by batch size, of calls with or without a gradient."""
        return self.pullback if pulls else self.forward

    def size(self, rows: int, pulls: bool, weight: int = 1) -> int:
        """Return the batch size of the next call where `rows` wait, each with `weight` times the measured pixels."""
        return max(size for size in self._sizes(pulls, weight) if size <= rows)

    def room(self, pulls: bool, weight: int = 1) -> int:
        """Return the largest batch size."""
        return max(self._sizes(pulls, weight))

    def _sizes(self, pulls: bool, weight: int) -> list[int]:
        """Return the batch sizes with at most the pixels of the largest measured call, and at least size 1.

        The cost is taken to be proportional to pixels.
        """
        measured = self.of(pulls)
        return [size for size in measured if size == 1 or size * weight <= max(measured)]
