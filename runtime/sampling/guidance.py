"""The settings of a restoration, in words, and the numbers that its rows carry for them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ...engines import InputError
from ..operators import Denoise, Linear, Operator
from .switch import Switch

PRESETS = {"quality": 100, "balanced": 50, "fast": 20}
"""Sampling steps T by name: three points of the frontier of docs/frontier.md."""
PRESET = "balanced"
"""The one that is taken where none is named."""
GRADIENTS = 25
"""About how many gradients the hybrid takes if it never switches, and estimates it compares, whatever T."""
OFFICIAL_ZETA = {"sr": 0.3, "deblur": 0.3, "inpaint": 0.5}
"""DPS's own constants, for 1000 steps, by operator; 1 for the others, its largest."""
OFFICIAL_LAMBDA = 1.75
GUIDANCE = ("own", "official")
METHOD = 1
"""The version of the sampler, in the settings of every result: another gives other pixels for the same settings."""
AIMS = {"detail": 8, "fidelity": 1}
"""Network calls of a denoising that starts from the picture itself, at most: the probability flow, or its mean."""
MEASURED_STEPS = 8
"""Network calls, at most, of another task that starts from a plain estimate, whatever the aim."""
STARTS = {"detail": 0.4, "fidelity": 0.1}
"""Deviation, on [-1, 1], of the noise added to the plain estimate: what of it is believed less is made anew."""
SAMPLED = ("preset", "steps", "switch", "every", "guidance", "zeta", "lam")
"""The settings of the sampler that starts from noise. Where one of them is given, denoising does so too."""


def stride_of(steps: int) -> int:
    """Steps between two gradients of the hybrid, and between the estimates that the switch compares."""
    return max(2, round(steps / GRADIENTS))


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What is asked of a restoration: the settings of `Restorer.restore`, which says what each means."""

    sigma: float | None = None
    """None until `Restorer` settles it for a measurement."""
    aim: str | None = None
    preset: str | None = None
    steps: int | None = None
    switch: str | int | None = None
    every: int | None = None
    guidance: str | None = None
    zeta: float | None = None
    lam: float | None = None
    seed: int = 0
    sample: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for an aim that is none, and for one beside settings of the sampler from noise."""
        if self.aim is None:
            return
        if self.aim not in AIMS:
            raise InputError(f"there is no aim {self.aim!r}; choose one of {', '.join(AIMS)}")
        if self.sampled:
            name = {"lam": "lambda"}.get(self.sampled[0], self.sampled[0])
            raise InputError(
                f"an aim starts from the picture, and {name} is for the sampler that starts from noise; leave one out"
            )

    @property
    def noise(self) -> float:
        """sigma, once it is settled."""
        assert self.sigma is not None
        return self.sigma

    @property
    def sampled(self) -> list[str]:
        """The settings given that only the sampler from noise has."""
        return [name for name in SAMPLED if getattr(self, name) is not None]

    def aim_with(self, operator: Operator) -> str | None:
        """The aim with which `operator` is undone; None is the sampler from noise. Raises InputError."""
        if isinstance(operator, Denoise):
            return self.aim or (None if self.sampled else next(iter(AIMS)))
        if self.aim is not None and not isinstance(operator, Linear):
            raise InputError(f"{operator.name} is not a linear operator, so it has no aim; leave the aim out")
        return self.aim

    def steps_with(self, operator: Operator) -> int:
        """The steps of a row with `operator`; with an aim, at most. Raises InputError."""
        aim = self.aim_with(operator)
        if aim is not None:
            return AIMS[aim] if isinstance(operator, Denoise) else MEASURED_STEPS
        preset = PRESET if self.preset is None else self.preset
        if preset not in PRESETS:
            raise InputError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        return PRESETS[preset] if self.steps is None else self.steps

    def start_with(self, operator: Operator) -> float:
        """The deviation of the noise that a row with an aim starts from: the picture's own, or what is added."""
        return self.noise if isinstance(operator, Denoise) else STARTS[self.aim or ""]

    def settle(self, operator: Operator, rows: int = 1) -> "Settled":
        """The numbers that `rows` rows with `operator` carry. Raises InputError for what cannot be had."""
        if self.sigma is not None and not 0 <= self.sigma <= 2:
            raise InputError(f"sigma is on the [-1, 1] scale and must lie in 0..2; got {self.sigma}")
        for name, value, last in (("seed", self.seed, self.seed), ("sample", self.sample, self.sample + rows - 1)):
            if not 0 <= value <= last < 2**64:
                raise InputError(f"{name} must be a whole number in 0..2^64-1 for every row; got {value}")
        aim, steps = self.aim_with(operator), self.steps_with(operator)
        if aim is not None:
            return Settled(steps, Switch(0, 0), None, None, None, 1, aim)
        switch = self._switch(operator, steps)
        zeta, lam = self._constants(operator)
        every = self.every
        if every is not None and (every < 2 or every != int(every)):
            raise InputError(f"every must be a whole number above 1 (at each step is DPS: switch='never'); got {every}")
        sparse = isinstance(operator, Linear) and zeta is None and switch.k_max > 0 and switch.k_min < steps
        if every is not None and not sparse:
            raise InputError("every is for the hybrid with a step size of its own; leave it out, or zeta and guidance")
        stride = every or stride_of(steps)
        return Settled(steps, switch, zeta, lam, stride if sparse else None, stride, None)

    def _switch(self, operator: Operator, steps: int) -> Switch:
        """The rule asked for; DPS to the end where the operator has no resolvent, unless DMPS was asked for by name."""
        linear = isinstance(operator, Linear)
        asked = "auto" if self.switch is None else self.switch
        rule = Switch.parse("never" if asked == "auto" and not linear else asked, steps)
        if not linear and rule.k_max > 0:
            raise InputError(f"{operator.name} is not a linear operator, so DMPS cannot run; use DPS: switch='never'")
        return rule

    def _constants(self, operator: Operator) -> tuple[float | None, float | None]:
        """zeta and lambda, None where the sampler finds the step sizes."""
        guidance = GUIDANCE[0] if self.guidance is None else self.guidance
        if guidance not in GUIDANCE:
            raise InputError(f"there is no guidance {guidance!r}; choose one of {', '.join(GUIDANCE)}")
        zeta, lam = self.zeta, self.lam
        if guidance == "official":
            zeta = OFFICIAL_ZETA.get(operator.name, 1.0) if zeta is None else zeta
            lam = OFFICIAL_LAMBDA if lam is None else lam
        for name, value in {"zeta": zeta, "lambda": lam}.items():
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0; got {value}")
        return zeta, lam


class Settled(NamedTuple):
    """The numbers of a restoration. None leaves a size to the sampler, and `every` None means the paper's DPS."""

    steps: int
    """At most, with an aim."""
    switch: Switch
    zeta: float | None
    lam: float | None
    every: int | None
    stride: int
    """Steps between the estimates that the switch compares."""
    aim: str | None
    """Of AIMS, to start from the measurement or a plain estimate; None starts from noise."""
