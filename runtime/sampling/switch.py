"""The switch: the step t_C at which the gradients of `hybrid` and of `frugal` end.

Steps run T-1 .. 0, and k counts those that are left at the switch.
"""

import math
from dataclasses import dataclass

from ...engines import InputError

THRESHOLD = 28.0
"""dB between two estimates x0hat, a fixed share of the schedule apart, at which the structure counts as settled."""
POSTER_THRESHOLD = 20.0
"""The poster's, for its own hybrid. It is crossed halfway; sparse gradients pay for longer
(docs/decisions/switch.md)."""
EARLIEST, LATEST = 0.5, 0.04
"""The automatic switch is between these shares of all steps: near pure noise estimates are alike too."""
EARLIER = {"never": "dps", "always": "closed-form"}
"""Words that `switch` once took, and the methods that do what they meant."""


@dataclass(frozen=True)
class Switch:
    """Gradients end when at most `k_max` steps are left and the estimate has settled, at `k_min` in any case."""

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
            raise InputError(f"switch {value!r} is said by the method now: {EARLIER[str(value)]}")
        try:
            k = int(value)
        except (ValueError, TypeError, OverflowError):
            k = -1
        if not 0 <= k <= steps:
            raise InputError(f"switch must be auto or a number of steps 0..{steps}; got {value!r}")
        return cls(k, k)

    @property
    def words(self) -> str | int:
        """The text or number that `parse` makes this rule from."""
        return "auto" if self.threshold < math.inf else self.k_max

    def asks(self, left: int) -> bool:
        """Whether it takes the estimates to say if it is due with so many steps left."""
        return self.k_min < left <= self.k_max and self.threshold < math.inf

    def due(self, left: int, settled: float) -> bool:
        """Whether the `left` remaining steps take no gradient; `settled`: PSNR of the last two compared, or -inf."""
        return left <= self.k_max and (left <= self.k_min or settled >= self.threshold)
