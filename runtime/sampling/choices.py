"""The settings of a restoration by name, for type checkers to tell what there is."""

from typing import Literal, TypedDict

Preset = Literal["quality", "balanced", "fast"]
"""Of `guidance.PRESETS`."""
Aim = Literal["detail", "fidelity"]
"""Of `guidance.AIMS`."""
StepSizes = Literal["own", "official"]
"""Of `guidance.GUIDANCE`."""
Method = Literal["frugal", "hybrid", "dps", "dmps", "closed-form"]
"""Of `guidance.METHODS`."""
When = Literal["auto"] | int
"""When gradients end: as `Switch.parse` reads it."""


class Settings(TypedDict, total=False):
    """The settings of `Restorer.restore`, which says what each means."""

    sigma: float | None
    aim: Aim | None
    method: Method | None
    preset: Preset | None
    steps: int | None
    switch: When | None
    every: int | None
    guidance: StepSizes | None
    zeta: float | None
    lam: float | None
    seed: int
    sample: int
