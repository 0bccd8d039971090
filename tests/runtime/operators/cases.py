"""Every operator at a small size, and its dense matrix."""

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace

from frugal_rt import operators
from frugal_rt.runtime.operators import Decomposable, Partial, Shape
from frugal_rt.runtime.operators.jpeg import Component, unit_size
from frugal_rt.runtime.operators.kernels import valid_part


def spots(shape: Shape) -> np.ndarray:
    return np.random.default_rng(3).random(shape[1:]) < 0.4


def lopsided(seed: int = 5) -> np.ndarray:
    """A kernel without any symmetry, of one even side."""
    return np.random.default_rng(seed).random((3, 4)) ** 3


def cut_gaussian(*numbers: float) -> np.ndarray:
    """The middle, 3 high and 7 wide at most, of a Gaussian kernel."""
    kernel = operators.gaussian_kernel(*numbers)
    top, left = max(0, kernel.shape[0] // 2 - 1), max(0, kernel.shape[1] // 2 - 3)
    return kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]


def masked(operator: Decomposable) -> Decomposable:
    return operators.Masked(operator, spots(operator.measurement_shape))


def masked_matrix(shape: Shape, inner: Decomposable) -> Decomposable:
    return operators.MaskedMatrix(shape, inner, spots(inner.measurement_shape))


def dyadic(shape: Shape) -> Shape:
    """The largest shape within `shape` whose sides are powers of two."""
    return shape[0], *(1 << side.bit_length() - 1 for side in shape[1:])


def random_rows(columns: int, rows: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)) / columns**0.5


