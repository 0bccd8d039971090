"""Degradations y = A(x) + sigma n. Linear ones through their singular value decomposition A = U S V^T, never a dense A.

An operator acts on a batch of images (B, C, H, W) and gives measurements (B, c, h, w). Coefficients (of `Vt`, `Ut`
and the spectrum) are arrays of the measurement's shape: U is square and orthonormal, V has orthonormal columns, and
singular values of zero mark what A does not see. Everything is numpy or torch, whatever `x` is.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..engines import Array, InputError

Shape = tuple[int, int, int]

GREY_WEIGHTS = {
    "mean": (1 / 3, 1 / 3, 1 / 3),
    "rec601": (0.299, 0.587, 0.114),
    "rec709": (0.2126, 0.7152, 0.0722),
}
"""Weights of R, G, B: the papers' mean, PIL's mode L (ITU-R 601-2), and sRGB's luminance."""


class Operator(ABC):
    """A degradation of images of one shape: what it does, and its vector-Jacobian product. Enough for DPS."""

    name: str
    image_shape: Shape
    """(C, H, W)."""
    measurement_shape: Shape

    def __init__(self, image_shape: Shape, measurement_shape: Shape):
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape

    @abstractmethod
    def A(self, x: Array) -> Array:
        """The measurement of an image, without noise: (B, C, H, W) -> (B, c, h, w)."""

    @abstractmethod
    def vjp(self, x: Array, r: Array) -> Array:
        """The transposed Jacobian of A at x, (B, C, H, W), times r, (B, c, h, w): (B, C, H, W)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this operator from others of its class, in JSON's types."""
        return {}

    @property
    def measured(self) -> int:
        """How many values a measurement holds that are not known beforehand."""
        return math.prod(self.measurement_shape)

    def observed(self, y: np.ndarray) -> np.ndarray:
        """`y` with what A cannot see set to 0, so that a caller may leave anything there, NaN included."""
        return y


class Custom(Operator):
    """Any degradation, linear or not, given as functions of a batch: for DPS to the end, as DMPS needs an SVD.

    `apply` (B, C, H, W) -> (B, c, h, w) is A, `vjp(x, r)` its transposed Jacobian at x times r. Both get and give
    arrays of the engine's kind: numpy for onnxruntime, torch tensors for torch.
    """

    def __init__(
        self,
        image_shape: Shape,
        measurement_shape: Shape,
        apply: Callable[[Array], Array],
        vjp: Callable[[Array, Array], Array],
        name: str = "custom",
    ):
        super().__init__(image_shape, measurement_shape)
        self.name = name
        self._apply = apply
        self._vjp = vjp

    @classmethod
    def from_torch(
        cls, image_shape: Shape, measurement_shape: Shape, function: Callable[[Any], Any], name: str = "custom"
    ) -> "Custom":
        """The degradation that a torch function computes, its vector-Jacobian product by autograd.

        Works with every engine: arrays of other kinds are taken to torch and back.
        """
        from ..engines.network import import_torch

        torch = import_torch("An operator from a torch function")

        def like(tensor: Any, given: Array) -> Array:
            return tensor.numpy().astype(given.dtype) if isinstance(given, np.ndarray) else tensor

        def apply(x: Array) -> Array:
            with torch.no_grad():
                return like(function(torch.as_tensor(x)), x)

        def vjp(x: Array, r: Array) -> Array:
            with torch.enable_grad():
                leaf = torch.as_tensor(x).detach().clone().requires_grad_()
                (gradient,) = torch.autograd.grad(function(leaf), leaf, torch.as_tensor(r))
            return like(gradient, x)

        return cls(image_shape, measurement_shape, apply, vjp, name)

    def A(self, x: Array) -> Array:
        return self._apply(x)

    def vjp(self, x: Array, r: Array) -> Array:
        return self._vjp(x, r)


