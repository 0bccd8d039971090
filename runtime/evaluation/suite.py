"""The seven tasks of an evaluation, and the measurements they make of clean images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...engines import InputError
from ..operators import Colorize, Deblur, Decomposable, Denoise, Inpaint, Operator, Shape, SuperResolution
from ..operators.masks import border_mask, box_mask
from ..sampling.noise import Use, normal


class Task(NamedTuple):
    """One task at the size of a prior's images."""

    title: Callable[[Shape], str]
    operator: Callable[[Shape], Decomposable]
    sigma: float = 0.01
    """Noise deviation on the [-1, 1] scale."""


def _box(shape: Shape) -> tuple[int, int]:
    """Width and height of the hole: 24x24 of 64x64."""
    return 3 * shape[2] // 8, 3 * shape[1] // 8


def _kept(shape: Shape) -> tuple[int, int]:
    """Width and height of what outpainting keeps: 40x40 of 64x64."""
    return 5 * shape[2] // 8, 5 * shape[1] // 8


TASKS: dict[str, Task] = {
    "denoise": Task(lambda s: "denoise", Denoise, 0.25),
    "box": Task(lambda s: "inpainting, {}x{} hole".format(*_box(s)), lambda s: Inpaint(s, box_mask(s, *_box(s)))),
    "outpaint": Task(
        lambda s: "outpainting, {}x{} kept".format(*_kept(s)), lambda s: Inpaint(s, border_mask(s, *_kept(s)))
    ),
    "sr4": Task(lambda s: "super-resolution x4", lambda s: SuperResolution(s, 4)),
    "sr16": Task(lambda s: "super-resolution x16", lambda s: SuperResolution(s, 16)),
    "colorize": Task(lambda s: "colourise (Rec. 601)", lambda s: Colorize(s, "rec601")),
    "gaussian": Task(lambda s: f"Gaussian deblur, std {s[1] / 32:g} px", lambda s: Deblur.gaussian(s, s[1] / 32)),
}
"""By the names that `frugal-rt eval --tasks` takes."""


def choose(text: str, known: list[str], what: str) -> list[str]:
    """The names of a comma-separated list, "all" being every one, in the order of `known`. Raises InputError."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if asked == ["all"]:
        return list(known)
    wrong = [name for name in asked if name not in known]
    if wrong or not asked:
        raise InputError(f"there is no {what} {(wrong or [''])[0]!r}; choose out of {', '.join(known)}, or all")
    return [name for name in known if name in asked]


def measure(operator: Operator, images: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """y = A x + sigma n of a batch (N, C, H, W): (N, c, h, w), the noise of image i keyed by (seed, i)."""
    noise = [normal(operator.measurement_shape, seed, i, Use.MEASUREMENT) for i in range(len(images))]
    return operator.observed(np.asarray(operator.A(images)) + np.float32(sigma) * np.stack(noise))
