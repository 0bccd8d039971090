"""Operators given by matrices, and operators without a closed form that are small enough for a matrix."""

import hashlib
import logging
import math
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load, save_file

from ...engines import Array, InputError, cache
from ...engines.array_api import array_namespace
from .base import Decomposable, Linear, Operator, Shape
from .circular import Circular
from .iterative import Partial
from .kernels import check_fits, is_product, kernel_peak, kernel_settings, normalised, valid_part
from .masks import check_mask, mask_settings
from .separable import Valid, are_decomposed

logger = logging.getLogger(__name__)
MAX_VALUES = 1 << 26
"""The most entries of a matrix: half a gigabyte in float64."""
MAX_DERIVED = 1 << 20
"""The most entries of a matrix that is derived from a task's blur: 32x32 pixels by as many values. A larger blur is a
`Partial`: conjugate gradients take less time than its decomposition (docs/decisions/closed-form.md)."""


class Decomposition(NamedTuple):
    """The decomposition of a matrix (m, n) = U (m, m) diag(s) Vt (m, n); beyond n, s and the rows of Vt are 0."""

    U: np.ndarray
    s: np.ndarray
    Vt: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Decomposition":
        rows, columns = matrix.shape
        U, s, Vt = np.linalg.svd(matrix.astype(np.float64, copy=False), full_matrices=rows > columns)
        if rows > columns:
            s, Vt = np.pad(s, (0, rows - columns)), np.pad(Vt, ((0, rows - columns), (0, 0)))
        return cls(U, s, Vt)


class Dense(Decomposable):
    """A matrix (m, C H W), or (m, H W) for every channel, decomposed when a method first needs it; DPS never does.

    Pixels are numbered as numpy flattens (C, H, W), or (H, W). A measurement is (1, h, w), or (C, h, w), with m = h w.
    Rows of zeros measure nothing.
    """

    def __init__(self, image_shape: Shape, measurement_shape: Shape):
        super().__init__(image_shape, measurement_shape)
        self._channels = measurement_shape[0]

    @abstractmethod
    def make(self) -> np.ndarray:
        """Return the matrix, real numbers of any type."""

    @cached_property
    def matrix(self) -> np.ndarray:
        return self.make()

    @cached_property
    def decomposition(self) -> Decomposition:
        return Decomposition.of(self.matrix)

    def prepare(self) -> None:
        _ = self.decomposition

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self.decomposition.s.reshape(1, 1, *self.measurement_shape[1:]), like)

    def A(self, x: Array) -> Array:
        return self._apply(self._placed_matrix(x), x, self.measurement_shape)

    def AT(self, y: Array) -> Array:
        return self._apply(self._placed_matrix(y).T, y, self.image_shape)

    def Vt(self, x: Array) -> Array:
        return self._apply(self.place("Vt", self.decomposition.Vt, x), x, self.measurement_shape)

    def V(self, s: Array) -> Array:
        return self._apply(self.place("Vt", self.decomposition.Vt, s).T, s, self.image_shape)

    def Ut(self, y: Array) -> Array:
        return self._apply(self.place("U", self.decomposition.U, y).T, y, self.measurement_shape)

    def U(self, s: Array) -> Array:
        return self._apply(self.place("U", self.decomposition.U, s), s, self.measurement_shape)

    def _placed_matrix(self, like: Array) -> Array:
        return self.place("A", lambda: self.matrix.astype(np.float64, copy=False), like)

    def _apply(self, matrix: Array, x: Array, shape: Shape) -> Array:
        """Multiply `matrix` by each channel, or by all channels, of every row of `x`; return arrays of `shape`."""
        xp = array_namespace(x)
        flat = xp.reshape(x, (x.shape[0], self._channels, matrix.shape[1]))
        return xp.reshape(flat @ matrix.T, (x.shape[0], *shape))


