"""How far two images are apart."""

from collections.abc import Callable

import numpy as np

from ...engines import Array, MissingExtra


def psnr(a: Array, b: Array) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each row of two batches (B, C, H, W) on [-1, 1]; infinite where equal.

    10 log10(peak^2 / MSE) with peak 2, the same figure as on [0, 1] with peak 1.
    """
    return decibels(np.asarray([float(row) for row in mean_square(a, b)]))


def mean_square(a: Array, b: Array) -> Array:
    """The mean of (a - b)^2 over each row of two batches, (B,), where they are."""
    apart = (a - b).reshape(a.shape[0], -1)
    return (apart * apart).mean(1)


def decibels(mse: np.ndarray) -> np.ndarray:
    """PSNR in dB of mean squares on [-1, 1]; infinite for 0."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(4 / np.asarray(mse, np.float64))


def load_ssim() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The structural similarity of each row of two numpy batches (B, C, H, W) on [-1, 1]: (B,), 1 where equal.

    scikit-image's, with its own window of 7 pixels, or the largest odd one that fits a smaller image; images are
    clipped to [-1, 1]. Raises MissingExtra without scikit-image.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtra("Measuring SSIM", "scikit-image", "eval") from error

    def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        side = min(7, *a.shape[2:])
        window = side if side % 2 else side - 1
        pairs = zip(np.clip(a, -1, 1), np.clip(b, -1, 1), strict=True)
        return np.array(
            [structural_similarity(x, y, win_size=window, data_range=2, channel_axis=0) for x, y in pairs], np.float64
        )

    return ssim
