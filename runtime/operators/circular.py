"""Blurs with any kernel that Fourier diagonalises, in real arithmetic: on a torus, and over a mirrored border."""

from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import array_namespace
from .base import Linear, Shape, reduced
from .kernels import check_fits, kernel_settings, normalised


class Circular(Linear):
    """y = (h * x)[::scale, ::scale]: any kernel, the image wrapping around; then one pixel of scale x scale is kept.

    With F the unitary Fourier transform and h^ the kernel's, keeping one pixel of r x r folds r^2 frequencies
    ("aliases") into one: y^_k = 1/r sum_j h^_j x^_j. So A A^T is diagonal in Fourier's basis, with
    s_k^2 = 1/r^2 sum_j |h^_j|^2.

    Real coefficients come from Hartley's transform, cas = Re F - Im F, which is real, orthonormal and its own inverse.
    In it h^ = a + ib acts on the pair (k, -k) as a rotation and a length: (h * x)_k = a_k x_k - b_k x_-k. U is
    cas of the measurement; V^T is cas of the image, turned by the phases of h^ and folded. Spectra are ordered as
    np.fft.fftn orders frequencies, the same in every channel.

    `kernel` (height, width) is normalised to sum to 1; its middle pixel is (height // 2, width // 2). Raises
    InputError where it is larger than the image, or `scale` does not divide the sides.
    """

    def __init__(self, image_shape: Shape, kernel: np.ndarray, scale: int = 1):
        super().__init__(image_shape, image_shape if scale == 1 else reduced(image_shape, scale))
        self.name = "deblur" if scale == 1 else "sr"
        self.kernel, self.scale = normalised(kernel), scale
        check_fits(self.kernel, image_shape)
        _, height, width = image_shape
        placed = np.zeros((height, width))
        placed[: self.kernel.shape[0], : self.kernel.shape[1]] = self.kernel
        transfer = np.fft.fft2(np.roll(placed, [-(n // 2) for n in self.kernel.shape], axis=(0, 1)))[None, None]
        transfer = (
            transfer + np.conj(np.asarray(_opposite(transfer)))
        ) / 2  # so that V is orthonormal whatever was rounded
        lengths = np.sqrt(np.asarray(self._fold(np.abs(transfer) ** 2)))
        self._s = lengths / scale
        lengths = np.tile(lengths, (1, 1, scale, scale))
        seen = lengths > 1e-100  # for the others, any unit vector with the symmetry of a real image
        turned = np.where(seen, transfer, 1 / scale) / np.where(seen, lengths, 1)
        self._cos, self._sin = turned.real, turned.imag

    @property
    def settings(self) -> dict[str, Any]:
        scale = {} if self.scale == 1 else {"scale": self.scale}
        return {**scale, **kernel_settings(self.kernel, "circular")}

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self._s, like)

    def Vt(self, x: Array) -> Array:
        c = _hartley(x)
        return self._fold(self.place("cos", self._cos, x) * c - self.place("sin", self._sin, x) * _opposite(c))

    def V(self, s: Array) -> Array:
        xp = array_namespace(s)
        s = xp.tile(s, (1, 1, self.scale, self.scale))
        return _hartley(self.place("cos", self._cos, s) * s + self.place("sin", self._sin, s) * _opposite(s))

    def Ut(self, y: Array) -> Array:
        return _hartley(y)

    def U(self, s: Array) -> Array:
        return _hartley(s)

    def _fold(self, c: Array) -> Array:
        """The sum over the aliases of each frequency of the measurement."""
        xp, (_, height, width) = array_namespace(c), self.measurement_shape
        if self.scale == 1:
            return c
        aliases = xp.reshape(c, (c.shape[0], c.shape[1], self.scale, height, self.scale, width))
        return xp.sum(aliases, axis=(2, 4))


class Tapered(Circular):
    """`Circular` for a photograph that goes on past its border, once `taper` has blended its edges with its other side.

    So the torus has no seam to ring from: an approximation, at any size and with any kernel. `valid_blur` is exact
    where it can be had.
    """

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        super().__init__(image_shape, kernel)

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "taper")

    def taper(self, y: np.ndarray) -> np.ndarray:
        """A photograph (C, H, W) with edges that wrap: twice, w y + (1 - w) (h * y).

        w is 1 inside and falls to 0 at the border as 1 minus the kernel's autocorrelation, along rows and columns. A
        second time takes away most of what once leaves.
        """
        rows, columns = (_inwards(self.kernel.sum(axis=axis), y.shape[axis - 2]) for axis in (1, 0))
        weight = np.outer(rows, columns).astype(y.dtype)
        for _ in range(2):
            y = weight * y + (1 - weight) * self.A(y[None])[0]
        return y


def _inwards(taps: np.ndarray, n: int) -> np.ndarray:
    """(n,): 1 minus the autocorrelation of `taps`, around a border between the last and the first; 1 for one tap."""
    if len(taps) == 1:
        return np.ones(n)
    falls = np.correlate(taps, taps, "full")[len(taps) - 1 :]
    distance = np.minimum(np.arange(n), n - np.arange(n))
    return 1 - np.asarray(np.interp(distance, np.arange(len(taps)), falls / falls[0], right=0))


def _hartley(x: Array) -> Array:
    """Re F x - Im F x over the last two axes, F unitary: real, orthonormal, its own inverse."""
    xp = array_namespace(x)
    f = xp.fft.fftn(x, axes=(2, 3), norm="ortho")
    return xp.real(f) - xp.imag(f)


def _opposite(c: Array) -> Array:
    """Coefficients of the frequencies -k in place of those of k."""
    xp = array_namespace(c)
    return xp.roll(xp.flip(c, axis=(2, 3)), (1, 1), axis=(2, 3))


class Mirrored(Linear):
    """A blur over a mirrored border (d c b a | a b c d | d c b a), its kernel its own mirror image both ways.

    The discrete cosine transform (type II) diagonalises it: an eigenvalue is
    sum_ij h_ij cos(pi k i / H) cos(pi l j / W), its sign goes into U. At its border a real photograph is more like its
    mirror image than like its other side. `kernel` (height, width) is normalised to sum to 1. Raises InputError where
    it is larger than the image or not symmetric.
    """

    name = "deblur"

    def __init__(self, image_shape: Shape, kernel: np.ndarray):
        super().__init__(image_shape, image_shape)
        self.kernel = normalised(kernel)
        check_fits(self.kernel, image_shape)
        if not is_mirrored(self.kernel):
            raise InputError(
                "a mirrored border needs a kernel that is its own mirror image both ways; take border circular or valid"
            )
        (_, height, width), (rows, columns) = image_shape, self.kernel.shape
        self._left, self._right = _cosines(height), _cosines(width)
        along, across = (
            np.cos(np.pi / n * np.outer(np.arange(n), np.arange(size) - size // 2))
            for n, size in ((height, rows), (width, columns))
        )
        eigenvalues = (along @ self.kernel @ across.T)[None, None]
        self._s, self._sign = np.abs(eigenvalues), np.where(eigenvalues < 0, -1.0, 1.0)

    @property
    def settings(self) -> dict[str, Any]:
        return kernel_settings(self.kernel, "mirror")

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self._s, like)

    def Vt(self, x: Array) -> Array:
        return self._sandwich("Vt", self._left, x, self._right)

    def V(self, s: Array) -> Array:
        return self._sandwich("V", self._left.T, s, self._right.T)

    def Ut(self, y: Array) -> Array:
        return self.place("sign", self._sign, y) * self.Vt(y)

    def U(self, s: Array) -> Array:
        return self.V(self.place("sign", self._sign, s) * s)


def is_mirrored(kernel: np.ndarray) -> bool:
    """Whether `kernel`, of odd sides, is its own mirror image in both directions, up to rounding."""
    odd = kernel.shape[0] % 2 == 1 and kernel.shape[1] % 2 == 1
    flips = (kernel[::-1], kernel[:, ::-1])
    return odd and all(np.abs(kernel - flipped).max() < 1e-6 * np.abs(kernel).max() for flipped in flips)


def _cosines(n: int) -> np.ndarray:
    """(n, n): the orthonormal discrete cosine transform of type II, a row each frequency."""
    basis: np.ndarray = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)) * np.sqrt(2 / n)
    basis[0] /= np.sqrt(2)
    return basis
