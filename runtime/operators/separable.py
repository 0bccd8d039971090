"""Operators that act on rows and columns apart: two small matrices, each with its singular value decomposition."""

import math
from typing import Any

import numpy as np

from ...engines import Array, InputError
from .base import Linear, Shape, reduced
from .kernels import kernel_settings, normalised


class Separable(Linear):
    """A x = L x R^T on every channel: blurs whose kernel is an outer product, at any size.

    `rows` is L (h, H), `columns` is R (w, W), with h <= H and w <= W. Their SVDs are taken once; then
    U = U_L x U_R, V = V_L x V_R and the singular values are the products s_L s_R.
    """

    name = "separable"

    def __init__(self, image_shape: Shape, rows: np.ndarray, columns: np.ndarray):
        channels, height, width = image_shape
        if rows.shape[1] != height or columns.shape[1] != width:
            raise InputError(f"L is {rows.shape} and R is {columns.shape}; neither fits an image of {width}x{height}")
        super().__init__(image_shape, (channels, rows.shape[0], columns.shape[0]))
        self._L, self._R = rows, columns
        self._UL, sl, self._VLt = np.linalg.svd(rows, full_matrices=False)
        self._UR, sr, self._VRt = np.linalg.svd(columns, full_matrices=False)
        self._s = np.outer(sl, sr)[None, None]

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self._s, like)

    def A(self, x: Array) -> Array:
        return self._sandwich("A", self._L, x, self._R)

    def AT(self, y: Array) -> Array:
        return self._sandwich("AT", self._L.T, y, self._R.T)

    def Vt(self, x: Array) -> Array:
        return self._sandwich("Vt", self._VLt, x, self._VRt)

    def V(self, s: Array) -> Array:
        return self._sandwich("V", self._VLt.T, s, self._VRt.T)

    def Ut(self, y: Array) -> Array:
        return self._sandwich("Ut", self._UL.T, y, self._UR.T)

    def U(self, s: Array) -> Array:
        return self._sandwich("U", self._UL, s, self._UR)


class Bicubic(Separable):
    """Lost resolution by the antialiased bicubic filter (Keys, 1981, a = -0.5), as PIL and torch shrink images.

    Equal to torch.nn.functional.interpolate(mode="bicubic", antialias=True); PIL's differs by its rounding. Raises
    InputError where `scale` does not divide both sides.
    """

    name = "sr"

    def __init__(self, image_shape: Shape, scale: int):
        _, height, width = reduced(image_shape, scale)
        self.scale = scale
        super().__init__(image_shape, _bicubic(height, scale), _bicubic(width, scale))

    @property
    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale, "filter": "bicubic"}


def _bicubic(n: int, scale: int) -> np.ndarray:
    """(n, n scale): the weights of n pixels over n scale smaller ones, normalised where the border cuts them."""
    a = -0.5
    d = np.abs(np.arange(n * scale) + 0.5 - scale * (np.arange(n)[:, None] + 0.5)) / scale
    weights = np.where(d < 1, ((a + 2) * d - (a + 3)) * d**2 + 1, a * (((d - 5) * d + 8) * d - 4)) * (d < 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


class Deblur(Separable):
    """A symmetric separable blur whose border repeats the image mirrored (d c b a | a b c d | d c b a).

    `taps` are the kernel's one-dimensional weights, odd in number; they are normalised to sum to 1.
    """

    name = "deblur"

    def __init__(self, image_shape: Shape, taps: np.ndarray):
        taps = np.asarray(taps, np.float64)
        self.taps = taps / taps.sum()
        super().__init__(image_shape, _mirrored(self.taps, image_shape[1]), _mirrored(self.taps, image_shape[2]))

    @property
    def settings(self) -> dict[str, Any]:
        return {"taps": self.taps.tolist(), "border": "mirror"}

    @classmethod
    def gaussian(cls, image_shape: Shape, std: float) -> "Deblur":
        """A Gaussian of standard deviation `std` pixels, cut at 4 std."""
        if not 0 < std <= max(image_shape[1:]):
            raise InputError(f"a Gaussian kernel needs a standard deviation in pixels above 0; got {std}")
        radius = max(1, math.ceil(4 * std))
        return cls(image_shape, np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * std**2)))

    @classmethod
    def uniform(cls, image_shape: Shape, size: int) -> "Deblur":
        """The mean over size x size pixels; `size` is odd."""
        if size < 3 or size % 2 == 0 or size > max(image_shape[1:]):
            raise InputError(f"a uniform kernel needs an odd size from 3 up to the image's side; got {size}")
        return cls(image_shape, np.ones(size))


def _mirrored(taps: np.ndarray, n: int) -> np.ndarray:
    """The (n, n) matrix of a convolution with `taps` over a mirrored border."""
    radius = len(taps) // 2
    matrix = np.zeros((n, n))
    for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
        source = (np.arange(n) + offset) % (2 * n)
        matrix[np.arange(n), np.where(source < n, source, 2 * n - 1 - source)] += tap
    return matrix


class Valid(Separable):
    """`valid_blur` with a kernel that is the product of a column and a row: two small matrices, at any size."""

    name = "deblur"

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        self.kernel = kernel = normalised(kernel)
        _, height, width = image_shape
        super().__init__(image_shape, _valid(kernel.sum(axis=1), height), _valid(kernel.sum(axis=0), width))

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "valid")


def _valid(taps: np.ndarray, n: int) -> np.ndarray:
    """The (n - len(taps) + 1, n) matrix of a convolution with `taps`, which sum to 1, where they lie inside."""
    matrix = np.zeros((n - len(taps) + 1, n))
    for offset, tap in enumerate(taps[::-1]):
        matrix[np.arange(len(matrix)), np.arange(len(matrix)) + offset] = tap
    return matrix
