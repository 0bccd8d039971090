"""Operators with a diagonal A A^T, U being the identity: noise alone, block means and grey, all without a matrix."""

from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import array_namespace
from .base import Decomposable, Shape, reduced

GREY_WEIGHTS = {
    "mean": (1 / 3, 1 / 3, 1 / 3),
    "rec601": (0.299, 0.587, 0.114),
    "rec709": (0.2126, 0.7152, 0.0722),
}
"""Weights of R, G and B: the papers' mean, PIL's mode L (ITU-R 601-2), and sRGB's luminance."""


class Denoise(Decomposable):
    """A = I: only noise was added."""

    name = "denoise"
    peak = 1.0

    def __init__(self, image_shape: Shape):
        super().__init__(image_shape, image_shape)

    def spectrum(self, like: Array) -> Array:
        return self.place("s", np.ones((1, 1, 1, 1)), like)

    def Vt(self, x: Array) -> Array:
        return x

    def V(self, s: Array) -> Array:
        return s


class SuperResolution(Decomposable):
    """The mean over scale x scale blocks. A A^T = I / scale^2, so every singular value is 1 / scale."""

    name = "sr"
    peak = 1.0

    def __init__(self, image_shape: Shape, scale: int):
        super().__init__(image_shape, reduced(image_shape, scale))
        self.scale = scale

    @property
    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale, "filter": "box"}

    def spectrum(self, like: Array) -> Array:
        return self.place("s", np.full((1, 1, 1, 1), 1 / self.scale), like)

    def Vt(self, x: Array) -> Array:
        xp = array_namespace(x)
        channels, height, width = self.measurement_shape
        blocks = xp.reshape(x, (x.shape[0], channels, height, self.scale, width, self.scale))
        return xp.sum(blocks, axis=(3, 5)) / self.scale

    def V(self, s: Array) -> Array:
        xp = array_namespace(s)
        return xp.repeat(xp.repeat(s, self.scale, axis=2), self.scale, axis=3) / self.scale


class Colorize(Decomposable):
    """Conversion to grey, y = w . (R, G, B), with A A^T = |w|^2 I. `weights` is a name of GREY_WEIGHTS."""

    name = "colorize"
    peak = 1.0

    def __init__(self, image_shape: Shape, weights: str = "rec601"):
        if image_shape[0] != 3:
            raise InputError(f"only an image of 3 channels can lose its colour; this prior has {image_shape[0]}")
        if weights not in GREY_WEIGHTS:
            raise InputError(f"there are no grey weights {weights!r}; choose one of {', '.join(GREY_WEIGHTS)}")
        super().__init__(image_shape, (1, *image_shape[1:]))
        self.weights = weights
        w = np.asarray(GREY_WEIGHTS[weights])
        self._norm = float(np.linalg.norm(w))
        self._direction = (w / self._norm)[None, :, None, None]

    @property
    def settings(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def spectrum(self, like: Array) -> Array:
        return self.place("s", np.full((1, 1, 1, 1), self._norm), like)

    def Vt(self, x: Array) -> Array:
        xp = array_namespace(x)
        return xp.sum(self.place("v", self._direction, x) * x, axis=1, keepdims=True)

    def V(self, s: Array) -> Array:
        return self.place("v", self._direction, s) * s
