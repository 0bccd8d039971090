"""The JPEG that a picture was before it was saved again, found in its pixels: their coefficients lie on its steps."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from ..operators.jpeg import HALF, LEVEL_SHIFT, SIDE, YCBCR, Component, cosines, stretched
from .jpeg import JpegFile

QUALITIES = range(1, 96)
"""Of libjpeg, whose tables are looked for: those of most programs."""
SAMPLINGS = ((2, 2), (1, 1), (2, 1))
"""Sampling factors of lightness, across and down, to chroma's 1 x 1: 4:2:0, 4:4:4, 4:2:2; the first where chroma does
not tell."""
FOUND = 0.5
"""The least `on_steps` of a picture that was a JPEG. Of every fifth of tune-20 at qualities 10 to 90, as PNGs or as
JPEGs of 90 and 95, it is 0.7 or more, and 0 where the picture never was one."""
LIKELIER, LIKELY = 0.1, 0.35
"""What the first sampling's chroma is taken to have beyond its own `on_steps`, and at least."""
LEAST = 64
"""Coefficients, at least, that tell."""
ASKED = 32
"""Rows and columns of blocks whose lightness is asked first, at most, evenly spread."""
ROUNDS = 20
"""Of the iteration that undoes the enlargement of chroma; what it leaves falls by 3/4 a round at the slowest."""


def find_jpeg(pixels: np.ndarray) -> JpegFile | None:
    """Return the JPEG that a picture (3, H, W) on [-1, 1] was before it was saved again, None where there is no sign.

    It is found where its first blocks begin at the picture's corner, with the tables of a quality of libjpeg: not after
    the picture was cropped, turned or resized. Blocks that the picture's edges cut are completed with its last pixels.
    """
    _, height, width = pixels.shape
    if min(height, width) < SIDE:
        return None
    few = blocks_of(_components(_some(pixels))[0]).reshape(-1, SIDE, SIDE)
    shares = {quality: on_steps(few, standard_tables(quality)[0])[0] for quality in QUALITIES}
    quality = max(shares, key=lambda one: shares[one])
    light, chroma = standard_tables(quality)
    if shares[quality] < FOUND or on_steps(few, light)[1] < LEAST:
        return None
    planes, found = _components(pixels), {}
    for across, down in SAMPLINGS:
        padded = _padded(planes, SIDE * down, SIDE * across)
        of_chroma = [blocks_of(_reduced(plane, down, across)) for plane in padded[1:]]
        share, count = on_steps(np.concatenate([one.reshape(-1, SIDE, SIDE) for one in of_chroma]), chroma)
        share = share if count >= LEAST else 0.0
        if (across, down) == SAMPLINGS[0]:
            share = max(share + LIKELIER, LIKELY)
        found[across, down] = share, [blocks_of(padded[0]), *of_chroma]
    across, down = max(SAMPLINGS, key=lambda one: found[one][0])
    blocks = found[across, down][1]
    components = (Component(across, down, light), *[Component(1, 1, chroma)] * 2)
    rounded = [np.rint(part / one.table).astype(np.int16) for part, one in zip(blocks, components, strict=True)]
    return JpegFile((width, height), components, tuple(rounded), "ycbcr")


def on_steps(blocks: np.ndarray, table: np.ndarray) -> tuple[float, int]:
    """Return how near coefficients (n, 8, 8) lie to multiples of their steps (8, 8), and how many were asked.

    It is the mean of cos(2 pi c / step) over those but the mean's that are beyond half a step: 1 on the multiples, and
    about 0 anywhere.
    """
    asked = np.abs(blocks) > table / 2
    asked[:, 0, 0] = False
    count = int(asked.sum())
    return float(np.cos(2 * np.pi * (blocks / table)[asked]).mean()) if count else 0.0, count


@lru_cache(len(QUALITIES))
def standard_tables(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """Return libjpeg's tables (8, 8) of a quality: lightness's and chroma's."""
    written = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(written, "JPEG", quality=quality)
    with Image.open(written) as picture:
        light, chroma = (np.array(picture.quantization[i]).reshape(SIDE, SIDE) for i in (0, 1))  # type: ignore[attr-defined]
    return light, chroma


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


def _padded(planes: np.ndarray, down: int, across: int) -> np.ndarray:
    height, width = planes.shape[1:]
    return np.pad(planes, ((0, 0), (0, -height % down), (0, -width % across)), "edge")


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
