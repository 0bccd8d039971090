"""JPEG: the block cosine transform of every component, in the steps of its quantisation table."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import Namespace, array_namespace
from .base import Decomposable, Linear, Shape
from .dense import Decomposition

SIDE = 8
"""Pixels of a block's side."""
HALF = 127.5
"""Levels of a unit on the [-1, 1] scale: a level is HALF (x + 1)."""
LEVEL_SHIFT = 128.0
"""Subtracted from a level before the transform; chroma has it added before (T.81, A.3.1; JFIF)."""
ROUNDING = 1 / math.sqrt(12)
"""Deviation of a coefficient's rounding, in steps: sigma of a measurement."""
YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735891647856, -0.331264108352144, 0.5],
        [0.5, -0.418687589158345, -0.081312410841655],
    ]
)
"""Y, Cb and Cr of R, G and B (JFIF: Rec. 601 of full range)."""
ROUNDS, EDGE = 12, 0.8
"""Bounds of `finished`: how often pixels are rounded; and how far from the edge of their cell coefficients stay, in
levels: an encoder rounds those of components too."""
SPREAD = 3.0
"""The deviation of a coefficient about that of x0hat, to the one that a deviation of all pixels would give it: what an
estimate gets wrong gathers in the coefficients that were rounded away. Chosen on tune-20 (docs/method.md)."""
LEAST, NARROW, FAR = 1e-6, 0.05, 30.0
"""Bounds of `mean_in_cell`: the least deviation; the width of a cell, in the distribution's units, below which a series
is taken; and how many such units from the mean the tail counts as exponential."""
FACTORS = (1, 2, 4)
"""Sampling factors that are read."""
MOST_BLOCKS = 10
"""Blocks of a minimum coded unit (T.81, B.2.3)."""


class Component(NamedTuple):
    """One component of a file: how it is sampled and quantised."""

    across: int
    """Blocks side by side in a minimum coded unit: H of T.81."""
    down: int
    """V of T.81."""
    table: np.ndarray
    """(8, 8) steps of the coefficients; rows are vertical frequencies."""

    @property
    def values(self) -> int:
        """Coefficients in a minimum coded unit."""
        return SIDE * SIDE * self.across * self.down


class Coded(Linear):
    """Coefficients that were rounded: y says in which cell of width 1 each lies, and sigma is in steps."""

    hidden: np.ndarray | None = None
    """(H, W) bool, True where the picture that was encoded is damaged; None where it is whole."""

    @abstractmethod
    def decoded(self, y: np.ndarray) -> np.ndarray:
        """The image (C, H, W) float32 that viewers show of y."""

    @abstractmethod
    def at(self, height: int, width: int) -> "Jpeg":
        """The same tables for whole images of another size, of whole units."""


