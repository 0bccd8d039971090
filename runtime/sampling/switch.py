"""The switch: the step t_C at which the gradients of `hybrid` and of `frugal` end.

Steps run T-1 .. 0, and k is the number of steps left at the switch.
"""

import math
from dataclasses import dataclass

from ...engines import InputError

THRESHOLD = 28.0
"""PSNR in dB between two estimates x0hat, a fixed number of steps apart, from which the structure counts as settled."""
POSTER_THRESHOLD = 20.0
"""The threshold of the poster's hybrid, reached about halfway. Sparse gradients are useful for longer
(docs/decisions/switch.md)."""
EARLIEST, LATEST = 0.5, 0.04
"""Shares of all steps between which the automatic switch lies. Near pure noise estimates are alike too."""
EARLIER = {"never": "dps", "always": "closed-form"}
"""Methods that replace earlier values of `switch`."""


@dataclass(frozen=True)
class Switch:
    """A rule: gradients end when at most `k_max` steps are left and the estimate has settled, and at `k_min` anyway."""

    k_max: int
    k_min: int
    threshold: float = math.inf

    @classmethod
    def parse(cls, value: str | int, steps: int, threshold: float | None = None) -> "Switch":
        """Read "auto", at `threshold` dB or THRESHOLD, or k in 0..steps. Raises InputError for anything else."""
        if value == "auto":
            return cls(
                math.floor(EARLIEST * steps), math.ceil(LATEST * steps), THRESHOLD if threshold is None else threshold
            )
        if str(value) in EARLIER:
            raise InputError(f"switch {value!r} is now a method: {EARLIER[str(value)]}")
        try:
            k = int(value)
        except (ValueError, TypeError, OverflowError):
            k = -1
        if not 0 <= k <= steps:
            raise InputError(f"switch must be auto or a number of steps 0..{steps}; got {value!r}")
        return cls(k, k)

    @property
    def words(self) -> str | int:
        """The value that `parse` reads as this rule."""
        return "auto" if self.threshold < math.inf else self.k_max

    def asks(self, left: int) -> bool:
        """Return whether, with `left` steps left, the estimates decide if the switch is due."""
        return self.k_min < left <= self.k_max and self.threshold < math.inf

    def due(self, left: int, settled: float) -> bool:
        """Return whether the `left` last steps take no gradient; `settled`: PSNR of the last comparison, or -inf."""
        return left <= self.k_max and (left <= self.k_min or settled >= self.threshold)
