"""The deviation of white noise, estimated from a picture."""

import numpy as np

from ...engines import InputError
from ..operators import GREY_WEIGHTS
from .damage import GREY, SIGMA

CLEAN = 2 / 127.5
"""Noise below which a picture counts as clean, on the [-1, 1] scale: 2 grey levels of 255.

On tune-20, as 8-bit PNGs, the estimate in colour lies between 0.4 and 1.7 grey levels without noise, and above 2.0
from 2 on. (Lightness takes one of the 20, all fine texture, for noisy.)
"""
SIDES = (8, 6, 5, 4, 3, 2, 1)
"""Sides of the patches in pixels, the largest first; the first of which there are enough is taken."""
PER_DIMENSION = 8
"""Patches for each dimension of one, at least."""
MOST = 80_000
"""Patches at most: of a larger picture every second, third, ... in each direction."""
DEVIATIONS = 3.0
"""A patch counts as flat up to so many deviations above the gradient energy that noise alone has."""
ROUNDS = 6
CLIPPED = 0.01
"""Share of clipped pixels that a patch may have; the quarter of the patches that has least is kept in any case."""
SUBSAMPLED = 0.25
"""Share of lightness's noise that colours have at most where a JPEG has smoothed them; elsewhere it is about 1."""
LIGHT = 3 / 127.5
"""Deviations of lightness up to here may be texture's: of tune-20's clean pictures 19 of 20 read less, as JPEGs 18."""


def unnamed_sigma(pixels: np.ndarray, denoising: bool) -> tuple[float, float | None]:
    """Return sigma where nobody names it, and the estimate that it comes of: one rule at every door.

    The noise of a picture (C, H, W) that is to be denoised is estimated, and counts as SIGMA at least. A measurement of
    anything else is taken to have SIGMA, and the estimate is None. Raises InputError as `estimate_sigma` does.
    """
    if not denoising:
        return SIGMA, None
    found = estimate_sigma(pixels)
    return max(SIGMA, found), found


def estimate_sigma(pixels: np.ndarray) -> float:
    """Return the deviation of white noise in a picture (C, H, W) on [-1, 1].

    Chen, Zhu and Heng (2015): the covariance of patches has the noise's variance as its small eigenvalues, a texture's
    above; the largest are dropped until the mean of the rest is no more than their median. In colour, texture is the
    same in all channels and leaves most eigenvalues to the noise. A grey picture's are mixed, so that its flat patches
    are chosen first, by the estimate so far (Liu, Tanaka and Okutomi, 2013).

    A JPEG has next to no noise in its colours, which it keeps at half the resolution: where colour says none, lightness
    alone is asked. Fine texture everywhere passes for noise there. Raises InputError for a side below 4.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < 4:
        raise InputError(f"the noise of a picture of {width}x{height} cannot be estimated; say --noise")
    if len(pixels) == 3 and (pixels == pixels[:1]).all():
        pixels = pixels[:1]  # grey, stored as colour
    found = _estimate(pixels)
    if len(pixels) == 1:
        return found
    weights = np.asarray(GREY_WEIGHTS[GREY], np.float32)
    light = _estimate(np.tensordot(weights, pixels, 1)[None]) / float(np.linalg.norm(weights))
    return light if light > LIGHT and found < SUBSAMPLED * light else found


def _estimate(pixels: np.ndarray) -> float:
    """The deviation of noise that is white in all channels of a picture (C, H, W)."""
    channels = len(pixels)
    side = next((one for one in SIDES if _count(pixels, one) >= PER_DIMENSION * channels * one**2), SIDES[-1])
    patches = _unclipped(_patches(np.asarray(pixels, np.float32), side))
    variance = _smallest(patches)
    if channels == 1 and side > 1:
        energies = sum((np.diff(patches, axis=axis) ** 2).sum((1, 2, 3)) for axis in (2, 3))
        pairs = 2 * side * (side - 1)
        for _ in range(ROUNDS):
            flat = energies <= 2 * variance * pairs * (1 + DEVIATIONS * (3 / pairs) ** 0.5)
            found = _smallest(patches[flat]) if flat.sum() >= PER_DIMENSION * side**2 / 2 else variance
            if found > 0.99 * variance:
                break
            variance = found
    return float(variance**0.5)


def _count(pixels: np.ndarray, side: int) -> int:
    height, width = pixels.shape[1:]
    return int((height - side + 1) * (width - side + 1))


def _patches(pixels: np.ndarray, side: int) -> np.ndarray:
    """(patches, C, side, side), MOST of them at most, evenly spread."""
    stride = int(np.ceil((_count(pixels, side) / MOST) ** 0.5))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(pixels), side, side)


def _unclipped(patches: np.ndarray) -> np.ndarray:
    """The patches whose noise is whole: with next to no pixel on the darkest or the lightest value there is."""
    clipped = ((patches == patches.min()) | (patches == patches.max())).mean((1, 2, 3))
    least = max(len(patches) // 4, min(len(patches), PER_DIMENSION * patches[0].size))
    most = max(CLIPPED, float(np.partition(clipped, least - 1)[least - 1]))
    return np.asarray(patches[clipped <= most])


def _smallest(patches: np.ndarray) -> float:
    """The mean of the eigenvalues of the patches' covariance that are the noise's."""
    covariance = np.atleast_2d(np.cov(patches.reshape(len(patches), -1), rowvar=False))
    values = np.linalg.eigvalsh(covariance).clip(0)  # ascending
    left = next(n for n in range(len(values), 0, -1) if values[:n].mean() <= np.median(values[:n]))
    return float(values[:left].mean())
