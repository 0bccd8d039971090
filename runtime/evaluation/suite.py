"""The tasks of an evaluation, and the measurements that they make of clean images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ...engines import InputError
from ..operators import (
    Circular,
    Colorize,
    Deblur,
    Decomposable,
    Denoise,
    Inpaint,
    Jpeg,
    Operator,
    Shape,
    SuperResolution,
    motion_kernel,
)
from ..operators.jpeg import Component
from ..operators.masks import border_mask, box_mask
from ..pictures.damage import JPEG_SIGMA, SIGMA, sigma_of
from ..pictures.jpeg import standard_tables
from ..sampling.noise import Use, normal


class Task(NamedTuple):
    """A task, for images of any shape."""

    title: Callable[[Shape], str]
    operator: Callable[[Shape], Decomposable]
    sigma: float = SIGMA
    """Standard deviation of the noise on the [-1, 1] scale; for a JPEG, in quantisation steps."""
    rounds: bool = False
    """Whether rounding is the only noise, so that no other can be set."""

    def noise(self, asked: float | None) -> float:
        """Return the task's sigma, where `asked` is the noise set for every task, or None."""
        return self.sigma if asked is None or self.rounds else asked


def _box(shape: Shape) -> tuple[int, int]:
    """Return the width and height of the hole: 24x24 in 64x64."""
    return 3 * shape[2] // 8, 3 * shape[1] // 8


def _kept(shape: Shape) -> tuple[int, int]:
    """Return the width and height that outpainting keeps: 40x40 of 64x64."""
    return 5 * shape[2] // 8, 5 * shape[1] // 8


def scratches(shape: Shape) -> np.ndarray:
    """Return a mask (H, W) of a dozen strokes across an image, each as wide as a fortieth of its side."""
    _, height, width = shape
    mask = Image.new("L", (width, height))
    draw, random = ImageDraw.Draw(mask), np.random.default_rng(0)
    for x0, y0, x1, y1 in random.uniform(-0.1, 1.1, (12, 4)):
        draw.line((x0 * width, y0 * height, x1 * width, y1 * height), 255, max(1, width // 40))
    return np.asarray(mask) > 0


def lettering(shape: Shape) -> np.ndarray:
    """Return a mask (H, W) of lines of text over an image, about a sixth of its pixels."""
    _, height, width = shape
    mask, size = Image.new("L", (width, height)), max(8, height // 12)
    line = "sphinx of black quartz, judge my vow " * (1 + width // (4 * size))
    for number, top in enumerate(range(-size // 4, height, round(1.2 * size))):
        ImageDraw.Draw(mask).text((-2 * size * (number % 5), top), line, 255, font_size=size)
    return np.asarray(mask) > 127


def scattered(shape: Shape, share: float) -> np.ndarray:
    """Return a mask (H, W) of random pixels, a `share` of the image."""
    return np.random.default_rng(0).random(shape[1:]) < share


def jpeg(shape: Shape, quality: int) -> Jpeg:
    """Return the operator of JPEG for images of `shape`: libjpeg's tables at a quality, chroma subsampled 4:2:0."""
    light, chroma = standard_tables(quality)
    if shape[0] == 1:
        return Jpeg(shape, [Component(1, 1, light)], "plain")
    return Jpeg(shape, [Component(2, 2, light), *[Component(1, 1, chroma)] * 2])


def _denoise(levels: float) -> Task:
    return Task(lambda s: f"denoise, {levels:g} grey levels", Denoise, sigma_of(levels))


def _missing(title: str, mask: Callable[[Shape], np.ndarray]) -> Task:
    return Task(lambda s: title, lambda s: Inpaint(s, mask(s)))


def _smaller(scale: int) -> Task:
    return Task(lambda s: f"super-resolution x{scale}", lambda s: SuperResolution(s, scale))


def _jpeg(quality: int) -> Task:
    return Task(lambda s: f"JPEG of quality {quality}", lambda s: jpeg(s, quality), JPEG_SIGMA, rounds=True)


TASKS: dict[str, Task] = {
    "denoise": Task(lambda s: "denoise", Denoise, 0.25),
    "box": Task(lambda s: "inpainting, {}x{} hole".format(*_box(s)), lambda s: Inpaint(s, box_mask(s, *_box(s)))),
    "outpaint": Task(
        lambda s: "outpainting, {}x{} kept".format(*_kept(s)), lambda s: Inpaint(s, border_mask(s, *_kept(s)))
    ),
    "sr4": _smaller(4),
    "sr16": _smaller(16),
    "colorize": Task(lambda s: "colourise (Rec. 601)", lambda s: Colorize(s, "rec601")),
    "gaussian": Task(lambda s: f"Gaussian deblur, std {s[1] / 32:g} px", lambda s: Deblur.gaussian(s, s[1] / 32)),
}
"""The default tasks of `frugal-rt eval`, by name."""

EVERYDAY: dict[str, Task] = {
    "denoise10": _denoise(10),
    "denoise25": _denoise(25),
    "denoise50": _denoise(50),
    "text": _missing("text over a sixth", lettering),
    "scratches": _missing("scratches", scratches),
    "missing70": _missing("70% missing", partial(scattered, share=0.7)),
    "sr2": _smaller(2),
    "sr4": TASKS["sr4"],
    "blur": Task(lambda s: "Gaussian blur of 2 px, noise of 2", lambda s: Deblur.gaussian(s, 2.0), sigma_of(2)),
    "motion": Task(
        lambda s: "motion blur of 9 px, noise of 2", lambda s: Circular(s, motion_kernel(9, 30)), sigma_of(2)
    ),
    "jpeg10": _jpeg(10),
    "jpeg30": _jpeg(30),
}
"""Damages of photographs that have a plain method: the default tasks of `frugal-rt eval --vs classical`."""

KNOWN: Mapping[str, Task] = {**{name: TASKS[name] for name in ("denoise", "box", "outpaint")}, **EVERYDAY, **TASKS}
"""Every task, in an order that agrees with both."""


def choose(text: str, known: Sequence[str], what: str, all_: Sequence[str] | None = None) -> list[str]:
    """Parse a comma-separated list of names, sorted as in `known`; "all" stands for `all_`, or without it for `known`.

    Raises InputError.
    """
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if asked == ["all"]:
        return list(known if all_ is None else all_)
    wrong = [name for name in asked if name not in known]
    if wrong or not asked:
        raise InputError(f"there is no {what} {(wrong or [''])[0]!r}; choose out of {', '.join(known)}, or all")
    return [name for name in known if name in asked]


def measure(operator: Operator, images: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Measure y = A x + sigma n, (N, c, h, w), of a batch (N, C, H, W); the noise of image i has the key (seed, i).

    A JPEG's noise is its rounding, which has no seed.
    """
    if isinstance(operator, Jpeg):
        return np.stack([operator.rounded(image) for image in images])
    noise = [normal(operator.measurement_shape, seed, i, Use.MEASUREMENT) for i in range(len(images))]
    return operator.observed(np.asarray(operator.A(images)) + np.float32(sigma) * np.stack(noise))


def seen(operator: Operator, y: np.ndarray) -> np.ndarray:
    """Return a measurement (c, h, w) as a picture (C, h', w'): a JPEG decoded, others as they are."""
    return operator.decoded(y) if isinstance(operator, Jpeg) else y
