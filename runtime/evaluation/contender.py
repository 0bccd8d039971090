"""Contenders of an evaluation: our methods, and whatever else restores a batch of measurements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...engines import InputError
from ..operators import Denoise, Jpeg, Operator
from ..restorer import Restorer
from ..sampling.guidance import AIMS, METHODS, PRESETS, Guidance
from ..sampling.loop import StepEvent

OnStep = Callable[[StepEvent], object]
OURS = (*METHODS, *AIMS, *PRESETS)
"""Ways of ours that are compared, by name, in the order of tables."""


class Refused(InputError):
    """A contender cannot take a task; the message is a sentence that says why. The others go on."""


@dataclass(frozen=True)
class Outcome:
    """A batch restored. Lists hold one value an image."""

    images: np.ndarray
    """(N, C, H, W) float32 on [-1, 1]."""
    k: Sequence[float | None]
    """Steps left at the switch; None where there is no such thing."""
    forwards: Sequence[float]
    gradients: Sequence[float]
    seconds: float
    """Duration of the whole batch, within the sampling loop."""


class Contender(Protocol):
    """One method of the table."""

    @property
    def name(self) -> str: ...

    def takes(self, operator: Operator) -> bool:
        """Whether the method is for what `operator` does; where it is not, nothing is said of it."""
        ...

    def events(self, images: int, operator: Operator) -> int:
        """How often `restore` will call `on_step` for a batch of so many images."""
        ...

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        """The images that `operator` and noise of deviation `sigma` turned into y (N, c, h, w).

        Row i draws from the key (seed, sample + i). Raises Refused where this method cannot take the operator.
        """
        ...


@dataclass(frozen=True)
class Method:
    """One of our methods, aims or presets. `settings` go to `Restorer.restore` as they are."""

    restorer: Restorer
    name: str
    settings: Mapping[str, Any]

    def takes(self, operator: Operator) -> bool:
        """Whether this is a way of its own: a denoising or a JPEG has its aims, and no preset."""
        return "preset" not in self.settings or not isinstance(operator, Denoise | Jpeg)

    def events(self, images: int, operator: Operator) -> int:
        return Guidance(**self.settings).steps_with(operator)

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        result = self.restorer.restore(
            y, operator, sigma=sigma, seed=seed, sample=sample, on_step=on_step, **self.settings
        )
        return Outcome(result.image, result.k, result.forwards, result.gradients, sum(result.seconds.values()))


def our_methods(restorer: Restorer, names: Sequence[str], settings: Mapping[str, Any]) -> list[Contender]:
    """A contender for each of OURS named; a method has those of `settings` that are its own."""
    return [Method(restorer, name, _settings(name, settings)) for name in names]


def _settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if name not in METHODS:
        return {"aim" if name in AIMS else "preset": name}
    return {"method": name, **{one: value for one, value in settings.items() if one in ("steps", *METHODS[name])}}
