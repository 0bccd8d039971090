"""Detection of an earlier JPEG in a picture's pixels: their cosine coefficients lie near multiples of its steps."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..operators.jpeg import HALF, LEVEL_SHIFT, SIDE, YCBCR, Component, cosines, stretched
from .jpeg import JpegFile, standard_tables

QUALITIES = range(1, 96)
"""libjpeg's qualities whose tables are tried; most programs use these tables."""
SAMPLINGS = ((2, 2), (1, 1), (2, 1))
"""Sampling factors of lightness, across and down, where chroma has 1 x 1: 4:2:0, 4:4:4, 4:2:2. The first is taken where
chroma does not decide."""
FOUND = 0.5
"""The least `on_steps` from which a picture counts as an earlier JPEG. For every fifth picture of tune-20 at qualities
10 to 90, saved as PNG or as JPEG of 90 and 95, it is at least 0.7, and 0 where the picture never was a JPEG."""
LIKELIER, LIKELY = 0.1, 0.35
"""Advantage of the first sampling: LIKELIER is added to `on_steps` of its chroma, and the sum is at least LIKELY."""
LEAST = 64
"""The least number of coefficients from which `on_steps` is meaningful."""
ASKED = 32
"""The most rows and columns of blocks whose lightness is examined, evenly spread."""
ROUNDS = 20
"""Iterations that invert the upscaling of chroma; each leaves at most 3/4 of the error."""


@dataclass(frozen=True)
class SavedJpeg:
    """The JPEG that a picture was before it was saved again, by libjpeg's tables of one quality."""

    pixels: np.ndarray
    """The picture's pixels, (3, H, W) on [-1, 1]."""
    light: np.ndarray
    """The quantisation table (8, 8) of lightness."""
    chroma: np.ndarray
    turn: ClassVar[int] = 1
    """EXIF's orientation relative to the picture: none."""

    @property
    def step(self) -> float:
        """The mean step in levels of the table of lightness."""
        return float(np.mean(self.light))

    @cached_property
    def file(self) -> JpegFile:
        """The JPEG's coefficients: the picture's, rounded to steps, with the sampling inferred from chroma.

        Blocks that the picture's edges cut are completed with its last pixels.
        """
        light, *colours = _components(self.pixels)
        shares, found = {}, {}
        for across, down in SAMPLINGS:
            found[across, down] = [blocks_of(_reduced(_padded(one, down, across), down, across)) for one in colours]
            both = np.concatenate([one.reshape(-1, SIDE, SIDE) for one in found[across, down]])
            share, count = on_steps(both, self.chroma)
            shares[across, down] = share if count >= LEAST else 0.0
        shares[SAMPLINGS[0]] = max(shares[SAMPLINGS[0]] + LIKELIER, LIKELY)
        across, down = max(SAMPLINGS, key=lambda one: shares[one])
        blocks = [blocks_of(_padded(light, down, across)), *found[across, down]]
        components = (Component(across, down, self.light), *[Component(1, 1, self.chroma)] * 2)
        rounded = [np.rint(part / one.table).astype(np.int16) for part, one in zip(blocks, components, strict=True)]
        _, height, width = self.pixels.shape
        return JpegFile((width, height), components, tuple(rounded), "ycbcr")


def find_jpeg(pixels: np.ndarray) -> SavedJpeg | None:
    """Return the JPEG that a picture (3, H, W) on [-1, 1] was before it was saved again, or None without a sign of one.

    It is found if it used libjpeg's tables of a quality, and its blocks start at the picture's corner: not after the
    picture was cropped, turned or resized. Only some of the blocks are examined.
    """
    if min(pixels.shape[1:]) < SIDE:
        return None
    few = blocks_of(_components(_some(pixels))[0]).reshape(-1, SIDE, SIDE)
    nearness = {quality: on_steps(few, standard_tables(quality)[0]) for quality in QUALITIES}
    quality = max(nearness, key=lambda one: nearness[one][0])
    share, count = nearness[quality]
    return SavedJpeg(pixels, *standard_tables(quality)) if share >= FOUND and count >= LEAST else None


def on_steps(blocks: np.ndarray, table: np.ndarray) -> tuple[float, int]:
    """Return how near coefficients (n, 8, 8) are to multiples of their steps (8, 8), and the number used.

    It is the mean of cos(2 pi c / step) over the coefficients, without the blocks' means, that exceed half a step: 1 on
    the multiples, and about 0 for coefficients at random.
    """
    asked = np.abs(blocks) > table / 2
    asked[:, 0, 0] = False
    count = int(asked.sum())
    return float(np.cos(2 * np.pi * (blocks / table)[asked]).mean()) if count else 0.0, count


def blocks_of(plane: np.ndarray) -> np.ndarray:
    """Return the cosine transforms of a plane's blocks, (rows, columns, 8, 8); its sides are multiples of 8."""
    height, width = plane.shape
    cut = plane.reshape(height // SIDE, SIDE, width // SIDE, SIDE)
    return np.asarray(np.einsum("irjs,vr,us->ijvu", cut, cosines(), cosines(), optimize=True))


def _some(pixels: np.ndarray) -> np.ndarray:
    """Return at most ASKED rows and columns of a picture's whole blocks, side by side."""
    places = []
    for side in pixels.shape[1:]:
        first = SIDE * np.arange(side // SIDE)[:: -(-(side // SIDE) // ASKED)]
        places.append((first[:, None] + np.arange(SIDE)).reshape(-1))
    return np.asarray(pixels[:, places[0][:, None], places[1]])


def _components(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels on [-1, 1] to Y, Cb and Cr, (3, H, W) float32, in levels around 0."""
    planes = np.tensordot(YCBCR.astype(np.float32), HALF * (pixels + 1), 1)
    planes[0] -= LEVEL_SHIFT
    return np.asarray(planes, np.float32)


def _padded(plane: np.ndarray, down: int, across: int) -> np.ndarray:
    """Pad a plane (H, W) to whole units of a sampling by repeating its last pixels."""
    height, width = plane.shape
    return np.pad(plane, ((0, -height % (SIDE * down)), (0, -width % (SIDE * across))), "edge")


def _reduced(plane: np.ndarray, down: int, across: int) -> np.ndarray:
    """Return the smaller plane from which a decoder's linear upscaling gives this one."""
    height, width = plane.shape

    def mean(full: np.ndarray) -> np.ndarray:
        return np.asarray(full.reshape(height // down, down, width // across, across).mean((1, 3)))

    small = mean(plane)
    if (down, across) == (1, 1):
        return small
    for _ in range(ROUNDS):
        small = small + mean(plane - stretched(stretched(small, down, 0), across, 1))
    return small
