"""Operators that act separately on rows and columns, by two small matrices with their singular value decompositions."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from ...engines import Array, InputError
from .base import Decomposable, Shape
from .kernels import kernel_peak, kernel_settings, normalised

MAX_WORK = 1 << 28
"""The largest m^2 n of an (m, n) matrix that is decomposed for a task, in a fifth of a second. Beyond it conjugate
gradients are used."""

Pair = tuple[np.ndarray, np.ndarray]


class Factored(Decomposable):
    """A x = L x R^T on every channel, with L (h, H), R (w, W), h <= H and w <= W.

    U = U_L x U_R, V = V_L x V_R and the singular values are the products s_L s_R.
    """

    @abstractmethod
    def make(self) -> Pair:
        """Return L and R."""

    @cached_property
    def factors(self) -> Pair:
        return self.make()

    @cached_property
    def _bases(self) -> tuple[Pair, Pair, Pair]:
        """U, s and V^T, each a pair for L and R."""
        left, right = (np.linalg.svd(matrix, full_matrices=False) for matrix in self.factors)
        U, s, Vt = zip(left, right, strict=True)
        return U, s, Vt

    def prepare(self) -> None:
        _ = self._bases

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(np.outer(*self._bases[1])[None, None], like)

    def A(self, x: Array) -> Array:
        return self._between("A", self.factors, x)

    def AT(self, y: Array) -> Array:
        return self._between("A", self.factors, y, adjoint=True)

    def Vt(self, x: Array) -> Array:
        return self._between("Vt", self._bases[2], x)

    def V(self, s: Array) -> Array:
        return self._between("Vt", self._bases[2], s, adjoint=True)

    def Ut(self, y: Array) -> Array:
        return self._between("U", self._bases[0], y, adjoint=True)

    def U(self, s: Array) -> Array:
        return self._between("U", self._bases[0], s)

    def _between(self, name: str, pair: Pair, x: Array, adjoint: bool = False) -> Array:
        """Return left x right^T, or with `adjoint` left^T x right, for every channel."""
        left, right = (self.place(f"{name} of {side}", one, x) for side, one in zip("LR", pair, strict=True))
        return left.T @ x @ right if adjoint else left @ x @ right.T


class Separable(Factored):
    """A x = L x R^T on every channel, for given L (h, H) and R (w, W), h <= H and w <= W.

    Raises InputError where they do not fit the image.
    """

    name = "separable"

    def __init__(self, image_shape: Shape, rows: np.ndarray, columns: np.ndarray):
        channels, height, width = image_shape
        if rows.shape[1] != height or columns.shape[1] != width:
            raise InputError(f"L is {rows.shape} and R is {columns.shape}; neither fits an image of {width}x{height}")
        super().__init__(image_shape, (channels, rows.shape[0], columns.shape[0]))
        self._given = rows, columns

    def make(self) -> Pair:
        return self._given


class Valid(Factored):
    """The blur of `valid_blur` with a kernel that is the product of a column and a row, by two small matrices."""

    name = "deblur"

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        self.kernel = normalised(kernel)
        self.peak = kernel_peak(self.kernel)
        (channels, height, width), (rows, columns) = image_shape, self.kernel.shape
        super().__init__(image_shape, (channels, height - rows + 1, width - columns + 1))

    def make(self) -> Pair:
        _, height, width = self.image_shape
        return _valid(self.kernel.sum(axis=1), height), _valid(self.kernel.sum(axis=0), width)

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "valid")


def _valid(taps: np.ndarray, n: int) -> np.ndarray:
    """Return the matrix (n - len(taps) + 1, n) of a convolution with `taps`, which sum to 1, where they lie inside."""
    matrix = np.zeros((n - len(taps) + 1, n))
    for offset, tap in enumerate(taps[::-1]):
        matrix[np.arange(len(matrix)), np.arange(len(matrix)) + offset] = tap
    return matrix


def are_decomposed(*matrices: tuple[int, int]) -> bool:
    """Return whether matrices of these shapes (m, n), m <= n, are small enough to be decomposed for a task."""
    return max(m * m * n for m, n in matrices) <= MAX_WORK
