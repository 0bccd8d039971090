"""Restorations without a prior, to compare with: plain methods by scikit-image, bm3d and Pillow.

Images are (C, h, w) on [-1, 1]. Constants are those of the highest PSNR on tune-20 (tests/studies/plain_settings.py).
"""

import importlib
from typing import Any

import numpy as np
from PIL import Image

from ...engines import MissingExtra
from ..operators import Circular, Deblur, Linear, Mirrored
from ..pictures.images import resized

STRENGTH, PATCH, DISTANCE = 0.5, 3, 6
"""Non-local means: h in standard deviations of the noise, the side of a patch and the search distance in pixels."""
BELIEVED = 1.0
"""BM3D: the deviation that it is given, in standard deviations of the noise."""
BALANCE = 7.0
"""Wiener's filter: the weight of the Laplacian, in variances of the noise."""
ITERATIONS = 50
"""Richardson-Lucy: the number of iterations; noise grows with each."""
MARGIN = 4
"""Richardson-Lucy: the width of the border that is added, in sides of the kernel, as it takes pixels outside for
black."""


def non_local_means(
    y: np.ndarray, sigma: float, strength: float = STRENGTH, patch: int = PATCH, distance: int = DISTANCE
) -> np.ndarray:
    """Denoise an image by the mean of similar patches (Buades, Coll and Morel, 2005). Raises MissingExtra."""
    found = _skimage("restoration").denoise_nl_means(
        _last(y), patch_size=patch, patch_distance=distance, h=strength * sigma, sigma=sigma, channel_axis=-1
    )
    return _first(found)


def bm3d(y: np.ndarray, sigma: float, believed: float = BELIEVED) -> np.ndarray:
    """Denoise an image by filtering similar blocks jointly (Dabov and others, 2007). Raises MissingExtra.

    The package `bm3d` is by the method's authors, for non-commercial use only.
    """
    library = load_bm3d()
    if len(y) == 3:
        return _first(library.bm3d_rgb(_last(y).astype(np.float64), believed * sigma))
    return np.stack([np.asarray(library.bm3d(one.astype(np.float64), believed * sigma), np.float32) for one in y])


def biharmonic(y: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Fill in missing pixels (h, w) by a biharmonic function (Damelin and Hoang, 2018). Raises MissingExtra."""
    known = np.where(missing, np.float32(0), y)
    return _first(_skimage("restoration").inpaint_biharmonic(_last(known), missing, channel_axis=-1))


def lanczos(y: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge an image `scale` times a side by Lanczos's window."""
    size = y.shape[2] * scale, y.shape[1] * scale
    return np.stack([resized(channel, size, Image.Resampling.LANCZOS) for channel in y])


def wiener(y: np.ndarray, operator: Linear, sigma: float, balance: float = BALANCE) -> np.ndarray:
    """Deblur an image by Wiener's filter, with a Laplacian in place of the image's spectrum (Hunt, 1973).

    operator: a blur with a circular or a mirrored border. Raises MissingExtra.
    """
    height, width = y.shape[1:]
    whole = y if isinstance(operator, Circular) else np.pad(y, ((0, 0), (0, height), (0, width)), "symmetric")
    restore, kernel = _skimage("restoration").wiener, kernel_of(operator)
    found = [restore(one, kernel, balance * sigma**2, clip=False) for one in whole.astype(np.float64)]
    return np.asarray(found, np.float32)[:, :height, :width]


def richardson_lucy(y: np.ndarray, operator: Linear, iterations: int = ITERATIONS) -> np.ndarray:
    """Deblur an image by Richardson's and Lucy's iteration (1972, 1974), stopped early. Raises MissingExtra.

    operator: a blur with a circular or a mirrored border.
    """
    kernel = kernel_of(operator)
    rows, columns = (min(MARGIN * side, length) for side, length in zip(kernel.shape, y.shape[1:], strict=True))
    mode: Any = "wrap" if isinstance(operator, Circular) else "symmetric"
    around = np.pad(y.astype(np.float64), ((0, 0), (rows, rows), (columns, columns)), mode)
    restore = _skimage("restoration").richardson_lucy
    found = [
        restore(one, kernel, num_iter=iterations, filter_epsilon=1e-6)[rows:-rows, columns:-columns]
        for one in np.clip((around + 1) / 2, 0, 1)
    ]
    return np.asarray(2 * np.asarray(found) - 1, np.float32)


def kernel_of(operator: Linear) -> np.ndarray:
    """Return the kernel (h, w) of a blur."""
    if isinstance(operator, Deblur):
        return np.outer(operator.taps, operator.taps)
    assert isinstance(operator, Circular | Mirrored)
    return operator.kernel


def load_bm3d() -> Any:
    """Import the package `bm3d`, or raise MissingExtra."""
    try:
        return importlib.import_module("bm3d")
    except ImportError as error:
        raise MissingExtra("BM3D, which is for non-commercial use only,", "bm3d", "bm3d") from error


def _last(y: np.ndarray) -> np.ndarray:
    return np.moveaxis(y, 0, -1)


def _first(found: Any) -> np.ndarray:
    return np.asarray(np.moveaxis(found, -1, 0), np.float32)


def _skimage(module: str) -> Any:
    try:
        return importlib.import_module(f"skimage.{module}")
    except ImportError as error:
        raise MissingExtra("Comparing with plain methods", "scikit-image", "eval") from error
