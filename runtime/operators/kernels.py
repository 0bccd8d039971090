"""Blur kernels: weights (height, width) that sum to 1, with the middle at (height // 2, width // 2).

An image is convolved with a kernel, not correlated: the kernel is the image of a point of light.
"""

import hashlib
import math
from typing import Any

import numpy as np

from ...engines import InputError
from .base import Shape

KINDS = {
    "gaussian": "gaussian:STD or gaussian:SX,SY[,ANGLE]",
    "uniform": "uniform:SIZE",
    "motion": "motion:LENGTH[,ANGLE]",
}
"""Forms that parse_kernel reads; sizes in pixels, angles in degrees, anticlockwise."""
LONGEST = 1024
"""The most pixels of a kernel's side; a larger one is taken for a mistake."""


def gaussian_kernel(sx: float, sy: float | None = None, angle: float = 0.0) -> np.ndarray:
    """Return a Gaussian with standard deviation `sx` pixels along a line at `angle`, and `sy` (default `sx`) across it.

    It is cut at 4 deviations. Raises InputError unless both are above 0.
    """
    sy = sx if sy is None else sy
    if not (0 < sx <= LONGEST / 8 and 0 < sy <= LONGEST / 8 and math.isfinite(angle)):
        raise InputError(f"a Gaussian kernel needs standard deviations in pixels above 0; got {sx:g} and {sy:g}")
    turn = math.radians(angle)
    reach = [
        4 * math.hypot(sx * math.cos(turn), sy * math.sin(turn)),
        4 * math.hypot(sx * math.sin(turn), sy * math.cos(turn)),
    ]
    rx, ry = (max(1, math.ceil(r - 1e-9)) for r in reach)
    y, x = np.mgrid[-ry : ry + 1, -rx : rx + 1]
    along, across = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    return normalised(np.exp(-((along / sx) ** 2 + (across / sy) ** 2) / 2))


def uniform_kernel(size: int) -> np.ndarray:
    """Return the mean over size x size pixels. Raises InputError unless `size` is odd and 3 or more."""
    if not 3 <= size <= LONGEST or size % 2 == 0:
        raise InputError(f"a uniform kernel needs an odd size from 3 up to the image's side; got {size}")
    return normalised(np.ones((size, size)))


def motion_kernel(length: float, angle: float = 0.0) -> np.ndarray:
    """Return a straight motion by `length` pixels at `angle`; a pixel's weight is the length of the line inside it.

    Raises InputError unless `length` is above 1.
    """
    if not (1 < length <= LONGEST and math.isfinite(angle)):
        raise InputError(f"a motion kernel needs a length in pixels above 1; got {length:g}")
    across, down = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
    radius = math.ceil(length / 2)
    borders = np.arange(-radius, radius + 1) + 0.5
    with np.errstate(divide="ignore"):
        cuts = np.concatenate([borders / across, borders / down, -borders[:1] / across, [-length / 2, length / 2]])
    cuts = np.sort(np.clip(cuts, -length / 2, length / 2))
    middles = (cuts[1:] + cuts[:-1]) / 2
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    places = (np.rint(middles * step).astype(int) + radius for step in (down, across))
    np.add.at(kernel, tuple(places), np.diff(cuts))
    rows, columns = (np.flatnonzero(kernel.sum(axis=axis) > 1e-9) for axis in (1, 0))
    ry, rx = radius - rows[0], radius - columns[0]
    return normalised(kernel[radius - ry : radius + ry + 1, radius - rx : radius + rx + 1])


def kernel_peak(kernel: np.ndarray) -> float:
    """Return the largest magnitude of a blur of values on [-1, 1]: above 1 where `kernel` has negative weights."""
    return float(np.abs(kernel).sum())


def normalised(kernel: np.ndarray) -> np.ndarray:
    """Return `kernel` in float64, with weights that sum to 1. Raises InputError where it is no kernel."""
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or not kernel.size or kernel.dtype.kind not in "fiub":
        raise InputError(f"a kernel is a real array of (height, width); this one is {kernel.dtype} {kernel.shape}")
    if max(kernel.shape) > LONGEST:
        raise InputError(f"the kernel is {kernel.shape[1]}x{kernel.shape[0]}; up to {LONGEST}x{LONGEST} are read")
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all() or not kernel.sum() > 1e-6 * np.abs(kernel).max():
        raise InputError("a kernel's weights must be finite and sum to more than 0")
    return np.asarray(kernel / kernel.sum())


def parse_kernel(text: str) -> np.ndarray:
    """Parse a description of one of KINDS to a kernel. Raises InputError."""
    kind, _, values = text.partition(":")
    try:
        numbers = [float(value) for value in values.split(",")]
        if kind == "gaussian" and len(numbers) <= 3:
            return gaussian_kernel(*numbers)
        if kind == "uniform" and len(numbers) == 1:
            return uniform_kernel(int(values))
        if kind == "motion" and len(numbers) <= 2:
            return motion_kernel(*numbers)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
    raise InputError(f"a kernel is {', '.join(KINDS.values())}, or a file (.png, .npy); got {text!r}")


def kernel_settings(kernel: np.ndarray, border: str) -> dict[str, Any]:
    """Return the settings that distinguish blurs: the kernel's size, the SHA-256 of its weights, the border's name."""
    digest = hashlib.sha256(np.ascontiguousarray(kernel).tobytes()).hexdigest()
    return {"kernel": f"{kernel.shape[1]}x{kernel.shape[0]}", "kernel_sha256": digest, "border": border}


def is_product(kernel: np.ndarray) -> bool:
    """Return whether `kernel`, normalised, is the product of a column and a row, up to rounding."""
    product = np.outer(kernel.sum(axis=1), kernel.sum(axis=0))
    return bool(np.abs(kernel - product).max() < 1e-9 * np.abs(kernel).max())


def check_fits(kernel: np.ndarray, image_shape: Shape) -> None:
    """Raise InputError where the kernel is larger than the image."""
    (_, height, width), (rows, columns) = image_shape, kernel.shape
    if rows > height or columns > width:
        raise InputError(f"the kernel is {columns}x{rows}, larger than the image, {width}x{height}")


def valid_part(kernel: np.ndarray, image_shape: Shape) -> tuple[slice, slice]:
    """Return the rows and columns of an image around which the kernel lies inside it."""
    rows, columns = (
        slice(n - 1 - n // 2, side - n // 2) for n, side in zip(kernel.shape, image_shape[1:], strict=True)
    )
    return rows, columns
