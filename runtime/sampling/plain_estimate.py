"""A plain estimate of the image that was measured, without a prior: what a restoration with an aim starts from."""

import numpy as np
from PIL import Image

from ..operators import Denoise, Inpaint, Linear

RIDGE = 0.05
"""Deviation that a measurement is taken to have at least, where the operator is inverted."""
TINY = 1e-6


def plain_estimate(operator: Linear, y: np.ndarray, sigma: float) -> np.ndarray:
    """Return an image (C, H, W) that y (c, h, w), of noise `sigma`, may be of.

    It is y itself, y with its holes filled, y enlarged, or for any other operator least squares with a ridge,
    A^T (rho^2 I + A A^T)^-1 y with rho = max(sigma, RIDGE).
    """
    channels, height, width = operator.image_shape
    if isinstance(operator, Denoise):
        return y
    if isinstance(operator, Inpaint):
        assert operator.missing is not None
        return filled(y, operator.missing)
    count, rows, columns = operator.measurement_shape
    scale = height // rows
    if count == channels and scale > 1 and (rows * scale, columns * scale) == (height, width):
        small = y if operator.missing is None else filled(y, operator.missing)
        return np.stack([_enlarged(channel, (height, width)) for channel in small])
    rho = np.asarray(max(sigma, RIDGE))
    return np.asarray(operator.AT(operator.resolvent(y[None], rho, 1.0))[0], np.float32)


def filled(y: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return y (C, h, w) with its missing pixels (h, w) smoothly filled in, the others as they are.

    A missing pixel takes the mean of the smallest block of a pyramid that holds a known one, enlarged smoothly (push
    and pull; Gortler and others, 1996). Where all are missing they are 0.
    """
    known = np.where(missing, np.float32(0), np.float32(1))[None]
    return np.asarray(_pushed(y * known, known), np.float32) if known.any() else np.zeros_like(y)


def _pushed(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The means (C, h, w) of what has a `weight` (1, h, w) of 1, and of what lies around where it has less."""
    mean: np.ndarray = total / np.maximum(weight, TINY)
    height, width = weight.shape[1:]
    if weight.min() >= 1 or max(height, width) == 1:
        return mean
    sums, weights = _halved(total), _halved(weight)
    most = np.minimum(weights, 1)
    below = _pushed(sums / np.maximum(weights, TINY) * most, most)
    smooth = np.stack([_enlarged(channel, (2 * below.shape[1], 2 * below.shape[2])) for channel in below])
    return np.asarray(weight * mean + (1 - weight) * smooth[:, :height, :width])


def _halved(array: np.ndarray) -> np.ndarray:
    """Sums (C, ceil(h/2), ceil(w/2)) over blocks of 2x2."""
    count, height, width = array.shape
    even = np.pad(array, ((0, 0), (0, height % 2), (0, width % 2)))
    return np.asarray(even.reshape(count, (height + 1) // 2, 2, (width + 1) // 2, 2).sum((2, 4)))


def _enlarged(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) at (height, width), by a bicubic filter."""
    image = Image.fromarray(np.asarray(channel, np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
