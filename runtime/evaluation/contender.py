"""Contenders of an evaluation: our methods, and others that restore a batch of measurements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...engines import InputError
from ..operators import Denoise, Jpeg, Operator
from ..restorer import Restorer
from ..sampling.guidance import AIMS, METHODS, PRESETS, Guidance
from ..sampling.loop import StepEvent

OnStep = Callable[[StepEvent], object]
OURS = (*METHODS, *AIMS, *PRESETS)
"""Names of our methods, aims and presets, in the order of tables."""


class Refused(InputError):
    """A contender cannot take a task, for the reason in the message. The other contenders go on."""


@dataclass(frozen=True)
class Outcome:
    """A restored batch. Sequences hold a value for each image."""

    images: np.ndarray
    """(N, C, H, W) float32 on [-1, 1]."""
    k: Sequence[float | None]
    """Steps left at the switch from DPS to DMPS; None without a switch."""
    forwards: Sequence[float]
    gradients: Sequence[float]
    seconds: float
    """Duration of the whole batch in the sampling loop."""


class Contender(Protocol):
    """A method of the tables."""

    @property
    def name(self) -> str: ...

    def takes(self, operator: Operator, sigma: float) -> bool:
        """Return whether the method is made for `operator` and noise of deviation `sigma`; else tables leave it out."""
        ...

    def events(self, images: int, operator: Operator, sigma: float) -> int:
        """Return how often `restore` will call `on_step` for a batch of `images` images."""
        ...

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        """Restore images (N, C, H, W) from y (N, c, h, w), measured by `operator` with noise of deviation `sigma`.

        Row i draws its noise from the key (seed, sample + i). Raises Refused for an operator it cannot take.
        """
        ...


@dataclass(frozen=True)
class Method:
    """A method, aim or preset of ours as a contender. `settings` are passed to `Restorer.restore`."""

    restorer: Restorer
    name: str
    settings: Mapping[str, Any]
    earlier: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True)
    """The settings of the names before this one."""

    def takes(self, operator: Operator, sigma: float) -> bool:
        """Return whether this name differs from the earlier ones; denoising and JPEG have aims, but no presets."""
        if "preset" in self.settings and isinstance(operator, Denoise | Jpeg):
            return False
        mine, *others = (
            self.restorer._settled(operator, Guidance(sigma=sigma, **one)) for one in (self.settings, *self.earlier)
        )
        return mine not in others

    def events(self, images: int, operator: Operator, sigma: float) -> int:
        return self.restorer._steps(operator, Guidance(sigma=sigma, **self.settings))

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        result = self.restorer.restore(
            y, operator, sigma=sigma, seed=seed, sample=sample, on_step=on_step, **self.settings
        )
        return Outcome(result.image, result.k, result.forwards, result.gradients, sum(result.seconds.values()))


def our_methods(restorer: Restorer, names: Sequence[str], settings: Mapping[str, Any]) -> list[Contender]:
    """Return a contender for each name of OURS; a method gets the `settings` that it reads."""
    each = [_settings(name, settings) for name in names]
    return [Method(restorer, name, each[i], earlier=each[:i]) for i, name in enumerate(names)]


def _settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if name not in METHODS:
        return {"aim" if name in AIMS else "preset": name}
    return {"method": name, **{one: value for one, value in settings.items() if one in ("steps", *METHODS[name])}}