class Linear(Operator):
    """A linear degradation.

    A subclass sets `image_shape`, `measurement_shape` (C, H, W) and `name`, and gives the four bases and the
    singular values; it may give A and A^T a shorter way.
    """

    def __init__(self, image_shape: Shape, measurement_shape: Shape):
        super().__init__(image_shape, measurement_shape)
        self._placed: dict[Any, Array] = {}

    @abstractmethod
    def spectrum(self, like: Array) -> Array:
        """The singular values, broadcastable to coefficients (B, c, h, w), placed as `like` is."""

    @abstractmethod
    def Vt(self, x: Array) -> Array:
        """Coefficients of an image in the right singular vectors: (B, C, H, W) -> (B, c, h, w)."""

    @abstractmethod
    def V(self, s: Array) -> Array:
        """The image with coefficients `s`: (B, c, h, w) -> (B, C, H, W)."""

    def Ut(self, y: Array) -> Array:
        """Coefficients of a measurement in the left singular vectors. The identity unless overridden."""
        return y

    def U(self, s: Array) -> Array:
        """The measurement with coefficients `s`. The identity unless overridden."""
        return s

    def A(self, x: Array) -> Array:
        """The measurement of an image, without noise: (B, C, H, W) -> (B, c, h, w)."""
        return self.U(self.spectrum(x) * self.Vt(x))

    def AT(self, y: Array) -> Array:
        """The adjoint: (B, c, h, w) -> (B, C, H, W)."""
        return self.V(self.spectrum(y) * self.Ut(y))

    def vjp(self, x: Array, r: Array) -> Array:
        return self.AT(r)

    def resolvent(self, r: Array, sigma: Any, scale: Any) -> Array:
        """(sigma^2 I + scale A A^T)^{-1} r, its pseudo-inverse where that is singular. Shapes of a measurement.

        `sigma` and `scale` are numbers or (B, 1, 1, 1).
        """
        return self.U(self.Ut(r) * _reciprocal(sigma**2 + scale * self.spectrum(r) ** 2 + 0 * r))

    @staticmethod
    def filter(sigma: Any, scale: Any, s: Array) -> Array:
        """s / (sigma^2 + scale s^2), 0 where s = 0: A^T times the resolvent, in coefficients."""
        return s * _reciprocal(sigma**2 + scale * s**2)

    def _place(self, key: str, array: np.ndarray, like: Array) -> Array:
        """`array` in the namespace, type and device of `like`; made once for each."""
        where = (key, type(like), like.dtype, str(like.device))
        if where not in self._placed:
            xp = array_namespace(like)
            self._placed[where] = xp.asarray(array, dtype=like.dtype, device=like.device)
        return self._placed[where]


def _reciprocal(denominator: Array) -> Array:
    """1 / denominator, 0 where it is 0."""
    xp = array_namespace(denominator)
    positive = denominator > 0
    return xp.astype(positive, denominator.dtype) / xp.where(positive, denominator, xp.ones_like(denominator))


class Denoise(Linear):
    """A = I: only noise was added."""

    name = "denoise"

    def __init__(self, image_shape: Shape):
        super().__init__(image_shape, image_shape)

    def spectrum(self, like: Array) -> Array:
        return self._place("s", np.ones((1, 1, 1, 1)), like)

    def Vt(self, x: Array) -> Array:
        return x

    def V(self, s: Array) -> Array:
        return s


class Inpaint(Linear):
    """Pixels are missing: A is a mask, and a measurement is an image that is 0 where a pixel is missing.

    `missing` is (H, W) bool, True where the pixel is lost. Outpainting is the same with a border missing.
    """

    name = "inpaint"

    def __init__(self, image_shape: Shape, missing: np.ndarray):
        super().__init__(image_shape, image_shape)
        missing = np.asarray(missing, bool)
        if missing.shape != image_shape[1:]:
            raise InputError(
                f"the mask is {missing.shape[1]}x{missing.shape[0]} but the image is {image_shape[2]}x{image_shape[1]}"
            )
        if missing.all():
            raise InputError("every pixel is marked missing; white (or transparent) marks what is to be filled in")
        self.missing = missing
        self._known = 1.0 - missing[None, None]

    @property
    def settings(self) -> dict[str, Any]:
        return {"missing": int(self.missing.sum()), "mask_sha256": hashlib.sha256(self.missing.tobytes()).hexdigest()}

    @property
    def measured(self) -> int:
        return self.image_shape[0] * int((~self.missing).sum())

    def observed(self, y: np.ndarray) -> np.ndarray:
        return np.where(self.missing, np.zeros_like(y), y)

    def spectrum(self, like: Array) -> Array:
        return self._place("s", self._known, like)

    def Vt(self, x: Array) -> Array:
        return x

    def V(self, s: Array) -> Array:
        return s


