"""A JPEG of a damaged picture, whose coefficients hold the damage too."""

from typing import Any

import numpy as np

from ...engines import Array
from .iterative import Iterative
from .jpeg import HALF, Coded, Jpeg
from .masks import check_mask, mask_settings

TURNS = 2
"""The number of times that `MaskedJpeg.mean` estimates the damage. On tune-20 a second time gains 0.2 dB, two more 0.04
(docs/decisions/fidelity.md)."""
GREY = np.float32(128 / HALF - 1)
"""The level 128 on the [-1, 1] scale."""


class MaskedJpeg(Coded, Iterative):
    """The coefficients of a JPEG whose picture is damaged in the pixels of `hidden` (H, W) bool: y = A M x.

    M sets damaged pixels to 0. The encoded picture is M x + d, where the damage d is 0 elsewhere, so the coefficients
    of a damaged block still carry information about its other pixels. `undamaged` subtracts the damage that the decoded
    picture shows from a file's coefficients. The resolvent is iterative, with `inner`'s as its preconditioner. Raises
    InputError for a mask of another size or without a known pixel.
    """

    def __init__(self, inner: Jpeg, hidden: np.ndarray):
        super().__init__(inner.image_shape, inner.measurement_shape)
        self.name, self.inner = inner.name, inner
        self.hidden: np.ndarray = check_mask(hidden, inner.image_shape)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.inner.settings, **mask_settings(self.hidden)}

    @property
    def measured(self) -> int:
        return min(self.inner.measured, self.image_shape[0] * int((~self.hidden).sum()))

    def prepare(self) -> None:
        self.inner.prepare()

    def at(self, height: int, width: int) -> Jpeg:
        return self.inner.at(height, width)

    def undamaged(self, y: np.ndarray) -> np.ndarray:
        """Subtract the damage in the decoded picture from the file's y (m, H / h, W / w); return this operator's y."""
        levels = np.rint(HALF * (np.clip(self.inner.decoded(y), -1, 1) + 1))
        return np.asarray(y - self._coefficients(levels / HALF - 1), np.float32)

    def decoded(self, y: np.ndarray) -> np.ndarray:
        """Decode y to an image (C, H, W) float32, 0 in damaged pixels."""
        return np.where(self.hidden, np.float32(0), self.inner.decoded(y))

    def finished(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return `x` (C, H, W) with known pixels of a damaged picture that encodes to the file, where possible."""
        grey = np.where(self.hidden, GREY, x)  # 0 on [-1, 1] is no whole level
        encoded = self.inner.finished(grey, y + self._coefficients(grey))
        return np.where(self.hidden, x, encoded)

    def mean(self, y: Array, x0hat: Array, sigma: Any, variance: Any) -> Array:
        """Return E[x0 | y], (B, C, H, W), as `Jpeg.mean`; the damage is estimated TURNS times and subtracted."""
        known = self.known(x0hat)
        encoded = moved = known * x0hat
        for _ in range(TURNS):
            moved = self.inner.mean(y, encoded, sigma, variance)
            encoded = known * x0hat + (1 - known) * moved
        return known * moved + (1 - known) * x0hat

    def A(self, x: Array) -> Array:
        return self.inner.A(self.known(x) * x)

    def AT(self, y: Array) -> Array:
        return self.known(y) * self.inner.AT(y)

    def precondition(self, r: Array, sigma: Any, scale: Any) -> Array:
        return self.inner.resolvent(r, sigma, scale)

    def known(self, like: Array) -> Array:
        return self.place("known", lambda: 1.0 - self.hidden[None, None], like)

    def _coefficients(self, x: np.ndarray) -> np.ndarray:
        """Return the coefficients of x (C, H, W) with its undamaged pixels set to 0."""
        return np.asarray(self.inner.A((self.hidden * x).astype(np.float32)))
