"""Masks of missing pixels, and the operators with missing pixels."""

import hashlib
from typing import Any

import numpy as np

from ...engines import Array, InputError
from .base import Decomposable, Shape
from .pixelwise import Denoise


class Masked(Decomposable):
    """y = M A x: M, applied after `inner`'s A, sets missing pixels of the measurement to 0.

    `inner`'s A A^T must be diagonal, as for noise, block means and grey. `missing` is (h, w) bool, True where the pixel
    is lost. Raises InputError for a mask of another size or without a known pixel, and where A A^T is not diagonal.
    """

    def __init__(self, inner: Decomposable, missing: np.ndarray):
        super().__init__(inner.image_shape, inner.measurement_shape)
        if type(inner).U is not Decomposable.U:
            raise InputError(f"a mask after {inner.name} of this kind has no closed form; take MaskedMatrix")
        missing = check_mask(missing, inner.measurement_shape)
        self.name, self.peak = inner.name, inner.peak
        self.inner = inner
        self.missing: np.ndarray = missing

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.inner.settings, **mask_settings(self.missing)}

    @property
    def measured(self) -> int:
        return self.measurement_shape[0] * int((~self.missing).sum())

    def observed(self, y: np.ndarray) -> np.ndarray:
        return np.where(self.missing, np.zeros_like(y), y)

    def spectrum(self, like: Array) -> Array:
        return self.place("known", lambda: 1.0 - self.missing[None, None], like) * self.inner.spectrum(like)

    def Vt(self, x: Array) -> Array:
        return self.inner.Vt(x)

    def V(self, s: Array) -> Array:
        return self.inner.V(s)


class Inpaint(Masked):
    """A mask: a measurement is an image that is 0 where a pixel is missing.

    `missing` is (H, W) bool, True where the pixel is lost. In outpainting the border is missing.
    """

    def __init__(self, image_shape: Shape, missing: np.ndarray):
        super().__init__(Denoise(image_shape), missing)
        self.name = "inpaint"


def check_mask(missing: np.ndarray, measurement_shape: Shape) -> np.ndarray:
    """Return `missing` as bool.

    Raises InputError where it has another size than the measurement, leaves no pixel, or has values between 0 and 1:
    the caller must choose the threshold of an array (a mask picture's is a half).
    """
    missing, (_, height, width) = np.asarray(missing), measurement_shape
    if missing.shape != (height, width):
        raise InputError(f"the mask is {'x'.join(map(str, missing.shape[::-1]))} but the image is {width}x{height}")
    if missing.dtype != bool:
        if not np.isin(missing, (0, 1)).all():
            raise InputError(
                "a mask is True, or 1, where a pixel is missing, and False, or 0, elsewhere; cut: mask > 0.5"
            )
        missing = missing.astype(bool)
    if missing.all():
        raise InputError("every pixel is marked missing; white (or transparent) marks what is to be filled in")
    return missing


def mask_settings(missing: np.ndarray) -> dict[str, Any]:
    """Return the settings that distinguish masks: the number of missing pixels, and the mask's SHA-256."""
    return {"missing": int(missing.sum()), "mask_sha256": hashlib.sha256(missing.tobytes()).hexdigest()}


def box_mask(shape: Shape, width: int, height: int) -> np.ndarray:
    """Return (H, W) bool, True in a centred box. Raises InputError if the box is not smaller than the image."""
    _, h, w = shape
    if width > w or height > h or (width, height) == (w, h):
        raise InputError(f"a box of {width}x{height} does not leave anything of an image of {w}x{h}")
    mask = np.zeros((h, w), bool)
    top, left = (h - height) // 2, (w - width) // 2
    mask[top : top + height, left : left + width] = True
    return mask


def border_mask(shape: Shape, width: int, height: int) -> np.ndarray:
    """Return (H, W) bool, True outside a centred box. Raises InputError if the box is not smaller than the image."""
    return ~box_mask(shape, width, height)
