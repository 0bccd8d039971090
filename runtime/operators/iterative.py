"""Operators whose resolvent has no closed form: conjugate gradients compute it, without a matrix, at any size."""

import logging
from typing import Any

import numpy as np

from ...engines import Array
from ...engines.array_api import array_namespace
from .base import Linear, Shape, reciprocal
from .masks import check_mask, mask_settings

logger = logging.getLogger(__name__)
Part = tuple[slice, slice]


class Iterative(Linear):
    """A linear degradation given by `A` and `AT` alone.

    `resolvent` runs preconditioned conjugate gradients (Hestenes and Stiefel, 1952). Each row has its own step sizes
    and stops by itself, so that the other rows of a batch do not change it.
    """

    tolerance = 1e-2
    """A row stops where the norm of its residual is this share of the norm of its right-hand side (docs/method.md)."""
    most = 100
    """The most iterations; a row that has not converged by then keeps its last iterate."""

    def resolvent(self, r: Array, sigma: Any, scale: Any) -> Array:
        xp = array_namespace(r)
        end = self.tolerance**2 * _dot(r, r)
        found = xp.zeros_like(r)
        better = self.precondition(r, sigma, scale)
        along, gain = better, _dot(r, better)
        iterations = 0
        while iterations < self.most and bool(xp.any(going := _dot(r, r) > end)):
            pushed = sigma**2 * along + scale * self.gram(along)
            step = xp.astype(going, r.dtype) * gain * reciprocal(_dot(along, pushed))
            found, r = found + step * along, r - step * pushed
            better = self.precondition(r, sigma, scale)
            earlier, gain = gain, _dot(r, better)
            along = better + gain * reciprocal(earlier) * along
            iterations += 1
        logger.debug("%s: %d iterations of conjugate gradients", self.name, iterations)
        return found


class Partial(Iterative):
    """y = M P B x: B is `inner`, P crops its measurement, and M sets missing pixels to 0.

    Examples are a blur with missing pixels, and a blur measured only where the kernel lies inside the image, which is a
    crop of the circular blur. `part`: the rows and columns kept. `missing`: (h, w) bool, True where one of the kept
    pixels is lost. The preconditioner is `inner`'s own between M P and its transpose: its resolvent if it has an SVD.
    Raises InputError for a mask of another size or without a known pixel.
    """

    def __init__(self, inner: Linear, part: Part | None = None, missing: np.ndarray | None = None):
        channels, height, width = inner.measurement_shape
        rows, columns = self.part = part or (slice(0, height), slice(0, width))
        kept: Shape = (channels, len(range(height)[rows]), len(range(width)[columns]))
        super().__init__(inner.image_shape, kept)
        self.name, self.inner, self.peak = inner.name, inner, inner.peak
        self.missing = None if missing is None else check_mask(missing, kept)

    @property
    def settings(self) -> dict[str, Any]:
        border = {"border": "valid"} if self.measurement_shape != self.inner.measurement_shape else {}
        return {**self.inner.settings, **border, **({} if self.missing is None else mask_settings(self.missing))}

    @property
    def measured(self) -> int:
        channels, height, width = self.measurement_shape
        return channels * (height * width - (0 if self.missing is None else int(self.missing.sum())))

    def observed(self, y: np.ndarray) -> np.ndarray:
        return y if self.missing is None else np.where(self.missing, np.zeros_like(y), y)

    def A(self, x: Array) -> Array:
        return self._taken(self.inner.A(x))

    def AT(self, y: Array) -> Array:
        return self.inner.AT(self._put_back(y))

    def gram(self, r: Array) -> Array:
        return self._taken(self.inner.gram(self._put_back(r)))

    def precondition(self, r: Array, sigma: Any, scale: Any) -> Array:
        missing = r - self._masked(r)
        return self._taken(self.inner.precondition(self._put_back(r), sigma, scale)) + missing * reciprocal(
            sigma**2 + 0 * r
        )

    def prepare(self) -> None:
        self.inner.prepare()

    def _masked(self, y: Array) -> Array:
        """Return M y."""
        missing = self.missing
        return y if missing is None else self.place("known", lambda: 1.0 - missing, y) * y

    def _taken(self, y: Array) -> Array:
        """Return M P y."""
        return self._masked(y[(..., *self.part)])

    def _put_back(self, y: Array) -> Array:
        """Return P^T M^T y."""
        xp, shape = array_namespace(y), (y.shape[0], *self.inner.measurement_shape)
        whole = xp.zeros(shape, dtype=y.dtype, device=y.device)
        whole[(..., *self.part)] = self._masked(y)
        return whole


def _dot(a: Array, b: Array) -> Array:
    """Return the scalar product of each row, (B, 1, 1, 1)."""
    return (a * b).reshape((a.shape[0], -1)).sum(1)[:, None, None, None]
