"""The settings of a restoration by name, for type checkers to tell what there is."""

from typing import Literal, TypedDict

Preset = Literal["quality", "balanced", "fast"]
"""Of `guidance.PRESETS`."""
Aim = Literal["detail", "fidelity"]
"""Of `guidance.AIMS`."""
StepSizes = Literal["own", "official"]
"""Of `guidance.GUIDANCE`."""
When = Literal["auto", "never", "always"] | int
"""When DPS hands over to DMPS: as `Switch.parse` reads it."""


class Settings(TypedDict, total=False):
    """The settings of `Restorer.restore`, which says what each means."""

    sigma: float | None
    aim: Aim | None
    preset: Preset | None
    steps: int | None
    switch: When | None
    every: int | None
    guidance: StepSizes | None
    zeta: float | None
    lam: float | None
    seed: int
    sample: int