class Matrix(Dense):
    """y = A x for a given matrix A with a row for each measured value: (m, C H W), or (m, H W) for every channel.

    Pixels are numbered as numpy flattens (C, H, W), or (H, W). A measurement is (1, 1, m), or (C, 1, m); `measured_as`
    (h, w) arranges the m values as a picture. Rows of zeros measure nothing. The decomposition is kept in frugal-rt's
    cache folder, by the matrix's SHA-256, and is never computed for DPS. Raises InputError for a matrix that does not
    fit, is not finite, measures nothing or has over MAX_VALUES entries.
    """

    name = "matrix"

    def __init__(self, image_shape: Shape, matrix: np.ndarray, measured_as: tuple[int, int] | None = None):
        channels, height, width = image_shape
        matrix = np.asarray(matrix)
        whole, each = channels * height * width, height * width
        if matrix.ndim != 2 or matrix.shape[1] not in (whole, each) or not len(matrix):
            raise InputError(
                f"the matrix is {' x '.join(map(str, matrix.shape))}; for images of {width}x{height} it needs "
                f"{each} columns, to be applied to each channel, or {whole}"
            )
        if matrix.size > MAX_VALUES:
            raise InputError(f"the matrix has {matrix.size} entries; up to {MAX_VALUES} are taken")
        if matrix.dtype.kind not in "fiub" or not np.isfinite(matrix).all() or not matrix.any():
            raise InputError("the matrix must be real and finite, and measure something")
        channels = channels if matrix.shape[1] == each else 1
        super().__init__(image_shape, (channels, *(measured_as or (1, len(matrix)))))
        self._given = matrix.copy()

    def make(self) -> np.ndarray:
        return self._given

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the matrix in float64."""
        digest = hashlib.sha256(repr(self.matrix.shape).encode())
        for row in self.matrix:
            digest.update(np.ascontiguousarray(row, np.float64).data)
        return digest.hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        return {"rows": len(self.matrix), "columns": self.matrix.shape[1], "matrix_sha256": self.sha256}

    @cached_property
    def _seen(self) -> np.ndarray:
        return np.asarray(self.matrix.any(axis=1))

    @property
    def measured(self) -> int:
        return self._channels * int(self._seen.sum())

    def observed(self, y: np.ndarray) -> np.ndarray:
        return np.where(self._seen.reshape(self.measurement_shape[1:]), y, np.zeros_like(y))

    @cached_property
    def decomposition(self) -> Decomposition:
        """The decomposition, read from the cache where it is there."""
        name = cache.key("svd", np.__version__, self.sha256)
        kept = cache.find(name)
        if kept is not None:
            return Decomposition(**load(kept))
        logger.info("decomposing a matrix of %d x %d; this is done once", *self.matrix.shape)
        made = Decomposition.of(self.matrix)

        def write(path: Path) -> None:
            save_file({key: np.ascontiguousarray(array) for key, array in made._asdict().items()}, path)

        cache.keep(name, write)
        return made


class MaskedMatrix(Dense):
    """A mask after an operator with another basis, such as a blur with missing pixels, by the matrix of one channel.

    `inner` is the operator before the mask, for images (1, H, W); it is applied to each channel. Raises InputError as
    `Masked` does, and where the matrix has over MAX_VALUES entries, above about 90x90 pixels; take `Partial` there.
    """

    def __init__(self, image_shape: Shape, inner: Linear, missing: np.ndarray):
        missing = check_mask(missing, inner.measurement_shape)
        super().__init__(image_shape, (image_shape[0], *inner.measurement_shape[1:]))
        if _entries(self) > MAX_VALUES:
            _, height, width = image_shape
            raise InputError(f"this {inner.name} is too large for a matrix at {width}x{height}; take operators.Partial")
        self.name, self.inner, self.peak = inner.name, inner, inner.peak
        self.missing: np.ndarray = missing

    def make(self) -> np.ndarray:
        matrix = matrix_of(self.inner)
        matrix[self.missing.reshape(-1)] = 0
        return matrix

    @property
    def measured(self) -> int:
        return self._channels * int((~self.missing).sum())

    def observed(self, y: np.ndarray) -> np.ndarray:
        return np.where(self.missing, np.zeros_like(y), y)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.inner.settings, **mask_settings(self.missing)}


class ValidMatrix(Dense):
    """The blur of `valid_blur` with a kernel that is no product of a column and a row, by the matrix of one channel."""

    name = "deblur"

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        self.kernel = normalised(kernel)
        check_fits(self.kernel, image_shape)
        self.peak = kernel_peak(self.kernel)
        (channels, height, width), (rows, columns) = image_shape, self.kernel.shape
        super().__init__(image_shape, (channels, height - rows + 1, width - columns + 1))

    def make(self) -> np.ndarray:
        (_, rows, columns), (_, height, width) = self.measurement_shape, self.image_shape
        high, wide = self.kernel.shape
        matrix = np.zeros((rows, columns, height, width))
        for y, x in np.ndindex(rows, columns):
            matrix[y, x, y : y + high, x : x + wide] = self.kernel[::-1, ::-1]
        return matrix.reshape(rows * columns, height * width)

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "valid")


def valid_blur(image_shape: Shape, kernel: np.ndarray) -> Linear:
    """Return a blur that is measured only where the kernel lies inside the image, as in a real photograph.

    y is (C, H - h + 1, W - w + 1) for images (C, H, W) and a kernel (h, w). A kernel that is a product of a column and
    a row takes two small matrices (`Valid`), any other the matrix of one channel (`ValidMatrix`). Where these are too
    large to decompose, it is a `Partial` of the circular blur. Raises InputError for a kernel larger than the image.
    """
    kernel = normalised(kernel)
    check_fits(kernel, image_shape)
    inside = Partial(Circular(image_shape, kernel), valid_part(kernel, image_shape))
    if is_product(kernel):
        sides = zip(inside.measurement_shape[1:], image_shape[1:], strict=True)
        return Valid(image_shape, kernel) if are_decomposed(*sides) else inside
    return ValidMatrix(image_shape, kernel) if is_small(inside) else inside


def is_small(operator: Operator) -> bool:
    """Return whether the matrix of one channel has at most MAX_DERIVED entries."""
    return _entries(operator) <= MAX_DERIVED


def _entries(operator: Operator) -> int:
    """Return the number of entries of the matrix of one channel."""
    return math.prod(operator.image_shape[1:]) * math.prod(operator.measurement_shape[1:])


def matrix_of(operator: Linear) -> np.ndarray:
    """Return the matrix (h w, H W) of an operator of one channel; a row is A^T of a unit vector."""
    columns, rows = (math.prod(shape) for shape in (operator.image_shape, operator.measurement_shape))
    matrix = np.empty((rows, columns))
    for first in range(0, rows, 128):
        some = np.eye(min(128, rows - first), rows, first).reshape(-1, *operator.measurement_shape)
        matrix[first : first + 128] = np.asarray(operator.AT(some)).reshape(len(some), columns)
    return matrix
