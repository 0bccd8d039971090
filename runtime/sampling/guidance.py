"""What a restoration is asked for in words, settled into the numbers that its rows carry."""

import math
from typing import NamedTuple

from ...engines import InputError
from ..operators import Operator, Resolvable
from .switch import Switch

PRESETS = {"quality": 100, "balanced": 50, "fast": 20}
"""Sampling steps T by name: three points of the frontier of docs/frontier.md."""
GRADIENTS = 25
"""About how many gradients the hybrid takes if it never switches, and estimates it compares, whatever T."""
OFFICIAL_ZETA = {"sr": 0.3, "deblur": 0.3, "inpaint": 0.5}
"""DPS's own constants, for 1000 steps, by operator; 1 for the others, its largest."""
OFFICIAL_LAMBDA = 1.75
GUIDANCE = ("own", "official")


def stride_of(steps: int) -> int:
    """Steps between two gradients of the hybrid, and between the estimates that the switch compares."""
    return max(2, round(steps / GRADIENTS))


class Guidance(NamedTuple):
    """How the two phases are guided. None leaves a size to the sampler, and `every` None means the paper's DPS."""

    zeta: float | None
    lam: float | None
    every: int | None
    stride: int
    """Steps between the estimates that the switch compares."""

    @classmethod
    def settle(
        cls,
        operator: Operator,
        steps: int,
        switch: Switch,
        guidance: str = "own",
        every: int | None = None,
        zeta: float | None = None,
        lam: float | None = None,
    ) -> "Guidance":
        """From what a caller asks for, None being whatever suits. Raises InputError where it cannot be had."""
        if guidance not in GUIDANCE:
            raise InputError(f"there is no guidance {guidance!r}; choose one of {', '.join(GUIDANCE)}")
        if guidance == "official":
            zeta = OFFICIAL_ZETA.get(operator.name, 1.0) if zeta is None else zeta
            lam = OFFICIAL_LAMBDA if lam is None else lam
        for name, value in {"zeta": zeta, "lambda": lam}.items():
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0; got {value}")
        if every is not None and (every < 2 or every != int(every)):
            raise InputError(f"every must be a whole number above 1 (at each step is DPS: switch='never'); got {every}")
        sparse = isinstance(operator, Resolvable) and zeta is None and switch.k_max > 0 and switch.k_min < steps
        if every is not None and not sparse:
            raise InputError("every is for the hybrid with a step size of its own; leave it out, or zeta and guidance")
        stride = every or stride_of(steps)
        return cls(zeta, lam, stride if sparse else None, stride)
