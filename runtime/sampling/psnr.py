"""PSNR between images."""

import numpy as np

from ...engines import Array


def psnr(a: Array, b: Array) -> np.ndarray:
    """Return the PSNR in dB between the rows of two batches (B, C, H, W) on [-1, 1]; infinite where they are equal.

    It is 10 log10(peak^2 / MSE) with peak 2, the same figure as on [0, 1] with peak 1.
    """
    apart = mean_square(a, b)
    return decibels(np.asarray([float(apart[i]) for i in range(len(a))]))


def mean_square(a: Array, b: Array) -> Array:
    """Return the mean of (a - b)^2 over each row of two batches, (B,), on their device."""
    apart = (a - b).reshape((a.shape[0], -1))
    return (apart * apart).mean(1)


def decibels(mse: np.ndarray) -> np.ndarray:
    """Convert mean square errors on the [-1, 1] scale to PSNR in dB; infinite for 0."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(4 / np.asarray(mse, np.float64))
