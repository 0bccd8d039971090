"""When DPS hands over to DMPS: the step t_C of the hybrid.

Steps run T-1 .. 0, and k counts the DMPS steps that are left at the switch.
"""

import math
from dataclasses import dataclass

from ..engines import InputError

METHODS = {"dps": "never", "dmps": "always", "hybrid": "auto"}
"""The switch of each method by name."""
THRESHOLD = 35.0
"""dB between two consecutive estimates x0hat at which the structure counts as settled, at REFERENCE_STEPS steps.

The poster's 20 dB landed at k = 50 with its prior; how close consecutive estimates are is the prior's (docs/method.md).
"""
REFERENCE_STEPS = 100
EARLIEST, LATEST = 0.8, 0.2
"""The automatic switch leaves between these shares of all steps to DMPS."""


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
            # Estimates that are closer in time differ less: the threshold moves with the length of a step.
            threshold = THRESHOLD + 10 * math.log10(steps / REFERENCE_STEPS)
            return cls(math.floor(EARLIEST * steps), math.ceil(LATEST * steps), threshold)
        k = {"never": 0, "always": steps}.get(str(value))
        if k is None:
            try:
                k = int(value)
            except (ValueError, TypeError, OverflowError):
                k = -1
        if not 0 <= k <= steps:
            raise InputError(f"switch must be auto, never, always or a number of steps 0..{steps}; got {value!r}")
        return cls(k, k)

    def due(self, left: int, settled: float) -> bool:
        """Whether DMPS takes the `left` remaining steps. `settled` is the PSNR of the last two x0hat, or -inf."""
        return left <= self.k_max and (left <= self.k_min or settled >= self.threshold)
