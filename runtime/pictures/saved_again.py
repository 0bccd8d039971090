"""The JPEG that a picture was before it was saved again, found in its pixels: their coefficients lie on its steps."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..operators.jpeg import HALF, LEVEL_SHIFT, SIDE, YCBCR, Component, cosines, stretched
from .jpeg import JpegFile, standard_tables

QUALITIES = range(1, 96)
"""Qualities of libjpeg whose tables are looked for: most programs have those."""
SAMPLINGS = ((2, 2), (1, 1), (2, 1))
"""Sampling factors of lightness, across and down, to chroma's 1 x 1: 4:2:0, 4:4:4, 4:2:2; the first where chroma does
not tell."""
FOUND = 0.5
"""The least `on_steps` of a picture that was a JPEG. Of every fifth of tune-20 at qualities 10 to 90, as PNGs or as
JPEGs of 90 and 95, it is 0.7 or more, and 0 where the picture never was one."""
LIKELIER, LIKELY = 0.1, 0.35
"""The first sampling's chroma is taken to have so much more than its own `on_steps`, and so much at least."""
LEAST = 64
"""Coefficients, at least, that tell."""
ASKED = 32
"""Rows and columns of blocks whose lightness is asked, at most, evenly spread."""
ROUNDS = 20
"""Rounds of the iteration that undoes the enlargement of chroma; each leaves 3/4 at most."""


@dataclass(frozen=True)
class SavedJpeg:
    """The JPEG that a picture was before it was saved again, by libjpeg's tables of one quality."""

    pixels: np.ndarray
    """The picture's, (3, H, W) on [-1, 1]."""
    light: np.ndarray
    """Lightness's table, (8, 8)."""
    chroma: np.ndarray
    turn: ClassVar[int] = 1
    """EXIF's orientation of it: as the picture is."""

    @property
    def step(self) -> float:
        """The mean step of its first table, lightness's, in levels."""
        return float(np.mean(self.light))

    @cached_property
    def file(self) -> JpegFile:
        """Its coefficients, the picture's rounded to steps, with the sampling that chroma shows.

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
    """Return the JPEG that a picture (3, H, W) on [-1, 1] was before it was saved again, None where there is no sign.

    It is found where its first blocks begin at the picture's corner, with the tables of a quality of libjpeg: not after
    the picture was cropped, turned or resized. Some of the picture's blocks tell.
    """
    if min(pixels.shape[1:]) < SIDE:
        return None
    few = blocks_of(_components(_some(pixels))[0]).reshape(-1, SIDE, SIDE)
    nearness = {quality: on_steps(few, standard_tables(quality)[0]) for quality in QUALITIES}
    quality = max(nearness, key=lambda one: nearness[one][0])
    share, count = nearness[quality]
    return SavedJpeg(pixels, *standard_tables(quality)) if share >= FOUND and count >= LEAST else None


def on_steps(blocks: np.ndarray, table: np.ndarray) -> tuple[float, int]:
    """Return how near coefficients (n, 8, 8) lie to multiples of their steps (8, 8), and how many were asked.

    It is the mean of cos(2 pi c / step) over those but the mean's that are beyond half a step: 1 on the multiples, and
    about 0 anywhere.
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
    """ASKED rows and columns of a picture's whole blocks, at most, side by side."""
    places = []
    for side in pixels.shape[1:]:
        first = SIDE * np.arange(side // SIDE)[:: -(-(side // SIDE) // ASKED)]
        places.append((first[:, None] + np.arange(SIDE)).reshape(-1))
    return np.asarray(pixels[:, places[0][:, None], places[1]])


def _components(pixels: np.ndarray) -> np.ndarray:
    """Y, Cb and Cr of pixels on [-1, 1], (3, H, W) float32 in levels about 0, as they are transformed."""
    planes = np.tensordot(YCBCR.astype(np.float32), HALF * (pixels + 1), 1)
    planes[0] -= LEVEL_SHIFT
    return np.asarray(planes, np.float32)


def _padded(plane: np.ndarray, down: int, across: int) -> np.ndarray:
    """A plane (H, W) with its last pixels repeated up to whole units of a sampling."""
    height, width = plane.shape
    return np.pad(plane, ((0, -height % (SIDE * down)), (0, -width % (SIDE * across))), "edge")


def _reduced(plane: np.ndarray, down: int, across: int) -> np.ndarray:
    """The smaller plane that a decoder enlarged linearly to this one."""
    height, width = plane.shape

    def mean(full: np.ndarray) -> np.ndarray:
        return np.asarray(full.reshape(height // down, down, width // across, across).mean((1, 3)))

    small = mean(plane)
    if (down, across) == (1, 1):
        return small
    for _ in range(ROUNDS):
        small = small + mean(plane - stretched(stretched(small, down, 0), across, 1))
    return small
