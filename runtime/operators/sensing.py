"""Compressed sensing: a few Walsh-Hadamard coefficients of each channel."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import array_namespace
from .base import Decomposable, Shape


class WalshHadamard(Decomposable):
    """The first m of the H W Walsh-Hadamard coefficients of each channel, after a permutation of its pixels.

    As in DDRM (Kawar et al., 2022): y = (H P x)_{1..m}, H orthonormal and P a permutation, so that every singular value
    is 1 and every measured value depends on the whole image. H is a Kronecker product H_a x H_b: two small matrix
    products over the pixels as an (a, b) array. A measurement is (C, 1, m); its first value is sqrt(H W) times the
    mean.

    `fraction` of the coefficients is measured. `seed` draws P, the same on any machine and version of numpy. Raises
    InputError unless H W is a power of two and `fraction` lies in (0, 1].
    """

    name = "sense"

    def __init__(self, image_shape: Shape, fraction: float, seed: int = 0):
        channels, height, width = image_shape
        pixels = height * width
        if pixels & (pixels - 1):
            raise InputError(
                f"Walsh-Hadamard sensing needs sides that are powers of two; the image is {width}x{height}"
            )
        if not 0 < fraction <= 1:
            raise InputError(f"the share of coefficients kept must lie above 0 and up to 1; got {fraction:g}")
        self.fraction, self.seed = fraction, seed
        super().__init__(image_shape, (channels, 1, max(1, round(fraction * pixels))))
        bits = pixels.bit_length() - 1
        self._bits = bits // 2, bits - bits // 2

    @cached_property
    def _order(self) -> np.ndarray:
        """(H W,): the order of the pixels after P."""
        _, height, width = self.image_shape
        return np.argsort(np.random.PCG64(self.seed).random_raw(height * width), kind="stable")  # raw bits are stable

    @property
    def settings(self) -> dict[str, Any]:
        return {"fraction": self.fraction, "seed": self.seed}

    def prepare(self) -> None:
        _ = self._order

    def spectrum(self, like: Array) -> Array:
        return self.place("s", np.ones((1, 1, 1, 1)), like)

    def Vt(self, x: Array) -> Array:
        xp, (channels, height, width) = array_namespace(x), self.image_shape
        flat = xp.reshape(x, (x.shape[0], channels, height * width))
        mixed = self._transform(xp.take(flat, self.place("order", lambda: self._order, x), axis=2))
        return mixed[:, :, None, : self.measurement_shape[2]]

    def V(self, s: Array) -> Array:
        xp, (channels, height, width) = array_namespace(s), self.image_shape
        rest = xp.zeros((s.shape[0], channels, height * width - s.shape[3]), dtype=s.dtype, device=s.device)
        mixed = self._transform(xp.concat([s[:, :, 0, :], rest], axis=2))
        back = self.place("back", lambda: np.argsort(self._order), s)
        return xp.reshape(xp.take(mixed, back, axis=2), (s.shape[0], *self.image_shape))

    def _transform(self, flat: Array) -> Array:
        """Apply the orthonormal Walsh-Hadamard transform, its own inverse, to (B, C, H W)."""
        xp, (left, right) = array_namespace(flat), self._bits
        H_left = self.place(f"H of {left}", lambda: _hadamard(left), flat)
        H_right = self.place(f"H of {right}", lambda: _hadamard(right), flat)
        grid = xp.reshape(flat, (*flat.shape[:2], 1 << left, 1 << right))
        return xp.reshape(H_left @ grid @ H_right, flat.shape)


def _hadamard(bits: int) -> np.ndarray:
    """Return the orthonormal Hadamard matrix (2^bits, 2^bits) in Sylvester's order."""
    matrix = np.ones((1, 1))
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]]) / math.sqrt(2)
    return matrix
