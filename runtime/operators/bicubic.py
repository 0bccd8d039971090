"""Downscaling by the antialiased bicubic filter (Keys, 1981, a = -0.5), as in PIL and torch."""

from typing import Any

import numpy as np

from ...engines import Array
from ...engines.array_api import array_namespace
from .base import Linear, Shape, reduced
from .iterative import Iterative
from .separable import Factored, Pair, are_decomposed

REACH = 2
"""The filter's radius in pixels of the smaller image."""


def bicubic(image_shape: Shape, scale: int) -> Linear:
    """Return the filter with its decomposition, or for a long side, where that takes long, by conjugate gradients.

    Raises InputError where `scale` does not divide both sides.
    """
    _, height, width = reduced(image_shape, scale)
    small = are_decomposed((height, height * scale), (width, width * scale))
    return Bicubic(image_shape, scale) if small else BicubicBlocks(image_shape, scale)


class Bicubic(Factored):
    """The antialiased bicubic filter, with the decompositions of two matrices, one for rows and one for columns.

    It equals torch.nn.functional.interpolate(mode="bicubic", antialias=True); PIL differs by its rounding. Raises
    InputError where `scale` does not divide both sides.
    """

    name = "sr"
    peak = 2.0  # the weights' magnitudes sum to less along both sides

    def __init__(self, image_shape: Shape, scale: int):
        super().__init__(image_shape, reduced(image_shape, scale))
        self.scale = scale

    @property
    def settings(self) -> dict[str, Any]:
        return _settings(self.scale)

    def make(self) -> Pair:
        _, height, width = self.measurement_shape
        return _matrix(height, self.scale), _matrix(width, self.scale)


class BicubicBlocks(Iterative):
    """The antialiased bicubic filter at any size, without a decomposition. A side consists of blocks of `scale` pixels.

    A pixel of the measurement is a weighted sum over the 2 REACH + 1 nearest blocks, divided by the sum of the weights
    inside the image. Raises InputError where `scale` does not divide both sides.
    """

    name = "sr"
    peak = 2.0  # the weights' magnitudes sum to less along both sides

    def __init__(self, image_shape: Shape, scale: int):
        super().__init__(image_shape, reduced(image_shape, scale))
        self.scale = scale

    @property
    def settings(self) -> dict[str, Any]:
        return _settings(self.scale)

    def A(self, x: Array) -> Array:
        return _turned(self._shrink(_turned(self._shrink(x))))

    def AT(self, y: Array) -> Array:
        return _turned(self._spread(_turned(self._spread(y))))

    def _shrink(self, x: Array) -> Array:
        """Filter and downscale the last axis: (B, C, h, n scale) -> (B, C, h, n)."""
        xp, n = array_namespace(x), x.shape[3] // self.scale
        shares = xp.reshape(x, (*x.shape[:3], n, self.scale)) @ self.place("blocks", self._blocks, x).T
        sums = xp.zeros((*x.shape[:3], n + 2 * REACH), dtype=x.dtype, device=x.device)
        for i in range(2 * REACH + 1):
            sums[..., 2 * REACH - i : 2 * REACH - i + n] += shares[..., i]
        return self._shares(n, x) * sums[..., REACH : REACH + n]

    def _spread(self, y: Array) -> Array:
        """Apply the adjoint of `_shrink`: (B, C, h, n) -> (B, C, h, n scale)."""
        xp, n = array_namespace(y), y.shape[3]
        sums = xp.zeros((*y.shape[:3], n + 2 * REACH), dtype=y.dtype, device=y.device)
        sums[..., REACH : REACH + n] = self._shares(n, y) * y
        shares = xp.stack([sums[..., 2 * REACH - i : 2 * REACH - i + n] for i in range(2 * REACH + 1)], axis=-1)
        return xp.reshape(shares @ self.place("blocks", self._blocks, y), (*y.shape[:3], n * self.scale))

    def _blocks(self) -> np.ndarray:
        """(2 REACH + 1, scale): the weights of the blocks around a pixel of the measurement."""
        blocks = np.arange(-REACH, REACH + 1)[:, None]
        return _weights(blocks + (np.arange(self.scale) + 0.5) / self.scale - 0.5)

    def _shares(self, n: int, like: Array) -> Array:
        """Return (n,): 1 divided by the sum of the weights inside the image."""

        def shares() -> np.ndarray:
            inside = np.pad(np.ones(n), REACH)
            return 1 / np.asarray(np.convolve(inside, self._blocks().sum(axis=1), "valid"))

        return self.place(f"shares of {n}", shares, like)


def _turned(x: Array) -> Array:
    """Transpose the images."""
    return array_namespace(x).permute_dims(x, (0, 1, 3, 2))


def _settings(scale: int) -> dict[str, Any]:
    return {"scale": scale, "filter": "bicubic"}


def _weights(d: np.ndarray) -> np.ndarray:
    """Evaluate the filter at distances `d`, in pixels of the smaller image."""
    a, d = -0.5, np.abs(d)
    return np.asarray(np.where(d < 1, ((a + 2) * d - (a + 3)) * d**2 + 1, a * (((d - 5) * d + 8) * d - 4)) * (d < 2))


def _matrix(n: int, scale: int) -> np.ndarray:
    """Return (n, n scale): the weights of n pixels over n scale smaller ones, normalised where the border cuts them."""
    weights = _weights((np.arange(n * scale) + 0.5 - scale * (np.arange(n)[:, None] + 0.5)) / scale)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
