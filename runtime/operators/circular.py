"""Blurs with a circular border and any kernel, diagonalised by Fourier's transform in real arithmetic."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...engines import Array
from ...engines.array_api import array_namespace
from ...engines.stopping import check
from .base import Decomposable, Shape, reduced
from .kernels import check_fits, kernel_peak, kernel_settings, normalised


class Polar(NamedTuple):
    """A kernel's transform: singular values (1, 1, h, w), cosines and sines (1, 1, H, W) of the phases of aliases."""

    s: np.ndarray
    cos: np.ndarray
    sin: np.ndarray


class Circular(Decomposable):
    """y = (h * x)[::scale, ::scale]: circular convolution with any kernel, then one pixel of scale x scale is kept.

    With F the unitary Fourier transform and h^ the kernel's, keeping one pixel of r x r folds r^2 frequencies
    ("aliases") into one: y^_k = 1/r sum_j h^_j x^_j. So A A^T is diagonal in Fourier's basis, with
    s_k^2 = 1/r^2 sum_j |h^_j|^2.

    Real coefficients come from Hartley's transform, cas = Re F - Im F, which is real, orthonormal and its own inverse.
    There h^ = a + ib rotates and scales each pair (k, -k): (h * x)_k = a_k x_k - b_k x_-k. U is cas of the measurement.
    V^T is cas of the image, rotated by the phases of h^ and folded. Spectra have np.fft.fftn's order of frequencies,
    and are the same in every channel.

    `kernel` (height, width) is normalised to sum to 1; its middle pixel is (height // 2, width // 2). Raises
    InputError where it is larger than the image, or `scale` does not divide the sides.
    """

    def __init__(self, image_shape: Shape, kernel: np.ndarray, scale: int = 1):
        super().__init__(image_shape, image_shape if scale == 1 else reduced(image_shape, scale))
        self.name = "deblur" if scale == 1 else "sr"
        self.kernel, self.scale = normalised(kernel), scale
        self.peak = kernel_peak(self.kernel)
        check_fits(self.kernel, image_shape)

    @cached_property
    def _polar(self) -> Polar:
        transfer, scale = np.fft.fft2(self._centred())[None, None], self.scale
        conjugate = np.conj(np.asarray(opposite(transfer, (2, 3))))
        transfer = (transfer + conjugate) / 2  # exactly symmetric, so that V is orthonormal despite rounding
        lengths = np.sqrt(np.asarray(self._fold(np.abs(transfer) ** 2)))
        s = lengths / scale
        lengths = np.tile(lengths, (1, 1, scale, scale))
        seen = lengths > 1e-100  # where h^ is 0, take any unit vector with the symmetry of a real image
        turned = np.where(seen, transfer, 1 / scale) / np.where(seen, lengths, 1)
        return Polar(s, turned.real.copy(), turned.imag.copy())

    def _centred(self) -> np.ndarray:
        """Return the kernel as (H, W), with its middle at (0, 0)."""
        (_, height, width), (rows, columns) = self.image_shape, self.kernel.shape
        placed = np.zeros((height, width))
        placed[:rows, :columns] = self.kernel
        return np.roll(placed, (-(rows // 2), -(columns // 2)), axis=(0, 1))

    def prepare(self) -> None:
        _ = self._polar

    def A(self, x: Array) -> Array:
        f = _half(x)
        blurred = _whole(self.place("transfer", lambda: np.fft.rfft2(self._centred()), f) * f, self.image_shape)
        return blurred[:, :, :: self.scale, :: self.scale]

    def AT(self, y: Array) -> Array:
        xp = array_namespace(y)
        if self.scale > 1:
            spread = xp.zeros((y.shape[0], *self.image_shape), dtype=y.dtype, device=y.device)
            spread[:, :, :: self.scale, :: self.scale] = y
            y = spread
        f = _half(y)
        return _whole(xp.conj(self.place("transfer", lambda: np.fft.rfft2(self._centred()), f)) * f, self.image_shape)

    @property
    def settings(self) -> dict[str, Any]:
        scale = {} if self.scale == 1 else {"scale": self.scale}
        return {**scale, **kernel_settings(self.kernel, "circular")}

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self._polar.s, like)

    def Vt(self, x: Array) -> Array:
        c, (_, cos, sin) = hartley(x, (2, 3)), self._polar
        return self._fold(self.place("cos", cos, x) * c - self.place("sin", sin, x) * opposite(c, (2, 3)))

    def V(self, s: Array) -> Array:
        xp, (_, cos, sin) = array_namespace(s), self._polar
        s = xp.tile(s, (1, 1, self.scale, self.scale))
        return hartley(self.place("cos", cos, s) * s + self.place("sin", sin, s) * opposite(s, (2, 3)), (2, 3))

    def Ut(self, y: Array) -> Array:
        return hartley(y, (2, 3))

    def U(self, s: Array) -> Array:
        return hartley(s, (2, 3))

    def weighed(self, r: Array, weights: Array) -> Array:
        """Override the base: `weights` are even in the frequency, so that half of the frequencies suffice."""
        return _whole(weights[..., : r.shape[3] // 2 + 1] * _half(r), self.measurement_shape)

    def _fold(self, c: Array) -> Array:
        """Sum over the aliases of each frequency of the measurement."""
        xp, (_, height, width) = array_namespace(c), self.measurement_shape
        if self.scale == 1:
            return c
        aliases = xp.reshape(c, (c.shape[0], c.shape[1], self.scale, height, self.scale, width))
        return xp.sum(aliases, axis=(2, 4))


class Tapered(Circular):
    """`Circular` for a photograph of a larger scene, whose opposite edges `taper` blends first.

    Without a jump at the border the restoration does not ring there. It is an approximation, at any size and with any
    kernel; `valid_blur` is exact where it can be used.
    """

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        super().__init__(image_shape, kernel)

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "taper")

    def taper(self, y: np.ndarray) -> np.ndarray:
        """Blend the edges of a photograph (C, H, W) with those opposite: twice, w y + (1 - w) (h * y).

        w is 1 inside and falls to 0 at the border as 1 minus the kernel's autocorrelation, along rows and columns. The
        second pass removes most of the jump that the first leaves.
        """
        rows, columns = (_inwards(self.kernel.sum(axis=axis), y.shape[2 - axis]) for axis in (1, 0))
        weight = np.outer(rows, columns).astype(y.dtype)
        for _ in range(2):
            y = weight * y + (1 - weight) * self.A(y[None])[0]
        return y


def _inwards(taps: np.ndarray, n: int) -> np.ndarray:
    """Return (n,): 1 minus the autocorrelation of `taps` around the border; ones for a single tap."""
    if len(taps) == 1:
        return np.ones(n)
    falls = np.correlate(taps, taps, "full")[len(taps) - 1 :]
    distance = np.minimum(np.arange(n), n - np.arange(n))
    return 1 - np.asarray(np.interp(distance, np.arange(len(taps)), falls / falls[0], right=0))


def hartley(x: Array, axes: tuple[int, ...]) -> Array:
    """Return Hartley's transform over `axes`, Re F x - Im F x with F unitary: real, orthonormal, its own inverse."""
    check()
    xp = array_namespace(x)
    f = xp.fft.fftn(x, axes=axes, norm="ortho")
    check()
    return xp.real(f) - xp.imag(f)


def _half(x: Array) -> Array:
    """Return the Fourier transform of real x over the last two axes: the half that determines the rest; complex."""
    check()
    half: Array = array_namespace(x).fft.rfftn(x, axes=(2, 3))
    return half


def _whole(f: Array, shape: Shape) -> Array:
    """Invert `_half`: return a real array whose last two axes have the sides of `shape`."""
    check()
    whole: Array = array_namespace(f).fft.irfftn(f, s=shape[1:], axes=(2, 3))
    return whole


def opposite(c: Array, axes: tuple[int, ...]) -> Array:
    """Replace the coefficient of each frequency k by that of -k, along `axes`."""
    check()
    xp = array_namespace(c)
    return xp.roll(xp.flip(c, axis=axes), (1,) * len(axes), axis=axes)
