"""The settings of a restoration, in words, and the numbers that its rows carry for them."""

import math
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What is asked of a restoration: the settings of `Restorer.restore`, which says what each means."""

    sigma: float = 0.01
    preset: str = "balanced"
    steps: int | None = None
    switch: str | int = "auto"
    every: int | None = None
    guidance: str = "own"
    zeta: float | None = None
    lam: float | None = None
    seed: int = 0
    sample: int = 0

    def settle(self, operator: Operator, rows: int = 1) -> "Settled":
        """The numbers that `rows` rows with `operator` carry. Raises InputError for what cannot be had."""
        if not 0 <= self.sigma <= 2:
            raise InputError(f"sigma is on the [-1, 1] scale and must lie in 0..2; got {self.sigma}")
        if self.preset not in PRESETS:
            raise InputError(f"there is no preset {self.preset!r}; choose one of {', '.join(PRESETS)}")
        steps = PRESETS[self.preset] if self.steps is None else self.steps
        switch = self._switch(operator, steps)
        zeta, lam = self._constants(operator)
        every = self.every
        if every is not None and (every < 2 or every != int(every)):
            raise InputError(f"every must be a whole number above 1 (at each step is DPS: switch='never'); got {every}")
        sparse = isinstance(operator, Resolvable) and zeta is None and switch.k_max > 0 and switch.k_min < steps
        if every is not None and not sparse:
            raise InputError("every is for the hybrid with a step size of its own; leave it out, or zeta and guidance")
        for name, value, last in (("seed", self.seed, self.seed), ("sample", self.sample, self.sample + rows - 1)):
            if not 0 <= value <= last < 2**64:
                raise InputError(f"{name} must be a whole number in 0..2^64-1 for every row; got {value}")
        stride = every or stride_of(steps)
        return Settled(steps, switch, zeta, lam, stride if sparse else None, stride)

    def _switch(self, operator: Operator, steps: int) -> Switch:
        """The rule asked for; DPS to the end where the operator has no resolvent, unless DMPS was asked for by name."""
        linear = isinstance(operator, Resolvable)
        rule = Switch.parse("never" if self.switch == "auto" and not linear else self.switch, steps)
        if not linear and rule.k_max > 0:
            raise InputError(f"{operator.name} is not a linear operator, so DMPS cannot run; use DPS: switch='never'")
        return rule

    def _constants(self, operator: Operator) -> tuple[float | None, float | None]:
        """zeta and lambda, None where the sampler finds the step sizes."""
        if self.guidance not in GUIDANCE:
            raise InputError(f"there is no guidance {self.guidance!r}; choose one of {', '.join(GUIDANCE)}")
        zeta, lam = self.zeta, self.lam
        if self.guidance == "official":
            zeta = OFFICIAL_ZETA.get(operator.name, 1.0) if zeta is None else zeta
            lam = OFFICIAL_LAMBDA if lam is None else lam
        for name, value in {"zeta": zeta, "lambda": lam}.items():
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0; got {value}")
        return zeta, lam


class Settled(NamedTuple):
    """The numbers of a restoration. None leaves a size to the sampler, and `every` None means the paper's DPS."""

    steps: int
    switch: Switch
    zeta: float | None
    lam: float | None
    every: int | None
    stride: int
    """Steps between the estimates that the switch compares."""
