"""The cost of a step by the size of its batch, measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..restorer import Restorer

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
        """Measure them on this machine, up to the size that no longer saves GAIN, or `most`; it warms the engine up."""
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
        """The curve of calls with or without a gradient."""
        return self.pullback if pulls else self.forward

    def size(self, rows: int, pulls: bool, weight: int = 1) -> int:
        """The size of the next call where `rows` wait for one, each of so many times the pixels that were measured."""
        return max(size for size in self._sizes(pulls, weight) if size <= rows)

    def room(self, pulls: bool, weight: int = 1) -> int:
        """The largest size."""
        return max(self._sizes(pulls, weight))

    def _sizes(self, pulls: bool, weight: int) -> list[int]:
        """Sizes of calls with no more pixels than the largest measured call: a processor's work goes by pixels.

        One image is always a call.
        """
        measured = self.of(pulls)
        return [size for size in measured if size == 1 or size * weight <= max(measured)]
