"""Structural similarity (SSIM) by scikit-image."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ...engines import MissingExtra


def load_ssim() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of two numpy batches (B, C, H, W) on [-1, 1] that gives each row's SSIM (B,), 1 where equal.

    The window is scikit-image's default of 7 pixels, or the largest odd one that fits a smaller image. Images are
    clipped to [-1, 1]. Raises MissingExtra without scikit-image.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtra("Measuring SSIM", "scikit-image", "eval") from error

    similarity: Any = structural_similarity

    def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        side = min(7, *a.shape[2:])
        window = side if side % 2 else side - 1
        pairs = zip(np.clip(a, -1, 1), np.clip(b, -1, 1), strict=True)
        return np.array([similarity(x, y, win_size=window, data_range=2, channel_axis=0) for x, y in pairs], np.float64)

    return ssim
