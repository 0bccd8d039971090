"""The plain loop that takes rows of one schedule from pure noise to images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...engines import Array

T = TypeVar("T")


@dataclass(frozen=True)
class StepEvent:
    """What `on_step` is told after every step of the loop."""

    step: int
    """Steps left, T-1 .. 0."""
    steps: int
    phases: tuple[str, ...]
    """"dps" or "dmps" for each row: the phase of the step just made."""
    settled: tuple[float, ...]
    """PSNR in dB between the last two estimates compared, for each row; -inf before."""
    x0hat: Array
    """(B, C, H, W) on [-1, 1]: the current estimates, for a preview."""


def halved(rows: Sequence[T], batch: int) -> Iterator[Sequence[T]]:
    """`rows` in pieces of `batch`, what is left in halves of it: rows that switch at steps of their own leave groups of
    any size, and engines compile, or keep memory, for each size of a call."""
    while rows:
        while batch > len(rows):
            batch //= 2
        yield rows[:batch]
        rows = rows[batch:]


def _to_numpy(array: Array) -> np.ndarray:
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)
