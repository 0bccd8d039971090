"""Estimation of the standard deviation of white noise in a picture."""

import contextlib

import numpy as np

from ...engines import InputError
from ...engines.stopping import check
from ..operators import GREY_WEIGHTS
from .damage import GREY, SIGMA
from .decoding import is_grey

CLEAN = 2 / 127.5
"""Noise below which a picture counts as clean, on the [-1, 1] scale: 2 grey levels of 255.

On tune-20, as 8-bit PNGs, the estimate in colour lies between 0.4 and 1.7 grey levels without noise, and above 2.0 with
noise of 2 or more. (In lightness, one of the 20, which is all fine texture, counts as noisy.)
"""
SIDES = (8, 6, 5, 4, 3, 2, 1)
"""Possible sides of patches in pixels, descending; the first with enough patches is used."""
LEAST = 3
"""The smallest side of patches beside missing pixels."""
PER_DIMENSION = 8
"""The least number of patches for each dimension of a patch."""
MOST = 80_000
"""The most patches; in a larger picture only every second, third, ... in each direction is used."""
DEVIATIONS = 3.0
"""A patch counts as flat if its gradient energy is within this many deviations of that of noise alone."""
ROUNDS = 6
CLIPPED = 0.01
"""The largest share of clipped pixels in a patch; the quarter of the patches with the fewest is always kept."""
SUBSAMPLED = 0.25
"""The largest ratio of the noise in colours to that in lightness where a JPEG has smoothed colours; otherwise it is
about 1."""
LIGHT = 3 / 127.5
"""Deviations of lightness up to this may be texture: 19 of tune-20's 20 clean pictures have less, 18 as JPEGs."""


def unnamed_sigma(pixels: np.ndarray, denoising: bool) -> tuple[float, float | None]:
    """Return the default sigma, and the estimate it is based on.

    For denoising, the noise of the picture (C, H, W) is estimated, and sigma is at least SIGMA. For other tasks sigma
    is SIGMA, and the estimate is None. Raises InputError as `estimate_sigma`.
    """
    if not denoising:
        return SIGMA, None
    found = estimate_sigma(pixels)
    return max(SIGMA, found), found


def least_noise(grey: bool) -> float:
    """Return the deviation below which a picture, grey or in colour, counts as clean."""
    return LIGHT if grey else CLEAN


def noise_left(y: np.ndarray, missing: np.ndarray | None, grey: bool) -> float | None:
    """Return the noise of a picture (C, H, W) beside its missing pixels (H, W), which a default sigma would leave in.

    None where it may be texture, or cannot be estimated. grey: whether the picture is grey.
    """
    with contextlib.suppress(InputError):
        found = estimate_sigma(y, missing)
        return found if found >= least_noise(grey) else None
    return None


def estimate_sigma(pixels: np.ndarray, missing: np.ndarray | None = None) -> float:
    """Estimate the standard deviation of white noise in a picture (C, H, W) on [-1, 1], without pixels missing (H, W).

    Chen, Zhu and Heng (2015): the small eigenvalues of the patches' covariance equal the noise's variance, and those of
    texture are larger. The largest are dropped until the mean of the rest is at most their median. In colour, texture
    is similar in all channels, so that most eigenvalues are the noise's. In a grey picture they are mixed, so flat
    patches are selected first, by the estimate so far (Liu, Tanaka and Okutomi, 2013).

    A JPEG has little noise in its colours, which it stores at half the resolution. Where colours show none, lightness
    alone is used; there a picture of fine texture counts as noisy. Raises InputError for a side below 4, and where too
    few pixels lie together.
    """
    check()
    height, width = pixels.shape[1:]
    if min(height, width) < 4:
        raise InputError(f"the noise of a picture of {width}x{height} cannot be estimated; say --noise")
    if is_grey(pixels, missing):
        pixels = pixels[:1]  # which may be stored as colour
    found = _estimate(pixels, missing)
    if len(pixels) == 1:
        return found
    weights = np.asarray(GREY_WEIGHTS[GREY], np.float32)
    light = _estimate(np.tensordot(weights, pixels, 1)[None], missing) / float(np.linalg.norm(weights))
    return light if light > LIGHT and found < SUBSAMPLED * light else found


def _estimate(pixels: np.ndarray, missing: np.ndarray | None) -> float:
    """Estimate the deviation of noise that is white over all channels of a picture (C, H, W). Raises InputError."""
    channels = len(pixels)
    for side in [one for one in SIDES if one <= min(pixels.shape[1:])]:
        patches = _patches(np.asarray(pixels, np.float32), side)
        if missing is not None:
            patches = patches[~_patches(missing[None], side).any(axis=(1, 2, 3))]
        if len(patches) >= PER_DIMENSION * channels * side**2:
            break
    if missing is not None and side < LEAST:
        raise InputError("too few pixels lie together for an estimate of the noise; say --noise")
    patches = _unclipped(patches)
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
    """Return at most MOST evenly spread patches, (patches, C, side, side)."""
    stride = int(np.ceil((_count(pixels, side) / MOST) ** 0.5))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(pixels), side, side)


def _unclipped(patches: np.ndarray) -> np.ndarray:
    """Return the patches with few pixels at the darkest or lightest value, which would clip their noise."""
    clipped = ((patches == patches.min()) | (patches == patches.max())).mean((1, 2, 3))
    least = max(len(patches) // 4, min(len(patches), PER_DIMENSION * patches[0].size))
    most = max(CLIPPED, float(np.partition(clipped, least - 1)[least - 1]))
    return np.asarray(patches[clipped <= most])


def _smallest(patches: np.ndarray) -> float:
    """Return the mean of the eigenvalues of the patches' covariance that belong to the noise."""
    covariance = np.atleast_2d(np.cov(patches.reshape(len(patches), -1), rowvar=False))
    values = np.linalg.eigvalsh(covariance).clip(0)  # ascending
    left = next(n for n in range(len(values), 0, -1) if values[:n].mean() <= np.median(values[:n]))
    return float(values[:left].mean())
