"""When DPS hands over to DMPS: the step t_C of the hybrid.

Steps run T-1 .. 0, and k counts the DMPS steps that are left at the switch.
"""

import math
from dataclasses import dataclass

from ...engines import InputError

METHODS = {"dps": "never", "dmps": "always", "hybrid": "auto"}
"""The switch of each method by name."""
THRESHOLD = 28.0
"""dB between two estimates x0hat, a fixed share of the schedule apart, at which the structure counts as settled.

The poster's 20 dB is reached halfway, as in the poster; gradients pay for longer than that (docs/switch.md).
"""
EARLIEST, LATEST = 0.5, 0.04
"""The automatic switch leaves between these shares of all steps to DMPS: near pure noise estimates are alike too."""


@dataclass(frozen=True)
class Switch:
    """DMPS takes over when at most `k_max` steps are left and the estimate has settled, at `k_min` in any case."""

    k_max: int
    k_min: int
    threshold: float = math.inf

    @classmethod
    def parse(cls, value: str | int, steps: int) -> "Switch":
        """From `"auto"`, `"never"` (DPS to the end), `"always"` (DMPS from the start), or k in 0..steps.

        Raises InputError for anything else.
        """
        if value == "auto":
            return cls(math.floor(EARLIEST * steps), math.ceil(LATEST * steps), THRESHOLD)
        k = {"never": 0, "always": steps}.get(str(value))
        if k is None:
            try:
                k = int(value)
            except (ValueError, TypeError, OverflowError):
                k = -1
        if not 0 <= k <= steps:
            raise InputError(f"switch must be auto, never, always or a number of steps 0..{steps}; got {value!r}")
        return cls(k, k)

    def words(self, steps: int) -> str | int:
        """What `parse` makes this rule from."""
        if self.threshold < math.inf:
            return "auto"
        return {0: "never", steps: "always"}.get(self.k_max, self.k_max)

    def asks(self, left: int) -> bool:
        """Whether it takes the estimates to say if it is due with so many steps left."""
        return self.k_min < left <= self.k_max and self.threshold < math.inf

    def due(self, left: int, settled: float) -> bool:
        """Whether DMPS takes the `left` remaining steps. `settled` is the PSNR of the last two compared, or -inf."""
        return left <= self.k_max and (left <= self.k_min or settled >= self.threshold)
