"""Operators that are matrices, and those without a closed form, which become one where they are small enough.

The singular value decomposition is computed when it is first needed, and kept on disk.
"""

import hashlib
import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load, save_file

from ...engines import Array, InputError, cache
from ...engines.array_api import array_namespace
from .base import Linear, Operator, Resolvable, Shape
from .circular import Circular
from .iterative import Partial
from .kernels import check_fits, kernel_settings, normalised, valid_part
from .masks import check_mask, mask_settings
from .separable import Valid

logger = logging.getLogger(__name__)
MAX_VALUES = 1 << 26
"""Entries of a matrix: half a gigabyte."""
MAX_DERIVED = 1 << 24
"""Entries of a matrix that a blur becomes: 64x64 pixels by as many values. Beyond, it is a `Partial`."""


class Decomposition(NamedTuple):
    """matrix (m, n) = U (m, m) diag(s) Vt (m, n); beyond n, s and the rows of Vt are 0."""

    U: np.ndarray
    s: np.ndarray
    Vt: np.ndarray


class Matrix(Linear):
    """y = A x for a matrix A the caller gives, a row each measured value: (m, C H W), or (m, H W) for every channel.

    Pixels are numbered as numpy flattens (C, H, W), or (H, W). A measurement is (1, 1, m), or (C, 1, m); `measured_as`
    (h, w) arranges the m values as a picture. Rows of zeros measure nothing. The decomposition is kept in frugal-rt's
    cache folder by a digest of the matrix, and computed only where DMPS or the hybrid needs it. Raises InputError for
    a matrix that does not fit, is not finite, measures nothing or has over MAX_VALUES entries.
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
        self._channels = channels if matrix.shape[1] == each else 1
        super().__init__(image_shape, (self._channels, *(measured_as or (1, len(matrix)))))
        self.matrix = matrix.astype(np.float64)
        self._seen = matrix.any(axis=1)

    @cached_property
    def sha256(self) -> str:
        """Of the matrix, in float64."""
        digest = hashlib.sha256(repr(self.matrix.shape).encode())
        digest.update(np.ascontiguousarray(self.matrix).data)
        return digest.hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        return {"rows": len(self.matrix), "columns": self.matrix.shape[1], "matrix_sha256": self.sha256}

    @property
    def measured(self) -> int:
        return self._channels * int(self._seen.sum())

    def observed(self, y: np.ndarray) -> np.ndarray:
        return np.where(self._seen.reshape(self.measurement_shape[1:]), y, np.zeros_like(y))

    @cached_property
    def decomposition(self) -> Decomposition:
        return _decomposed(self.matrix, self.sha256)

    def prepare(self) -> None:
        _ = self.decomposition

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self.decomposition.s.reshape(1, 1, *self.measurement_shape[1:]), like)

    def A(self, x: Array) -> Array:
        return self._apply("A", self.matrix, x, self.measurement_shape)

    def AT(self, y: Array) -> Array:
        return self._apply("AT", self.matrix.T, y, self.image_shape)

    def Vt(self, x: Array) -> Array:
        return self._apply("Vt", self.decomposition.Vt, x, self.measurement_shape)

    def V(self, s: Array) -> Array:
        return self._apply("V", self.decomposition.Vt.T, s, self.image_shape)

    def Ut(self, y: Array) -> Array:
        return self._apply("Ut", self.decomposition.U.T, y, self.measurement_shape)

    def U(self, s: Array) -> Array:
        return self._apply("U", self.decomposition.U, s, self.measurement_shape)

    def _apply(self, key: str, matrix: np.ndarray, x: Array, shape: Shape) -> Array:
        """`matrix` times each channel, or the whole, of every row of `x`, as arrays of `shape`."""
        xp = array_namespace(x)
        flat = xp.reshape(x, (x.shape[0], self._channels, matrix.shape[1]))
        return xp.reshape(flat @ self.place(key, matrix.T, x), (x.shape[0], *shape))


def _decomposed(matrix: np.ndarray, digest: str) -> Decomposition:
    """The decomposition of `matrix`, from the cache where it is there. `digest` names its content."""
    name = cache.key("svd", np.__version__, digest)
    kept = cache.find(name)
    if kept is not None:
        return Decomposition(**load(kept))
    rows, columns = matrix.shape
    logger.info("decomposing a matrix of %d x %d; this is done once", rows, columns)
    U, s, Vt = np.linalg.svd(matrix, full_matrices=rows > columns)
    if rows > columns:
        s, Vt = np.pad(s, (0, rows - columns)), np.pad(Vt, ((0, rows - columns), (0, 0)))
    made = Decomposition(U, s, Vt)

    def write(path: Path) -> None:
        save_file({key: np.ascontiguousarray(array) for key, array in made._asdict().items()}, path)

    cache.keep(name, write)
    return made


class MaskedMatrix(Matrix):
    """`Masked` where the two have no common basis (a blur, then missing pixels), by the matrix of one channel.

    `inner` is the operator before the mask, for images (1, H, W); it is applied to each channel. Raises InputError as
    `Masked` does, and where the matrix has over MAX_DERIVED entries: beyond 64x64, where `Partial` takes its place.
    """

    def __init__(self, image_shape: Shape, inner: Resolvable, missing: np.ndarray):
        missing = check_mask(missing, inner.measurement_shape)
        matrix = matrix_of(inner)
        matrix[missing.reshape(-1)] = 0
        super().__init__(image_shape, matrix, inner.measurement_shape[1:])
        self.name, self.inner = inner.name, inner
        self.missing: np.ndarray = missing

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.inner.settings, **mask_settings(self.missing)}


class ValidMatrix(Matrix):
    """`valid_blur` with a kernel that is no product of a column and a row, by the matrix of one channel."""

    name = "deblur"

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        self.kernel = kernel = normalised(kernel)
        check_fits(kernel, image_shape)
        (_, height, width), (rows, columns) = image_shape, kernel.shape
        size = height - rows + 1, width - columns + 1
        matrix = np.zeros((math.prod(size), height * width))
        y, x = (place.reshape(-1) for place in np.mgrid[: size[0], : size[1]])
        for (a, b), weight in np.ndenumerate(kernel[::-1, ::-1]):
            matrix[np.arange(len(matrix)), (y + a) * width + x + b] = weight
        super().__init__(image_shape, matrix, size)

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "valid")


def valid_blur(image_shape: Shape, kernel: np.ndarray) -> Resolvable:
    """A blur that is measured only where it saw nothing from outside the image (C, H, W): nothing is assumed there.

    What a real photograph needs: y is (C, H - h + 1, W - w + 1) for a kernel (h, w). A kernel that is a product of a
    column and a row takes two small matrices, at any size; any other has no closed form and becomes the matrix of one
    channel up to about 64x64, and a `Partial` of the blur on a torus beyond. Raises InputError for a kernel larger than
    the image.
    """
    kernel = normalised(kernel)
    check_fits(kernel, image_shape)
    singular = np.linalg.svd(kernel, compute_uv=False)
    if singular[1:].max(initial=0) < 1e-9 * singular[0]:
        return Valid(image_shape, kernel)
    inside = Partial(Circular(image_shape, kernel), valid_part(kernel, image_shape))
    return ValidMatrix(image_shape, kernel) if is_small(inside) else inside


def is_small(operator: Operator) -> bool:
    """Whether the matrix of one of its channels has at most MAX_DERIVED entries."""
    return math.prod(operator.image_shape[1:]) * math.prod(operator.measurement_shape[1:]) <= MAX_DERIVED


def matrix_of(operator: Resolvable) -> np.ndarray:
    """The matrix (h w, H W) of an operator of one channel. Raises InputError beyond MAX_DERIVED entries."""
    if not is_small(operator):
        width, height = operator.image_shape[:0:-1]
        raise InputError(
            f"this {operator.name} is too large for a matrix at {width}x{height}, 64x64 being about the most; "
            "take operators.Partial"
        )
    columns, rows = (math.prod(shape) for shape in (operator.image_shape, operator.measurement_shape))
    matrix = np.empty((rows, columns))
    for first in range(0, columns, 512):
        some = np.eye(min(512, columns - first), columns, first).reshape(-1, *operator.image_shape)
        matrix[:, first : first + 512] = np.asarray(operator.A(some)).reshape(len(some), rows).T
    return matrix