class Jpeg(Coded, Decomposable):
    """The coefficients of a JPEG file before they are rounded, in steps of its quantisation tables.

    A pixel's level HALF (x + 1) becomes components by a colour transform; each loses resolution by the mean over boxes,
    and every 8x8 block of it takes the orthonormal cosine transform and is divided by its table. All of it happens
    within minimum coded units (MCUs) of h x w pixels, so one small matrix (m, n) of full row rank and its decomposition
    serve every one: 384 by 768 for 4:2:0, 192 by 192 for 4:4:4. A measurement is (m, H / h, W / w): for each MCU its
    coefficients, component by component, block by block, row by row. The level shift's part of them is no part of A x:
    `measurement` takes it off a file's coefficients. Rounding is noise of deviation ROUNDING.

    colour: "ycbcr", or "plain" where the components are the image's channels. Raises InputError for an image that is
    not of whole MCUs, and for components that do not fit it or each other.
    """

    name = "jpeg"

    def __init__(self, image_shape: Shape, components: Sequence[Component], colour: str = "ycbcr"):
        self.components, self.colour = tuple(components), colour
        self.unit = unit_size(components)
        channels, height, width = image_shape
        if len(self.components) != channels or (colour == "ycbcr" and channels != 3):
            raise InputError(f"a JPEG of {len(self.components)} components is no measurement of {channels} channels")
        if height % self.unit[0] or width % self.unit[1]:
            raise InputError(
                f"a JPEG with units of {self.unit[1]}x{self.unit[0]} pixels is of whole ones; {width}x{height} is not"
            )
        values = sum(one.values for one in self.components)
        super().__init__(image_shape, (values, height // self.unit[0], width // self.unit[1]))

    @property
    def _weights(self) -> np.ndarray:
        """The components of the channels, (C, C)."""
        return YCBCR if self.colour == "ycbcr" else np.eye(len(self.components))

    @cached_property
    def matrix(self) -> np.ndarray:
        """(m, C h w): A on one MCU, whose pixels are numbered as numpy flattens (C, h, w)."""
        parts = []
        for mixed, one in zip(self._weights, self.components, strict=True):
            rows, columns = (_transform(n, side) for n, side in zip((one.down, one.across), self.unit, strict=True))
            steps = one.table.astype(np.float64)
            part = np.einsum("c,avr,bus,vu->abvucrs", HALF * mixed, rows, columns, 1 / steps)
            parts.append(part.reshape(one.values, -1))
        return np.concatenate(parts)

    @cached_property
    def shift(self) -> np.ndarray:
        """(m,): the coefficients of an image of zeros, whose levels are HALF."""
        parts = [np.zeros((one.across * one.down, SIDE, SIDE)) for one in self.components]
        for number, (part, one) in enumerate(zip(parts, self.components, strict=True)):
            if self.colour != "ycbcr" or number == 0:  # the weights of Cb and Cr sum to 0
                part[:, 0, 0] = SIDE * (HALF - LEVEL_SHIFT) / one.table[0, 0]
        return np.concatenate([part.reshape(-1) for part in parts])

    @cached_property
    def decomposition(self) -> Decomposition:
        return Decomposition.of(self.matrix)

    def prepare(self) -> None:
        _ = self.decomposition

    @property
    def settings(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for one in self.components:
            digest.update(np.ascontiguousarray(one.table, ">u2").tobytes())
        return {
            "sampling": [f"{one.across}x{one.down}" for one in self.components],
            "colour": self.colour,
            "tables_sha256": digest.hexdigest(),
        }

    def at(self, height: int, width: int) -> "Jpeg":
        """The same tables for images of another size, of whole units."""
        return Jpeg((self.image_shape[0], height, width), self.components, self.colour)

    def measurement(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """y (m, H / h, W / w) float32 of a file's coefficients: (rows, columns, 8, 8) integers of each component."""
        down, across = self.measurement_shape[1:]
        parts = [
            array.reshape(down, one.down, across, one.across, SIDE * SIDE).transpose(1, 3, 4, 0, 2)
            for array, one in zip(blocks, self.components, strict=True)
        ]
        file = np.concatenate([part.reshape(-1, down, across) for part in parts])
        return np.asarray(file - self.shift[:, None, None], np.float32)

    def blocks(self, y: np.ndarray) -> list[np.ndarray]:
        """The coefficients of each component, (rows, columns, 8, 8) float64, not rounded: undoes `measurement`."""
        (_, down, across), found, start = self.measurement_shape, [], 0
        file = y.astype(np.float64) + self.shift[:, None, None]
        for one in self.components:
            part = file[start : start + one.values].reshape(one.down, one.across, SIDE * SIDE, down, across)
            found.append(part.transpose(3, 0, 4, 1, 2).reshape(down * one.down, across * one.across, SIDE, SIDE))
            start += one.values
        return found

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """y (m, H / h, W / w) float32 of an image (C, H, W) with its coefficients rounded, as an encoder does."""
        shift = self.shift[:, None, None]
        return np.asarray(np.rint(np.asarray(self.A(x[None])[0]) + shift) - shift, np.float32)

    def decoded(self, y: np.ndarray) -> np.ndarray:
        """The image (C, H, W) float32 that viewers show of y: chroma enlarged linearly, [-1, 1] not kept to."""
        planes = []
        for blocks, one in zip(self.blocks(y), self.components, strict=True):
            rows, columns = (SIDE * count for count in blocks.shape[:2])
            plane = np.einsum("ijvu,vr,us->irjs", blocks * one.table, cosines(), cosines()).reshape(rows, columns)
            for axis, size in enumerate(self.image_shape[1:]):
                plane = stretched(plane, size // plane.shape[axis], axis)
            planes.append(plane)
        # `blocks` has the level shift in it, which is HALF - LEVEL_SHIFT of every channel.
        channels = np.tensordot(np.linalg.inv(self._weights), np.stack(planes), 1) - (HALF - LEVEL_SHIFT)
        return np.asarray(channels / HALF, np.float32)

    def finished(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """An image near x (C, H, W) of whole levels of 8 bits, whose coefficients round to y's wherever that can be.

        Coefficients beyond half a step from y are brought back by the pseudo-inverse, which moves no others; then
        pixels are rounded, ROUNDS times. Each time, those that rounding brought out again are brought in further.
        """
        y = np.asarray(y, np.float64)
        steps = np.concatenate(
            [np.tile(one.table.reshape(-1), one.values // one.table.size) for one in self.components]
        )
        inside = np.maximum(0.5 - EDGE / steps, 0.1)[:, None, None]
        half = np.broadcast_to(inside, y.shape).copy()
        for _ in range(ROUNDS):
            levels = np.rint(HALF * (np.clip(x, -1, 1) + 1)) / HALF - 1
            apart = np.asarray(self.A(levels[None])[0]) - y
            beyond = np.abs(apart) > inside
            if not beyond.any():
                break
            half[beyond] *= 0.5
            apart = np.asarray(self.A(np.clip(x, -1, 1)[None].astype(np.float64))[0]) - y
            change = np.clip(apart, -half, half) - apart
            x = np.clip(x, -1, 1) + np.asarray(self._pseudo_inverse(change[None])[0])
        return np.asarray(levels, np.float32)

    def mean(self, y: Array, x0hat: Array, sigma: Any, variance: Any) -> Array:
        """E[x0 | y], (B, C, H, W), where y says in which cell of width 1 each coefficient lies; `sigma` is not used.

        A coefficient is taken to be logistic about x0hat's, of SPREAD times the deviation that `variance` gives it, and
        is moved to its mean within the cell by the pseudo-inverse, which moves no others.
        """
        expected = self.A(x0hat) - y
        norms = self.place("norms", lambda: np.sqrt((self.matrix**2).sum(1))[None, :, None, None], x0hat)
        within = mean_in_cell(expected, SPREAD * variance**0.5 * norms)
        return x0hat + self._pseudo_inverse(within - expected)

    def _pseudo_inverse(self, r: Array) -> Array:
        """The least change of an image, (B, C, H, W), that changes its coefficients by r: A has full row rank."""
        return self.V(self.Ut(r) / self.spectrum(r))

    def spectrum(self, like: Array) -> Array:
        return self.place_spectrum(self.decomposition.s[None, :, None, None], like)

    def A(self, x: Array) -> Array:
        return self._from_units(self._to_units(x) @ self._placed_matrix(x).T)

    def AT(self, y: Array) -> Array:
        return self._to_image(self._by_unit(y) @ self._placed_matrix(y))

    def Vt(self, x: Array) -> Array:
        return self._from_units(self._to_units(x) @ self.place("Vt", self.decomposition.Vt, x).T)

    def V(self, s: Array) -> Array:
        return self._to_image(self._by_unit(s) @ self.place("Vt", self.decomposition.Vt, s))

    def Ut(self, y: Array) -> Array:
        return self._from_units(self._by_unit(y) @ self.place("U", self.decomposition.U, y))

    def U(self, s: Array) -> Array:
        return self._from_units(self._by_unit(s) @ self.place("U", self.decomposition.U, s).T)

    def _placed_matrix(self, like: Array) -> Array:
        return self.place("A", lambda: self.matrix, like)

    def _to_units(self, x: Array) -> Array:
        """(B, C, H, W) as (B, units, C h w)."""
        xp, (_, down, across), (h, w) = array_namespace(x), self.measurement_shape, self.unit
        channels = self.image_shape[0]
        cut = xp.reshape(x, (x.shape[0], channels, down, h, across, w))
        return xp.reshape(xp.permute_dims(cut, (0, 2, 4, 1, 3, 5)), (x.shape[0], down * across, channels * h * w))

    def _to_image(self, units: Array) -> Array:
        xp, (_, down, across), (h, w) = array_namespace(units), self.measurement_shape, self.unit
        cut = xp.reshape(units, (units.shape[0], down, across, self.image_shape[0], h, w))
        return xp.reshape(xp.permute_dims(cut, (0, 3, 1, 4, 2, 5)), (units.shape[0], *self.image_shape))

    def _by_unit(self, y: Array) -> Array:
        """(B, m, H / h, W / w) as (B, units, m)."""
        xp, (values, down, across) = array_namespace(y), self.measurement_shape
        return xp.permute_dims(xp.reshape(y, (y.shape[0], values, down * across)), (0, 2, 1))

    def _from_units(self, units: Array) -> Array:
        xp = array_namespace(units)
        return xp.reshape(xp.permute_dims(units, (0, 2, 1)), (units.shape[0], *self.measurement_shape))


def unit_size(components: Sequence[Component]) -> tuple[int, int]:
    """Height and width in pixels of a file's minimum coded unit. Raises InputError for sampling that is not read."""
    down, across = max(one.down for one in components), max(one.across for one in components)
    for one in components:
        if one.down not in FACTORS or one.across not in FACTORS:
            raise InputError(f"a JPEG's sampling factors of 1, 2 or 4 are read; this one has {one.across}x{one.down}")
    if len(components) > 1 and sum(one.down * one.across for one in components) > MOST_BLOCKS:
        raise InputError(f"a JPEG's minimum coded unit has {MOST_BLOCKS} blocks at most")
    return SIDE * down, SIDE * across


def mean_in_cell(expected: Array, deviation: Array) -> Array:
    """The mean, within -1/2 .. 1/2, of a logistic distribution of that mean and deviation; any shape.

    Unlike a normal distribution's it takes no error function, which numpy lacks. With S(u) = 1 / (1 + e^u), a and b the
    cell's edges in the distribution's units from its mean, and w = b - a, the mean is above a by

        (log(1 + e^-a) - log(1 + e^-b) - w S(b)) / (S(a) - S(b)),

    or w/2 - tanh((a + b)/4) w^2/12 where w is small. It is taken for a mean below the cell's middle, and mirrored.
    """
    xp = array_namespace(expected)
    unit = xp.maximum(deviation, LEAST + 0 * deviation) * (math.sqrt(3) / math.pi)
    mirror = xp.where(expected > 0, -xp.ones_like(expected), xp.ones_like(expected))
    a, w = (xp.abs(expected) - 0.5) / unit, 1 / unit
    a = xp.minimum(a, FAR + 0 * a)
    b = a + w
    share = 1 / (1 + xp.exp(xp.minimum(b, 2 * FAR + 0 * b)))
    whole = 1 / (1 + xp.exp(a)) - share
    above = (_softplus(-a, xp) - _softplus(-b, xp) - w * share) / xp.where(whole > 0, whole, xp.ones_like(whole))
    series = w / 2 - xp.tanh((a + b) / 4) * w**2 / 12
    return mirror * (unit * xp.where(w < NARROW, series, above) - 0.5)


def _softplus(u: Array, xp: Namespace) -> Array:
    """log(1 + e^u)."""
    return xp.maximum(u, xp.zeros_like(u)) + xp.log1p(xp.exp(-xp.abs(u)))


def _transform(blocks: int, side: int) -> np.ndarray:
    """(blocks, 8, side): the mean over boxes of a line of `side` pixels, and the cosine transform of its blocks."""
    mean = np.repeat(np.eye(SIDE * blocks), side // (SIDE * blocks), axis=1) * (SIDE * blocks / side)
    return np.asarray(np.einsum("vr,brs->bvs", cosines(), mean.reshape(blocks, SIDE, side)))


def stretched(plane: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """`plane` with `factor` times as many values along an axis, between their middles linearly (JFIF's positions)."""
    size = plane.shape[axis]
    place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), size - 2)
    share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(plane.take(low, axis) * (1 - share) + plane.take(low + 1, axis) * share)


def cosines() -> np.ndarray:
    """The orthonormal cosine transform of 8 values (T.81, A.3.3), (8, 8): a row for each frequency."""
    frequency, place = np.mgrid[:SIDE, :SIDE]
    matrix = np.cos((2 * place + 1) * frequency * np.pi / (2 * SIDE)) / 2
    matrix[0] /= math.sqrt(2)
    return np.asarray(matrix)
