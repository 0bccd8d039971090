"""Degradations y = A(x) + sigma n. Linear ones through their singular value decomposition A = U S V^T, never a dense A.

An operator maps an image (C, H, W) to a measurement (c, h, w), or a batch (B, C, H, W) to (B, c, h, w). Its methods are
written for batches; `Operator` lets those of OF_ARRAYS take single arrays too. Coefficients (of `Vt`, `Ut` and the
spectrum) have the measurement's shape. U is square and orthonormal. V has orthonormal columns, or columns of zeros
where there are more measured values than pixels. A singular value of zero marks a direction that A does not see. Arrays
are numpy's or torch's, like `x`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property, wraps
from typing import Any

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import array_namespace
from ...engines.stopping import check

Shape = tuple[int, int, int]
"""Channels, height, width."""
SPREAD = 3.0
"""The variance of x0hat's error that `Linear.mean` assumes, divided by the variance (1 - abar) / abar of x_t's noise
beside its signal. The network's errors concentrate where y lost information, so y deserves more weight (Zhang et al.,
2021, take 4.3). Chosen on tune-20 (docs/method.md)."""
OF_ARRAYS = ("A", "vjp", "AT", "resolvent", "gram", "precondition", "Vt", "V", "Ut", "U")
"""Methods whose first argument (of vjp both) is an image, a measurement or coefficients, single or in a batch."""


def _alone_too(method: Callable[..., Array]) -> Callable[..., Array]:
    """Let a method of batches (B, c, h, w) take single arrays (c, h, w) too, and return a single array for them.

    It raises Stopped where the thread's work was asked to stop, so that iterations and rounds of operators end there.
    """

    @wraps(method)
    def either(self: Any, array: Array, *more: Any, **named: Any) -> Array:
        check()
        if len(array.shape) != 3:
            return method(self, array, *more, **named)
        rows = (one[None] if getattr(one, "ndim", 0) == 3 else one for one in more)
        return method(self, array[None], *rows, **named)[0]

    return either


class Operator(ABC):
    """A degradation A of images of one shape, with its vector-Jacobian product, which is enough for DPS.

    >>> from frugal_rt import operators
    >>> halving = operators.SuperResolution((3, 64, 64), 2)
    >>> halving.A(np.zeros((3, 64, 64))).shape, halving.AT(np.zeros((5, 3, 32, 32))).shape
    ((3, 32, 32), (5, 3, 64, 64))
    """

    name: str
    image_shape: Shape
    """(C, H, W)."""
    measurement_shape: Shape
    capturable = False
    """Whether its products and resolvent never synchronise with the host, so that a step with them can be captured."""
    peak: float = math.inf
    """The largest magnitude of a measurement of an image on [-1, 1], where it is a picture; infinite otherwise."""
    missing: np.ndarray | None = None
    """(h, w) bool, True where the measurement lacks a pixel, which is 0 there; None where it lacks none."""

    def __init__(self, image_shape: Shape, measurement_shape: Shape):
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name in OF_ARRAYS:
            if name in vars(cls):
                setattr(cls, name, _alone_too(vars(cls)[name]))
        for one in vars(cls).values():
            if isinstance(one, cached_property) and hasattr(one, "lock"):
                # Before Python 3.12 it makes all operators of the class wait for the one that computes.
                one.lock = nullcontext()

    @abstractmethod
    def A(self, x: Array) -> Array:
        """Return the measurement of an image, without noise: (B, C, H, W) -> (B, c, h, w)."""

    @abstractmethod
    def vjp(self, x: Array, r: Array) -> Array:
        """Return the transposed Jacobian of A at x (B, C, H, W), times r (B, c, h, w): (B, C, H, W)."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that distinguish this operator from others of its class, in JSON's types."""
        return {}

    @property
    def measured(self) -> int:
        """The number of a measurement's values that depend on the image."""
        return math.prod(self.measurement_shape)

    @property
    def unseen(self) -> float:
        """Share, 0..1, by which the measured values are fewer than the image's; 0 where they are as many."""
        return max(0.0, 1 - self.measured / math.prod(self.image_shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that it holds now: given, computed so far, and placed on a device.

        An array under two names is counted once. Arrays inside a caller's own functions are not counted.
        """
        return sum(dict(_arrays(self)).values())

    def prepare(self) -> None:  # noqa: B027
        """Compute decompositions and the like, which take long and which DPS does not need."""

    def observed(self, y: np.ndarray) -> np.ndarray:
        """Return `y` with the values that A does not measure set to 0; a caller may leave anything there, also NaN."""
        return y

    def finished(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return `x` (C, H, W), a restored image on [-1, 1], with the values that y (c, h, w) determines put in."""
        return x


class Custom(Operator):
    """Any degradation, linear or not, given as functions of a batch. DPS takes every step, as DMPS needs an SVD.

    `apply` (B, C, H, W) -> (B, c, h, w) is A, and `vjp(x, r)` its transposed Jacobian at x times r. Both take and
    return arrays of the engine's kind: numpy's for onnxruntime, torch's for torch. A and vjp raise InputError where a
    result has another shape than declared, as broadcasting would turn it into another operator.
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
        """Make an operator of a torch function, with its vector-Jacobian product by autograd.

        It works with every engine: numpy arrays are converted to torch and back.
        """
        from ...engines.extras import import_torch

        torch = import_torch("An operator from a torch function")

        def like(tensor: Any, given: Array) -> Array:
            array: Array = tensor.numpy().astype(given.dtype) if isinstance(given, np.ndarray) else tensor
            return array

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
        return self._of_shape("apply", self._apply(x), (x.shape[0], *self.measurement_shape))

    def vjp(self, x: Array, r: Array) -> Array:
        return self._of_shape("vjp", self._vjp(x, r), tuple(x.shape))

    def _of_shape(self, function: str, given: Array, declared: tuple[int, ...]) -> Array:
        if tuple(given.shape) != declared:
            raise InputError(f"{self.name}: {function} gave {tuple(given.shape)} where {declared} was declared")
        return given


class Linear(Operator):
    """A linear degradation with an adjoint and a resolvent: what every method but DPS needs."""

    def __init__(self, image_shape: Shape, measurement_shape: Shape):
        super().__init__(image_shape, measurement_shape)
        self._placed: dict[Any, Array] = {}

    def __init_subclass__(cls, **more: Any) -> None:
        """Raise TypeError for a subclass with a spectrum and no adjoint: its base is now called Decomposable."""
        super().__init_subclass__(**more)
        if hasattr(cls, "spectrum") and cls.AT is Linear.AT:
            raise TypeError(f"{cls.__name__} has a spectrum, so it is an operators.Decomposable, once called Linear")

    def __getstate__(self) -> dict[str, Any]:
        """Drop cached properties and placed arrays: a copy for another process holds only what was given."""
        held = dict(vars(self))  # another thread may cache a property meanwhile
        computed = {name for name in held if isinstance(getattr(type(self), name, None), cached_property)}
        return {**{name: value for name, value in held.items() if name not in computed}, "_placed": {}}

    @abstractmethod
    def AT(self, y: Array) -> Array:
        """Apply the adjoint: (B, c, h, w) -> (B, C, H, W)."""

    @abstractmethod
    def resolvent(self, r: Array, sigma: Any, scale: Any) -> Array:
        """Return (sigma^2 I + scale A A^T)^{-1} r, by the pseudo-inverse where that is singular; shapes (B, c, h, w).

        `sigma` and `scale` are numbers or (B, 1, 1, 1).
        """

    def vjp(self, x: Array, r: Array) -> Array:
        return self.AT(r)

    def mean(self, y: Array, x0hat: Array, sigma: Any, variance: Any) -> Array:
        """Return E[x0 | y], (B, C, H, W), for a prior N(x0hat, v I) and noise N(0, sigma^2 I), v = SPREAD `variance`.

        It is x0hat + A^T (sigma^2 / v + A A^T)^-1 (y - A x0hat). `sigma` and `variance` are numbers or (B, 1, 1, 1).
        """
        variance = SPREAD * variance
        moved: Array = variance * self.AT(self.resolvent(y - self.A(x0hat), sigma, variance))
        return x0hat + moved

    def gram(self, r: Array) -> Array:
        """Return A A^T r, (B, c, h, w)."""
        return self.A(self.AT(r))

    def precondition(self, r: Array, sigma: Any, scale: Any) -> Array:
        """Approximate the resolvent without iterating, by a symmetric positive semidefinite operator."""
        return r

    def place(self, key: str, array: np.ndarray | Callable[[], np.ndarray], like: Array) -> Array:
        """Convert `array` to the library, device and (except whole numbers) type of `like`, once for each.

        `array` may be a function that computes it.
        """
        where = (key, type(like), like.dtype, str(like.device))
        if where not in self._placed:
            array = array if isinstance(array, np.ndarray) else array()
            xp, dtype = array_namespace(like), like.dtype if array.dtype.kind in "fc" else None
            self._placed[where] = xp.asarray(array, dtype=dtype, device=like.device)
        return self._placed[where]


class Decomposable(Linear):
    """A linear degradation with a singular value decomposition.

    A subclass sets `image_shape`, `measurement_shape` and `name`, and implements Vt, V, Ut, U and the singular values.
    It may compute A and A^T in a faster way.
    """

    capturable = True

    @abstractmethod
    def spectrum(self, like: Array) -> Array:
        """Return the singular values, broadcastable to (B, c, h, w), in the library and on the device of `like`."""

    @abstractmethod
    def Vt(self, x: Array) -> Array:
        """Return an image's coefficients in the right singular vectors: (B, C, H, W) -> (B, c, h, w)."""

    @abstractmethod
    def V(self, s: Array) -> Array:
        """Return the image with coefficients `s`: (B, c, h, w) -> (B, C, H, W)."""

    def Ut(self, y: Array) -> Array:
        """Return a measurement's coefficients in the left singular vectors. The identity unless overridden."""
        return y

    def U(self, s: Array) -> Array:
        """Return the measurement with coefficients `s`. The identity unless overridden."""
        return s

    def A(self, x: Array) -> Array:
        """Return the measurement of an image, without noise: (B, C, H, W) -> (B, c, h, w)."""
        return self.U(self.spectrum(x) * self.Vt(x))

    def AT(self, y: Array) -> Array:
        return self.V(self.spectrum(y) * self.Ut(y))

    def gram(self, r: Array) -> Array:
        return self.weighed(r, self.spectrum(r) ** 2)

    def resolvent(self, r: Array, sigma: Any, scale: Any) -> Array:
        return self.weighed(r, reciprocal(sigma**2 + scale * self.spectrum(r) ** 2 + 0 * r))

    def precondition(self, r: Array, sigma: Any, scale: Any) -> Array:
        return self.resolvent(r, sigma, scale)

    def weighed(self, r: Array, weights: Array) -> Array:
        """Return f(A A^T) r = U (f(s^2) * U^T r), (B, c, h, w); `weights` are f(s^2), in the spectrum's order."""
        return self.U(weights * self.Ut(r))

    @staticmethod
    def filter(sigma: Any, scale: Any, s: Array) -> Array:
        """Return s / (sigma^2 + scale s^2), 0 where s = 0: A^T times the resolvent, in coefficients."""
        return s * reciprocal(sigma**2 + scale * s**2)

    def place_spectrum(self, s: np.ndarray, like: Array) -> Array:
        """Place `s`, with values that are 0 up to rounding set to 0, as sigma = 0 would divide by them."""

        def told_apart() -> np.ndarray:
            least = s.max() * max(self.image_shape) * array_namespace(like).finfo(like.dtype).eps
            return np.where(s < least, 0.0, s)

        return self.place("s", told_apart, like)


def reciprocal(denominator: Array) -> Array:
    """Return 1 / denominator, and 0 where that is 0."""
    xp = array_namespace(denominator)
    positive = denominator > 0
    return xp.astype(positive, denominator.dtype) / xp.where(positive, denominator, xp.ones_like(denominator))


def reduced(image_shape: Shape, scale: int) -> Shape:
    """Return the shape of images `scale` times smaller. Raises InputError where it does not divide both sides."""
    channels, height, width = image_shape
    if scale < 2 or height % scale or width % scale:
        raise InputError(f"x{scale} does not divide {width}x{height}; choose a whole factor of both sides, 2 or more")
    return channels, height // scale, width // scale


def _arrays(value: Any) -> Iterator[tuple[int, int]]:
    """Yield the identity and bytes of every array in `value`; a view counts as the whole array that it keeps alive."""
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        yield id(value), value.nbytes
    elif isinstance(value, Operator):
        yield from _arrays(vars(value))
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _arrays(one)
    elif hasattr(value, "nbytes"):  # a tensor
        yield id(value), int(value.nbytes)
