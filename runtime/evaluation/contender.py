"""What an evaluation compares: our methods, and whatever else restores a batch of measurements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...engines import InputError
from ..operators import Operator
from ..restorer import Restorer
from ..sampling.guidance import AIMS, METHODS, Guidance
from ..sampling.loop import StepEvent

OnStep = Callable[[StepEvent], object]


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
    """Of the whole batch, within the sampling loop."""


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
    """One of our methods or aims. `settings` go to `Restorer.restore` as they are."""

    restorer: Restorer
    name: str
    settings: Mapping[str, Any]

    def takes(self, operator: Operator) -> bool:
        return True

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
    """A contender for each of METHODS or AIMS named; a method has those of `settings` that are its own."""
    return [
        Method(
            restorer,
            name,
            {"aim": name}
            if name in AIMS
            else {
                "method": name,
                **{one: value for one, value in settings.items() if one in ("steps", *METHODS[name])},
            },
        )
        for name in names
    ]