class SuperResolution(Linear):
    """Lost resolution: the mean over scale x scale blocks. A A^T = I / scale^2: every singular value is 1 / scale."""

    name = "sr"

    def __init__(self, image_shape: Shape, scale: int):
        channels, height, width = image_shape
        if scale < 2 or height % scale or width % scale:
            raise InputError(
                f"x{scale} does not divide {width}x{height}; choose a whole factor of both sides, 2 or more"
            )
        super().__init__(image_shape, (channels, height // scale, width // scale))
        self.scale = scale

    @property
    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def spectrum(self, like: Array) -> Array:
        return self._place("s", np.full((1, 1, 1, 1), 1 / self.scale), like)

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
        return self._place("s", np.full((1, 1, 1, 1), self._norm), like)

    def Vt(self, x: Array) -> Array:
        xp = array_namespace(x)
        return xp.sum(self._place("v", self._direction, x) * x, axis=1, keepdims=True)

    def V(self, s: Array) -> Array:
        return self._place("v", self._direction, s) * s


class Separable(Linear):
    """A x = L x R^T on every channel: blurs whose kernel is an outer product, at any size.

    `rows` is L (h, H), `columns` is R (w, W), with h <= H and w <= W. Their SVDs are taken once; then
    U = U_L x U_R, V = V_L x V_R and the singular values are the products s_L s_R.
    """

    name = "separable"

    def __init__(self, image_shape: Shape, rows: np.ndarray, columns: np.ndarray):
        channels, height, width = image_shape
        if rows.shape[1] != height or columns.shape[1] != width:
            raise InputError(f"L is {rows.shape} and R is {columns.shape}; neither fits an image of {width}x{height}")
        super().__init__(image_shape, (channels, rows.shape[0], columns.shape[0]))
        self._L, self._R = rows, columns
        self._UL, sl, self._VLt = np.linalg.svd(rows, full_matrices=False)
        self._UR, sr, self._VRt = np.linalg.svd(columns, full_matrices=False)
        self._s = np.outer(sl, sr)[None, None]

    def spectrum(self, like: Array) -> Array:
        # What the type cannot tell from 0 is 0, or sigma = 0 would divide by it.
        least = self._s.max() * max(self.image_shape) * array_namespace(like).finfo(like.dtype).eps
        return self._place("s", np.where(self._s < least, 0, self._s), like)

    def A(self, x: Array) -> Array:
        return self._sandwich("A", self._L, x, self._R)

    def AT(self, y: Array) -> Array:
        return self._sandwich("AT", self._L.T, y, self._R.T)

    def Vt(self, x: Array) -> Array:
        return self._sandwich("Vt", self._VLt, x, self._VRt)

    def V(self, s: Array) -> Array:
        return self._sandwich("V", self._VLt.T, s, self._VRt.T)

    def Ut(self, y: Array) -> Array:
        return self._sandwich("Ut", self._UL.T, y, self._UR.T)

    def U(self, s: Array) -> Array:
        return self._sandwich("U", self._UL, s, self._UR)

    def _sandwich(self, key: str, left: np.ndarray, x: Array, right: np.ndarray) -> Array:
        return self._place(f"{key} left", left, x) @ x @ self._place(f"{key} right", right.T, x)


class Deblur(Separable):
    """A symmetric separable blur whose border repeats the image mirrored (d c b a | a b c d | d c b a).

    `taps` are the kernel's one-dimensional weights, odd in number; they are normalised to sum to 1.
    """

    name = "deblur"

    def __init__(self, image_shape: Shape, taps: np.ndarray):
        taps = np.asarray(taps, np.float64)
        self.taps = taps / taps.sum()
        super().__init__(image_shape, _mirrored(self.taps, image_shape[1]), _mirrored(self.taps, image_shape[2]))

    @property
    def settings(self) -> dict[str, Any]:
        return {"taps": self.taps.tolist()}

    @classmethod
    def gaussian(cls, image_shape: Shape, std: float) -> "Deblur":
        """A Gaussian of standard deviation `std` pixels, cut at 4 std."""
        if not 0 < std <= max(image_shape[1:]):
            raise InputError(f"a Gaussian kernel needs a standard deviation in pixels above 0; got {std}")
        radius = max(1, math.ceil(4 * std))
        return cls(image_shape, np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * std**2)))

    @classmethod
    def uniform(cls, image_shape: Shape, size: int) -> "Deblur":
        """The mean over size x size pixels; `size` is odd."""
        if size < 3 or size % 2 == 0 or size > max(image_shape[1:]):
            raise InputError(f"a uniform kernel needs an odd size from 3 up to the image's side; got {size}")
        return cls(image_shape, np.ones(size))


def _mirrored(taps: np.ndarray, n: int) -> np.ndarray:
    """The (n, n) matrix of a convolution with `taps` over a mirrored border."""
    radius = len(taps) // 2
    matrix = np.zeros((n, n))
    for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
        source = (np.arange(n) + offset) % (2 * n)
        matrix[np.arange(n), np.where(source < n, source, 2 * n - 1 - source)] += tap
    return matrix
