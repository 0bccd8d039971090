"""Plain methods as contenders of an evaluation; each takes the operators it is made for, and needs no prior."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engines import MissingExtra
from ..operators import Circular, Deblur, Denoise, Inpaint, Jpeg, Mirrored, Operator, SuperResolution
from ..sampling.loop import StepEvent
from . import plain
from .contender import Contender, OnStep, Outcome

Restore = Callable[[np.ndarray, Any, float], np.ndarray]
"""Restores an image (C, H, W) from a measurement (c, h, w), its operator and sigma."""
BLURS = (Circular, Deblur, Mirrored)
PLAIN: Mapping[str, tuple[tuple[type[Operator], ...], Restore]] = {
    "BM3D": ((Denoise,), lambda y, operator, sigma: plain.bm3d(y, sigma)),
    "non-local means": ((Denoise,), lambda y, operator, sigma: plain.non_local_means(y, sigma)),
    "biharmonic": ((Inpaint,), lambda y, operator, sigma: plain.biharmonic(y, operator.missing)),
    "Lanczos": ((SuperResolution,), lambda y, operator, sigma: plain.lanczos(y, operator.scale)),
    "Wiener": (BLURS, plain.wiener),
    "Richardson-Lucy": (BLURS, lambda y, operator, sigma: plain.richardson_lucy(y, operator)),
    "as decoded": ((Jpeg,), lambda y, operator, sigma: operator.decoded(y)),
}
"""The operators that each plain method takes, and its function, by name."""


@dataclass(frozen=True)
class PlainMethod:
    """A plain method of PLAIN as a contender, which restores one image at a time."""

    name: str

    def takes(self, operator: Operator, sigma: float) -> bool:
        return isinstance(operator, PLAIN[self.name][0])

    def events(self, images: int, operator: Operator, sigma: float) -> int:
        return images

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        images, started = [], time.perf_counter()
        for one in y:
            images.append(PLAIN[self.name][1](one, operator, sigma))
            on_step(StepEvent(0, 1, (self.name,), (-np.inf,), np.zeros(0)))
        seconds, none = time.perf_counter() - started, [0] * len(y)
        return Outcome(np.clip(np.stack(images), -1, 1), [None] * len(y), none, none, seconds)


def plain_methods(on_note: Callable[[str], object]) -> list[Contender]:
    """Return a contender for each of PLAIN; `on_note` is called with a sentence where BM3D is not installed."""
    names = list(PLAIN)
    try:
        plain.load_bm3d()
    except MissingExtra as missing:
        names.remove("BM3D")
        on_note(f"BM3D is left out: {missing}")
    return [PlainMethod(name) for name in names]
