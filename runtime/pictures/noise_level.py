"""The deviation of white noise, estimated from a picture."""

import numpy as np

from ...engines import InputError


def estimate_sigma(pixels: np.ndarray) -> float:
    """The deviation of white noise in a picture (C, H, W), in its own units.

    Donoho and Johnstone (1994): the median magnitude of the finest diagonal wavelet coefficients (Daubechies, two
    vanishing moments) over 0.6745, averaged over channels. Texture makes it read high. Raises InputError for a picture
    with a side of fewer than 4 pixels.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < 4:
        raise InputError(f"the noise of a picture of {width}x{height} cannot be estimated; say --sigma")
    root = np.sqrt(3)
    high = np.array([1 - root, root - 3, 3 + root, -1 - root]) / (4 * np.sqrt(2))

    def details(a: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(a, 4, axis=-1)[..., ::2, :]
        return np.asarray((windows @ high).swapaxes(-1, -2))

    diagonal = details(details(np.asarray(pixels, np.float64)))
    return float(np.mean(np.median(np.abs(diagonal), axis=(-2, -1)) / 0.6745))
