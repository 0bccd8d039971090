"""Types of the settings of a restoration, for type checkers."""

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, TypedDict

from ...engines import KindError

Preset = Literal["quality", "balanced", "fast"]
"""The names in `guidance.PRESETS`."""
Aim = Literal["detail", "fidelity"]
"""The names in `guidance.AIMS`."""
StepSizes = Literal["own", "official"]
"""The names in `guidance.GUIDANCE`."""
Method = Literal["frugal", "hybrid", "dps", "dmps", "closed-form"]
"""The names in `guidance.METHODS`."""
When = Literal["auto"] | int
"""The switch, as `Switch.parse` reads it."""


class Settings(TypedDict, total=False):
    """The settings of `Restorer.restore`, described there."""

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


WORDS, NUMBERS, WHOLE = (
    ("aim", "method", "preset", "guidance"),
    ("sigma", "every", "zeta", "lam"),
    ("steps", "seed", "sample"),
)
"""Names of the settings by type; `switch` is left out, as `Switch.parse` checks it."""


def check_kinds(settings: Mapping[str, Any]) -> None:
    """Raise KindError for a setting of another type than its own: word, number or whole number."""
    for name, value in settings.items():
        if value is None:
            continue
        if name in WORDS and not isinstance(value, str):
            raise KindError(f"{name} is a word; got {value!r}")
        if name in NUMBERS and not isinstance(value, Real):
            raise KindError(f"{name} is a number; got {value!r}")
        if name in WHOLE:
            check_whole(name, value)


def check_whole(name: str, value: Any) -> int:
    """Return `value` as an int. Raises KindError where it is no whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise KindError(f"{name} is a whole number; got {value!r}") from None
