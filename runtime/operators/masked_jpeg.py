"""A JPEG of a picture of which parts are to be filled in: its coefficients hold the damage there too."""

from typing import Any

import numpy as np

from ...engines import Array
from .iterative import Iterative
from .jpeg import HALF, Coded, Jpeg
from .masks import check_mask, mask_settings

TURNS = 2
"""How often `MaskedJpeg.mean` asks what the damage is. On tune-20 a second turn gains 0.2 dB, two more 0.04
(docs/operators.md)."""
GREY = np.float32(128 / HALF - 1)
"""A level in the middle."""


class MaskedJpeg(Coded, Iterative):
    """The coefficients of a JPEG, of whose picture the pixels in `hidden` (H, W) bool are damaged: y = A M x.

    M sets damaged pixels to 0. What was encoded is M x + d, where d is the damage, 0 elsewhere, so that every
    coefficient of a block that the damage touches still says something of the block's other pixels. `undamaged` takes
    off a file's coefficients the damage that its decoded picture shows. The resolvent is iterated, with `inner`'s own
    as its preconditioner. Raises InputError for a mask of another size or without a known pixel.
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
        """y (m, H / h, W / w) float32 of this operator, by that of the file: what its decoded picture hides is off."""
        levels = np.rint(HALF * (np.clip(self.inner.decoded(y), -1, 1) + 1))
        return np.asarray(y - self._coefficients(levels / HALF - 1), np.float32)

    def decoded(self, y: np.ndarray) -> np.ndarray:
        """The image (C, H, W) float32 that viewers show of y, 0 where it is damaged."""
        return np.where(self.hidden, np.float32(0), self.inner.decoded(y))

    def finished(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """`x` (C, H, W) with known pixels as of a damaged picture that encodes to the file, wherever that can be."""
        grey = np.where(self.hidden, GREY, x)  # a whole level, where 0 is none
        encoded = self.inner.finished(grey, y + self._coefficients(grey))
        return np.where(self.hidden, x, encoded)

    def mean(self, y: Array, x0hat: Array, sigma: Any, variance: Any) -> Array:
        """E[x0 | y], (B, C, H, W), as of `Jpeg.mean`: the damage is estimated with it, TURNS times, and left out."""
        known = self._known(x0hat)
        encoded = moved = known * x0hat
        for _ in range(TURNS):
            moved = self.inner.mean(y, encoded, sigma, variance)
            encoded = known * x0hat + (1 - known) * moved
        return known * moved + (1 - known) * x0hat

    def A(self, x: Array) -> Array:
        return self.inner.A(self._known(x) * x)

    def AT(self, y: Array) -> Array:
        return self._known(y) * self.inner.AT(y)

    def precondition(self, r: Array, sigma: Any, scale: Any) -> Array:
        return self.inner.resolvent(r, sigma, scale)

    def _known(self, like: Array) -> Array:
        """M: (1, 1, H, W), 0 where the picture is damaged."""
        return self.place("known", lambda: 1.0 - self.hidden[None, None], like)

    def _coefficients(self, x: np.ndarray) -> np.ndarray:
        """Return the coefficients of the damaged pixels of x (C, H, W), the others 0."""
        return np.asarray(self.inner.A((self.hidden * x).astype(np.float32)))
