"""An operator that is a matrix: its singular value decomposition is computed when first needed, and kept on disk."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from safetensors.numpy import load, save_file

from ...engines import Array, InputError, cache
from .base import Linear, Shape

logger = logging.getLogger(__name__)
MAX_VALUES = 1 << 26
"""Entries of a matrix: half a gigabyte."""


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

    def spectrum(self, like: Array) -> Array:
        return self._place_spectrum(self.decomposition.s.reshape(1, 1, *self.measurement_shape[1:]), like)

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
        return xp.reshape(flat @ self._place(key, matrix, x).T, (x.shape[0], *shape))


def _decomposed(matrix: np.ndarray, digest: str) -> Decomposition:
    """The decomposition of `matrix`, from the cache where it is there. `digest` names its content."""
    name = cache.key("svd", "1", digest)
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