def jpeg(shape: Shape, *sampling: tuple[int, int], colour: str = "ycbcr") -> operators.Jpeg:
    """A JPEG of the fewest whole units that hold `shape`, with tables of no symmetry."""
    tables = np.random.default_rng(11).integers(2, 40, (len(sampling), 8, 8))
    components = [Component(*factors, table) for factors, table in zip(sampling, tables, strict=True)]
    height, width = unit_size(components)
    whole = -(-shape[1] // height) * height, -(-shape[2] // width) * width
    return operators.Jpeg((len(sampling), *whole), components, colour)


BUILDERS: dict[str, Callable[[Shape], Decomposable]] = {
    "denoise": operators.Denoise,
    "inpaint": lambda s: operators.Inpaint(s, spots(s)),
    "sr2, masked": lambda s: masked(operators.SuperResolution(s, 2)),
    "grey, masked": lambda s: masked(operators.Colorize(s)),
    "sensing": lambda s: operators.WalshHadamard(dyadic(s), 0.3),
    "sensing all": lambda s: operators.WalshHadamard(dyadic(s), 1, seed=4),
    "sr2": lambda s: operators.SuperResolution(s, 2),
    "sr4": lambda s: operators.SuperResolution(s, 4),
    "bicubic2": lambda s: operators.Bicubic(s, 2),
    "bicubic4": lambda s: operators.Bicubic(s, 4),
    "grey mean": lambda s: operators.Colorize(s, "mean"),
    "grey rec601": lambda s: operators.Colorize(s, "rec601"),
    "gaussian": lambda s: operators.Deblur.gaussian(s, 0.8),
    "wide gaussian": lambda s: operators.Deblur.gaussian(s, 2.5),
    "uniform": lambda s: operators.Deblur.uniform(s, 3),
    "kernel": lambda s: operators.Circular(s, lopsided()),
    "motion": lambda s: operators.Circular(s, operators.motion_kernel(3, 30)),
    "uniform circular": lambda s: operators.Circular(s, np.ones((1, 4))),
    "anisotropic": lambda s: operators.Circular(s, cut_gaussian(0.8, 0.4, 30)),
    "mirrored": lambda s: operators.Mirrored(s, cut_gaussian(0.9, 0.5)),
    "mirrored, of both signs": lambda s: operators.Mirrored(s, np.array([[2, 1, 2]])),
    "mirrored, longer than the image": lambda s: operators.Deblur(s, np.cos(np.arange(-18, 19) / 6) ** 4 + 0.02),
    "kernel, then 1 of 2x2": lambda s: operators.Circular(s, lopsided(), 2),
    "kernel, then 1 of 4x4": lambda s: operators.Circular(s, cut_gaussian(0.9), 4),
    "matrix": lambda s: operators.Matrix(s, random_rows(3 * s[1] * s[2], 20)),
    "matrix of a channel": lambda s: operators.Matrix(s, random_rows(s[1] * s[2], 20)),
    "tall matrix": lambda s: operators.Matrix(s, random_rows(s[1] * s[2], s[1] * s[2] + 9)),
    "matrix of low rank": lambda s: operators.Matrix(s, random_rows(5, 12) @ random_rows(s[1] * s[2], 5)),
    "valid": lambda s: operators.valid_blur(s, lopsided()),
    "valid separable": lambda s: operators.valid_blur(s, cut_gaussian(0.6)),
    "blur, masked": lambda s: operators.MaskedMatrix(s, operators.Circular((1, *s[1:]), lopsided()), spots(s)),
    "bicubic, masked": lambda s: masked_matrix(s, operators.Bicubic((1, *s[1:]), 2)),
    "jpeg 4:4:4": lambda s: jpeg(s, (1, 1), (1, 1), (1, 1)),
    "jpeg 4:2:0": lambda s: jpeg(s, (2, 2), (1, 1), (1, 1)),
    "jpeg 4:2:2": lambda s: jpeg(s, (2, 1), (1, 1), (1, 1)),
    "jpeg 4:4:0": lambda s: jpeg(s, (1, 2), (1, 1), (1, 1)),
    "jpeg of RGB": lambda s: jpeg(s, (1, 1), (1, 1), (1, 1), colour="plain"),
    "jpeg, grey": lambda s: jpeg(s, (1, 1), colour="plain"),
    "separable": lambda s: operators.Separable(
        s, np.random.default_rng(1).normal(size=(s[1] // 2, s[1])), np.random.default_rng(2).normal(size=(s[2], s[2]))
    ),
}


def inside(shape: Shape, missing: bool = False) -> Partial:
    part = valid_part(lopsided(), shape)
    blur = Partial(operators.Circular(shape, lopsided()), part)
    return Partial(blur.inner, part, spots(blur.measurement_shape)) if missing else blur


class Neighbours(operators.Iterative):
    """A linear operator with A and A^T alone: the sum of two neighbouring pixels."""

    name = "neighbours"

    def __init__(self, image_shape: Shape):
        super().__init__(image_shape, (*image_shape[:2], image_shape[2] - 1))

    def A(self, x):
        return x[:, :, :, 1:] + x[:, :, :, :-1]

    def AT(self, y):
        xp = array_namespace(y)
        end = xp.zeros_like(y[:, :, :, :1])
        return xp.concat([end, y], axis=3) + xp.concat([y, end], axis=3)


ITERATIVE: dict[str, Callable[[Shape], operators.Iterative]] = {
    "neighbours": Neighbours,
    "part of a blur": inside,
    "part of a blur, masked": lambda s: inside(s, missing=True),
    "circular, masked": lambda s: Partial(operators.Circular(s, lopsided()), missing=spots(s)),
    "mirrored, masked": lambda s: Partial(operators.Deblur.gaussian(s, 0.8), missing=spots(s)),
    "bicubic, masked by parts": lambda s: Partial(operators.Bicubic(s, 2), missing=spots((3, s[1] // 2, s[2] // 2))),
    "bicubic by blocks": lambda s: operators.BicubicBlocks(s, 2),
    "bicubic by blocks, masked": lambda s: Partial(
        operators.BicubicBlocks(s, 2), missing=spots((3, s[1] // 2, s[2] // 2))
    ),
}
"""Operators without an SVD, whose iterations converge at this size."""


def dense(operator: Decomposable) -> np.ndarray:
    """A as a matrix, column by column from its definition."""
    size = int(np.prod(operator.image_shape))
    return operator.A(np.eye(size).reshape(size, *operator.image_shape)).reshape(size, -1).T


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)
