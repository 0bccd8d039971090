"""Blurs over a mirrored border (d c b a | a b c d | d c b a) with kernels symmetric along both axes.

The discrete cosine transform (type II) diagonalises them at any size, without a decomposition.
"""

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import array_namespace
from ...engines.stopping import check
from .base import Decomposable, Shape
from .circular import hartley, opposite
from .kernels import check_fits, kernel_peak, kernel_settings, normalised

MAX_SIDE = 1024
"""The longest side in pixels that is transformed by a matrix product; beyond, the fast Fourier transform is faster."""


class Cosine(Decomposable):
    """A blur that the two-dimensional cosine transform diagonalises. Negative eigenvalues put their signs into U.

    A long side is transformed by Hartley's H. P orders the even places upwards and then the odd ones downwards, and
    X_k = cos(a_k) (H P x)_k + sin(a_k) (H P x)_{n-k}, a_k = pi k / 2n + pi / 4, X_0 = (H P x)_0 (Makhoul, 1980). This
    reflects each pair (k, n - k), so it is its own inverse, as H is.
    """

    name = "deblur"

    def __init__(self, image_shape: Shape):
        super().__init__(image_shape, image_shape)

    @abstractmethod
    def make(self) -> np.ndarray:
        """Return the eigenvalues (H, W) by vertical and horizontal frequency, of any sign."""

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        return self.make()

    @cached_property
    def _s(self) -> np.ndarray:
        return np.asarray(np.abs(self.eigenvalues)[None, None])

    def prepare(self) -> None:
        _ = self._s

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self._s, like)

    def Vt(self, x: Array) -> Array:
        return self._transform(self._transform(x, 2), 3)

    def V(self, s: Array) -> Array:
        return self._inverse(self._inverse(s, 3), 2)

    def Ut(self, y: Array) -> Array:
        return self._signs(y) * self.Vt(y)

    def U(self, s: Array) -> Array:
        return self.V(self._signs(s) * s)

    def _signs(self, like: Array) -> Array:
        return self.place("signs", lambda: np.where(self.eigenvalues < 0, -1.0, 1.0), like)

    def _transform(self, x: Array, axis: int) -> Array:
        check()
        n = x.shape[axis]
        if n <= MAX_SIDE:
            matrix = self.place(f"cosines {n}", lambda: _cosines(n), x)
            return matrix @ x if axis == 2 else x @ matrix.T
        order = self.place(f"order {n}", lambda: _order(n), x)
        return self._reflect(hartley(array_namespace(x).take(x, order, axis=axis), (axis,)), axis)

    def _inverse(self, s: Array, axis: int) -> Array:
        check()
        n = s.shape[axis]
        if n <= MAX_SIDE:
            matrix = self.place(f"cosines {n}", lambda: _cosines(n), s)
            return matrix.T @ s if axis == 2 else s @ matrix
        back = self.place(f"back {n}", lambda: np.argsort(_order(n)), s)
        return array_namespace(s).take(hartley(self._reflect(s, axis), (axis,)), back, axis=axis)

    def _reflect(self, h: Array, axis: int) -> Array:
        n, shape = h.shape[axis], (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        angles = np.pi / (2 * n) * np.arange(n) + np.pi / 4
        angles[0] = 0
        cos = self.place(f"cos {axis}", lambda: np.cos(angles).reshape(shape), h)
        sin = self.place(f"sin {axis}", lambda: np.sin(angles).reshape(shape), h)
        return cos * h + sin * opposite(h, (axis,))


class Mirrored(Cosine):
    """A blur over a mirrored border with any kernel that is symmetric along both axes.

    A real photograph continues more like its mirror image than like its opposite side. The eigenvalues are
    sum_ij h_ij cos(pi k i / H) cos(pi l j / W). `kernel` (height, width) is normalised to sum to 1. Raises InputError
    where it is larger than the image or not symmetric.
    """

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        super().__init__(image_shape)
        self.kernel = normalised(kernel)
        self.peak = kernel_peak(self.kernel)
        check_fits(self.kernel, image_shape)
        if not is_mirrored(self.kernel):
            raise InputError(
                "a mirrored border needs a kernel that is its own mirror image both ways; take border circular or valid"
            )

    def make(self) -> np.ndarray:
        _, height, width = self.image_shape
        return _response(_response(self.kernel, height).T, width).T

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "mirror")


class Deblur(Cosine):
    """A blur over a mirrored border with the same one-dimensional kernel along rows and columns.

    `taps`: its weights, odd in number and symmetric, normalised to sum to 1. Raises InputError for others.
    """

    def __init__(self, image_shape: Shape, taps: np.ndarray):
        super().__init__(image_shape)
        taps = np.asarray(taps, np.float64)
        if taps.ndim != 1 or not is_mirrored(taps[None]):
            raise InputError("a blur over a mirrored border needs an odd number of weights, the same from both ends")
        self.taps = taps / taps.sum()
        self.peak = kernel_peak(np.outer(self.taps, self.taps))

    def make(self) -> np.ndarray:
        _, height, width = self.image_shape
        return np.outer(_response(self.taps, height), _response(self.taps, width))

    @property
    def settings(self) -> dict[str, Any]:
        return {"taps": self.taps.tolist(), "border": "mirror"}

    @classmethod
    def gaussian(cls, image_shape: Shape, std: float) -> "Deblur":
        """Return a Gaussian blur of standard deviation `std` pixels, cut at 4 std."""
        if not 0 < std <= max(image_shape[1:]):
            raise InputError(f"a Gaussian kernel needs a standard deviation in pixels above 0; got {std}")
        radius = max(1, math.ceil(4 * std))
        return cls(image_shape, np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * std**2)))

    @classmethod
    def uniform(cls, image_shape: Shape, size: int) -> "Deblur":
        """Return the mean over size x size pixels; `size` is odd."""
        if size < 3 or size % 2 == 0 or size > max(image_shape[1:]):
            raise InputError(f"a uniform kernel needs an odd size from 3 up to the image's side; got {size}")
        return cls(image_shape, np.ones(size))


def is_mirrored(kernel: np.ndarray) -> bool:
    """Return whether `kernel` has odd sides and is symmetric along both axes, up to rounding."""
    odd = kernel.shape[0] % 2 == 1 and kernel.shape[1] % 2 == 1
    flips = (kernel[::-1], kernel[:, ::-1])
    return odd and all(np.abs(kernel - flipped).max() < 1e-6 * np.abs(kernel).max() for flipped in flips)


def _cosines(n: int) -> np.ndarray:
    """Return the orthonormal discrete cosine transform of type II, (n, n), with a row for each frequency."""
    basis: np.ndarray = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)) * np.sqrt(2 / n)
    basis[0] /= np.sqrt(2)
    return basis


def _order(n: int) -> np.ndarray:
    """Return (n,): the even places upwards, then the odd ones downwards."""
    return np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)[::-1]])


def _response(weights: np.ndarray, n: int) -> np.ndarray:
    """Return (n, ...): sum_i h_i cos(pi k i / n) for k < n, of weights (m, ...) whose middle is i = 0."""
    line = np.zeros((2 * n, *weights.shape[1:]))
    np.add.at(line, (np.arange(len(weights)) - len(weights) // 2) % (2 * n), weights)
    return np.asarray(np.fft.rfft(line, axis=0).real[:n])
