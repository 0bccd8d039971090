"""Operators whose left basis is the measurement itself: noise, masks, block means, grey. No matrix anywhere."""

import hashlib
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ...engines import Array, InputError
from .base import Linear, Shape, reduced

GREY_WEIGHTS = {
    "mean": (1 / 3, 1 / 3, 1 / 3),
    "rec601": (0.299, 0.587, 0.114),
    "rec709": (0.2126, 0.7152, 0.0722),
}
"""Weights of R, G, B: the papers' mean, PIL's mode L (ITU-R 601-2), and sRGB's luminance."""


class Denoise(Linear):
    """A = I: only noise was added."""

    name = "denoise"

    def __init__(self, image_shape: Shape):
        super().__init__(image_shape, image_shape)

    def spectrum(self, like: Array) -> Array:
        return self.place("s", np.ones((1, 1, 1, 1)), like)

    def Vt(self, x: Array) -> Array:
        return x

    def V(self, s: Array) -> Array:
        return s


class Masked(Linear):
    """y = M A x: pixels of `inner`'s measurement are missing, and 0. The mask comes last.

    A A^T stays diagonal where `inner`'s is: for noise, block means and grey. `missing` is (h, w) bool, True where the
    pixel is lost. Raises InputError for a mask of another size or without a known pixel, and where `inner`
    has another left basis than the measurement's own pixels.
    """

    def __init__(self, inner: Linear, missing: np.ndarray):
        super().__init__(inner.image_shape, inner.measurement_shape)
        if type(inner).U is not Linear.U:
            raise InputError(f"a mask after {inner.name} of this kind has no closed form; take MaskedMatrix")
        missing = check_mask(missing, inner.measurement_shape)
        self.name = inner.name
        self.inner = inner
        self.missing: np.ndarray = missing
        self._known = 1.0 - missing[None, None]

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.inner.settings, **mask_settings(self.missing)}

    @property
    def measured(self) -> int:
        return self.measurement_shape[0] * int((~self.missing).sum())

    def observed(self, y: np.ndarray) -> np.ndarray:
        return np.where(self.missing, np.zeros_like(y), y)

    def spectrum(self, like: Array) -> Array:
        return self.place("known", self._known, like) * self.inner.spectrum(like)

    def Vt(self, x: Array) -> Array:
        return self.inner.Vt(x)

    def V(self, s: Array) -> Array:
        return self.inner.V(s)


class Inpaint(Masked):
    """Pixels are missing: A is a mask, and a measurement is an image that is 0 where a pixel is missing.

    `missing` is (H, W) bool, True where the pixel is lost. Outpainting is the same with a border missing.
    """

    def __init__(self, image_shape: Shape, missing: np.ndarray):
        super().__init__(Denoise(image_shape), missing)
        self.name = "inpaint"


def check_mask(missing: np.ndarray, measurement_shape: Shape) -> np.ndarray:
    """`missing` as bool. Raises InputError where it is of another size than the measurement, or leaves nothing."""
    missing, (_, height, width) = np.asarray(missing, bool), measurement_shape
    if missing.shape != (height, width):
        raise InputError(f"the mask is {missing.shape[1]}x{missing.shape[0]} but the image is {width}x{height}")
    if missing.all():
        raise InputError("every pixel is marked missing; white (or transparent) marks what is to be filled in")
    return missing


def mask_settings(missing: np.ndarray) -> dict[str, Any]:
    """What tells a mask from others: how many pixels, and a digest of which."""
    return {"missing": int(missing.sum()), "mask_sha256": hashlib.sha256(missing.tobytes()).hexdigest()}


class SuperResolution(Linear):
    """Lost resolution: the mean over scale x scale blocks. A A^T = I / scale^2: every singular value is 1 / scale."""

    name = "sr"

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


class Colorize(Linear):
    """Lost colour: y = w . (R, G, B). A A^T = |w|^2. `weights` is a name of GREY_WEIGHTS."""

    name = "colorize"

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
