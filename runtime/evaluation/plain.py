"""Restorations without a prior, to compare with: the plain method that does best for a damage, by scikit-image."""

import importlib
from typing import Any

import numpy as np
from PIL import Image

from ...engines import MissingExtra
from ..pictures.images import resized


def non_local_means(y: np.ndarray, sigma: float) -> np.ndarray:
    """A noisy image (C, h, w), the mean of patches alike (Buades, Coll and Morel, 2005). Raises MissingExtra."""
    skimage = _skimage("restoration")
    found = skimage.denoise_nl_means(
        np.moveaxis(y, 0, -1), patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, channel_axis=-1
    )
    return np.asarray(np.moveaxis(found, -1, 0), np.float32)


def biharmonic(y: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """An image (C, h, w) with its missing pixels (h, w) filled in smoothly (Damelin and Hoang, 2018).

    Raises MissingExtra.
    """
    known = np.where(missing, np.float32(0), y)
    found = _skimage("restoration").inpaint_biharmonic(np.moveaxis(known, 0, -1), missing, channel_axis=-1)
    return np.asarray(np.moveaxis(found, -1, 0), np.float32)


def lanczos(y: np.ndarray, scale: int) -> np.ndarray:
    """An image (C, h, w) enlarged `scale` times a side by Lanczos's window."""
    size = y.shape[2] * scale, y.shape[1] * scale
    return np.stack([resized(channel, size, Image.Resampling.LANCZOS) for channel in y])


def _skimage(module: str) -> Any:
    try:
        return importlib.import_module(f"skimage.{module}")
    except ImportError as error:
        raise MissingExtra("Comparing with plain methods", "scikit-image", "eval") from error
