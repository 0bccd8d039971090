"""JPEG as a linear operator: the block cosine transform of every component, in units of its quantisation steps."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...engines import Array, InputError
from ...engines.array_api import Namespace, array_namespace
from ...engines.stopping import check
from .base import Decomposable, Linear, Shape
from .dense import Decomposition

SIDE = 8
"""Pixels of a block's side."""
HALF = 127.5
"""Grey levels per unit of the [-1, 1] scale: a level is HALF (x + 1)."""
LEVEL_SHIFT = 128.0
"""Level subtracted before the transform (T.81, A.3.1); chroma has it added before (JFIF)."""
ROUNDING = 1 / math.sqrt(12)
"""Standard deviation of rounding, in quantisation steps: sigma of a measurement."""
YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735891647856, -0.331264108352144, 0.5],
        [0.5, -0.418687589158345, -0.081312410841655],
    ]
)
"""Weights of R, G and B in Y, Cb and Cr (JFIF: Rec. 601, full range)."""
ROUNDS, WHOLE, FURTHER, NARROWEST = 60, 12, 6, 0.1
"""Constants of `finished`: the most rounds, and the most work in rounds of the whole picture; the first rounds, which
bring coefficients further in each time; and the least distance from a cell's middle that they begin with, in steps."""
STUBBORN, NUDGES = 16, 24
"""Constants of `finished`: the most MCUs still out of their cells for which `_nudged` is tried, and the most levels of
each that it changes."""
EDGE, MARGIN = 0.8, 0.2
"""Distances in grey levels that coefficients keep from the edges of their cells: before pixels and components are
rounded, and after it, for the integers of an encoder's cosines (libjpeg's are an eighth of a level)."""
FIXED = 1 << 16
"""The unit of libjpeg's weights of R, G and B, which are integers."""
SPREAD = 3.0
"""The standard deviation of a coefficient's error in x0hat, divided by the one that the same error in all pixels would
give: errors concentrate in the coefficients that were rounded away. Chosen on tune-20 (docs/method.md)."""
LEAST, NARROW, FAR = 1e-6, 0.05, 30.0
"""Constants of `mean_in_cell`: the least deviation; the width of a cell below which a series is used; and the distance
from the mean beyond which the tail is taken to be exponential. The last two are in units of the distribution's
scale."""
FACTORS = (1, 2, 4)
"""Sampling factors that are supported."""
MOST_BLOCKS = 10
"""The most blocks of a minimum coded unit (T.81, B.2.3)."""


class Component(NamedTuple):
    """The sampling and quantisation of a component of a file."""

    across: int
    """Horizontal sampling factor, H of T.81: blocks side by side in a minimum coded unit."""
    down: int
    """Vertical sampling factor, V of T.81: blocks one above the other."""
    table: np.ndarray
    """(8, 8) quantisation steps of the coefficients; rows are vertical frequencies."""

    @property
    def values(self) -> int:
        """Coefficients in a minimum coded unit."""
        return SIDE * SIDE * self.across * self.down


class Coded(Linear):
    """Base of operators with rounded coefficients: y is the middle of a cell of width 1, and sigma is in steps."""

    hidden: np.ndarray | None = None
    """(H, W) bool, True where the encoded picture is damaged; None where it is whole."""

    def known(self, like: Array) -> Any:
        """Return M: (1, 1, H, W), 0 in damaged pixels, 1 elsewhere; the number 1 where the picture is whole."""
        return 1

    @abstractmethod
    def decoded(self, y: np.ndarray) -> np.ndarray:
        """Decode y to an image (C, H, W) float32, as viewers do."""

    @abstractmethod
    def at(self, height: int, width: int) -> "Jpeg":
        """Return an operator with the same tables for undamaged images of another size, a multiple of the unit's."""


class Jpeg(Coded, Decomposable):
    """The coefficients of a JPEG file before they are rounded, in steps of its quantisation tables.

    A colour transform maps levels HALF (x + 1) to components. Each component is downscaled by the mean over boxes; each
    8x8 block of it takes the orthonormal cosine transform and is divided by the quantisation table. A minimum coded
    unit (MCU) of h x w pixels depends on no other, so one small matrix (m, n) of full row rank and its decomposition
    serve all: 384 by 768 for 4:2:0, 192 by 192 for 4:4:4. A measurement is (m, H / h, W / w): the coefficients of each
    MCU, ordered by component, block and row. A x does not include the level shift; `measurement` subtracts it from a
    file's coefficients. Rounding is noise of deviation ROUNDING.

    colour: "ycbcr", or "plain" where the components are the image's channels. Raises InputError for an image that does
    not consist of whole MCUs, and for components that do not fit it or each other.
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
                f"a JPEG holds whole units of {self.unit[1]}x{self.unit[0]} pixels; {width}x{height} is not a multiple"
            )
        values = sum(one.values for one in self.components)
        super().__init__(image_shape, (values, height // self.unit[0], width // self.unit[1]))

    @property
    def _weights(self) -> np.ndarray:
        """The weights (C, C) of channels in components."""
        return YCBCR if self.colour == "ycbcr" else np.eye(len(self.components))

    @cached_property
    def matrix(self) -> np.ndarray:
        """(m, C h w): A on an MCU, whose pixels are numbered as numpy flattens (C, h, w)."""
        parts = []
        for mixed, one in zip(self._weights, self.components, strict=True):
            rows, columns = (_transform(n, side) for n, side in zip((one.down, one.across), self.unit, strict=True))
            steps = one.table.astype(np.float64)
            part = np.einsum("c,avr,bus,vu->abvucrs", HALF * mixed, rows, columns, 1 / steps)
            parts.append(part.reshape(one.values, -1))
        return np.concatenate(parts)

    @cached_property
    def shift(self) -> np.ndarray:
        """(m,): the coefficients, with the level shift, of an image of zeros, whose levels are HALF."""
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
        """Return an operator with the same tables for images of another size, a multiple of the unit's."""
        return Jpeg((self.image_shape[0], height, width), self.components, self.colour)

    def measurement(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Return y (m, H / h, W / w) float32 of a file's coefficients: integers (rows, columns, 8, 8) by component."""
        down, across = self.measurement_shape[1:]
        parts = [
            array.reshape(down, one.down, across, one.across, SIDE * SIDE).transpose(1, 3, 4, 0, 2)
            for array, one in zip(blocks, self.components, strict=True)
        ]
        file = np.concatenate([part.reshape(-1, down, across) for part in parts])
        return np.asarray(file - self.shift[:, None, None], np.float32)

    def blocks(self, y: np.ndarray) -> list[np.ndarray]:
        """Invert `measurement`: return each component's coefficients, (rows, columns, 8, 8) float64, not rounded."""
        (_, down, across), found, start = self.measurement_shape, [], 0
        file = y.astype(np.float64) + self.shift[:, None, None]
        for one in self.components:
            part = file[start : start + one.values].reshape(one.down, one.across, SIDE * SIDE, down, across)
            found.append(part.transpose(3, 0, 4, 1, 2).reshape(down * one.down, across * one.across, SIDE, SIDE))
            start += one.values
        return found

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Measure an image (C, H, W) with its coefficients rounded, as an encoder does: y (m, H / h, W / w) float32."""
        shift = self.shift[:, None, None]
        return np.asarray(np.rint(np.asarray(self.A(x[None])[0]) + shift) - shift, np.float32)

    def decoded(self, y: np.ndarray) -> np.ndarray:
        """Decode y to an image (C, H, W) float32, as viewers do: chroma upscaled linearly, values not clipped."""
        planes = []
        for blocks, one in zip(self.blocks(y), self.components, strict=True):
            plane = np.concatenate([_pixels(row * one.table) for row in blocks])
            for axis, size in enumerate(self.image_shape[1:]):
                check()
                plane = stretched(plane, size // plane.shape[axis], axis)
            planes.append(plane)
        check()
        # The result of `blocks` includes the level shift, which adds HALF - LEVEL_SHIFT to every channel.
        channels = np.tensordot(np.linalg.inv(self._weights), np.stack(planes), 1) - (HALF - LEVEL_SHIFT)
        return np.asarray(channels / HALF, np.float32)

    def encoded(self, levels: np.ndarray) -> np.ndarray:
        """Measure the levels 0..255 of MCUs (n, C, h, w) as libjpeg does, but for the last rounding: (n, m).

        libjpeg rounds components, whose weights are integers / FIXED, and then the means of boxes; where these are two
        pixels wide, a half is rounded down in even columns and up in odd ones. Its integer cosines are not modelled.
        """
        ycbcr, (height, width) = self.colour == "ycbcr", self.unit
        planes = np.tensordot(np.rint(FIXED * self._weights), levels - LEVEL_SHIFT, (1, 1))
        parts = []
        for number, (plane, one) in enumerate(zip(planes, self.components, strict=True)):
            check()
            plane = np.floor((plane + FIXED / 2 - (ycbcr and number > 0)) / FIXED)
            down, across = height // SIDE // one.down, width // SIDE // one.across
            boxes = plane.reshape(-1, height // down, down, width // across, across).sum((2, 4))
            added = np.full(boxes.shape[2], down * across // 2)
            if across == 2 and down <= 2:
                added[::2] -= 1
            means = np.floor((boxes + added) / (down * across)).reshape(-1, one.down, SIDE, one.across, SIDE)
            blocks = np.einsum("vr,narbs,us->nabvu", cosines(), means, cosines(), optimize=True)
            parts.append((blocks / one.table).reshape(len(levels), -1))
        return np.asarray(np.concatenate(parts, 1) - self.shift)

    def finished(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return an image near x (C, H, W) of 8-bit levels, which libjpeg encodes to y wherever that is possible.

        In each round pixels are rounded. In MCUs that `encoded` finds out of their cells, the pseudo-inverse brings
        coefficients back, further in each of the first FURTHER rounds, and changes no others; after those, another
        dither is tried in each round. Of an MCU that stays out, the try that was least so is taken, and where they are
        few, `_nudged`.
        """
        given = np.array(self._to_units(x[None])[0], np.float64)
        wanted = np.asarray(self._by_unit(y[None])[0], np.float64)
        steps = np.concatenate(
            [np.tile(one.table.reshape(-1), one.values // one.table.size) for one in self.components]
        )
        inside = 0.5 - MARGIN / steps
        half = np.tile(np.maximum(0.5 - EDGE / steps, NARROWEST), (len(given), 1))
        left, dither, work = np.arange(len(given)), np.random.default_rng(0), 0
        best, least = np.full_like(given, np.nan), np.full(len(given), np.inf)
        U, s, Vt = self.decomposition
        for number in range(ROUNDS):
            pixels = np.clip(given[left], -1, 1)
            moved = dither.uniform(-0.5, 0.5, pixels.shape) if number >= FURTHER else 0
            levels = np.clip(np.rint(HALF * (pixels + 1) + moved), 0, 2 * HALF)
            out = self._beyond(levels, wanted[left], inside)
            better = out.sum(1) < least[left]
            best[left[better]], least[left[better]] = levels[better], out.sum(1)[better]
            wrong, work = out.any(1), work + len(left)
            if not wrong.any() or work >= WHOLE * len(given):
                break
            left, pixels = left[wrong], pixels[wrong]
            if number < FURTHER:
                half[left] = np.where(out[wrong] > 0, 0.5, 1) * half[left]
            apart = pixels @ self.matrix.T - wanted[left]
            change = np.clip(apart, -half[left], half[left]) - apart
            given[left] = pixels + change @ U / s @ Vt
        stubborn = np.flatnonzero(least > 0)
        for unit in stubborn if len(stubborn) <= STUBBORN else ():
            best[unit] = self._nudged(best[unit], wanted[unit], inside)
        return np.asarray(self._to_image(best[None])[0] / HALF - 1, np.float32)

    def _beyond(self, levels: np.ndarray, wanted: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return how far `encoded` levels (n, C h w) are further than `inside` (m,) from those wanted: (n, m)."""
        found = self.encoded(levels.reshape(-1, self.image_shape[0], *self.unit))
        return np.asarray(np.maximum(np.abs(found - wanted) - inside, 0))

    def _nudged(self, levels: np.ndarray, wanted: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Change levels (C h w,) of an MCU by 1, one a round, each time the one that brings it nearest to its cells;
        stop where none brings it nearer."""
        least = self._beyond(levels[None], wanted, inside).sum()
        for _ in range(NUDGES):
            tries = np.clip(np.concatenate([levels + np.eye(len(levels)), levels - np.eye(len(levels))]), 0, 2 * HALF)
            out = self._beyond(tries, wanted, inside).sum(1)
            if not out.min() < least:
                break
            levels, least = tries[out.argmin()], out.min()
        return levels

    def mean(self, y: Array, x0hat: Array, sigma: Any, variance: Any) -> Array:
        """Return E[x0 | y], (B, C, H, W), where y gives the cell of width 1 of each coefficient; `sigma` is not used.

        A coefficient is taken to have a logistic distribution around that of x0hat, with SPREAD times the deviation
        that `variance` gives it. The pseudo-inverse moves it to its mean within the cell, and moves no others.
        """
        expected = self.A(x0hat) - y
        norms = self.place("norms", lambda: np.sqrt((self.matrix**2).sum(1))[None, :, None, None], x0hat)
        within = mean_in_cell(expected, SPREAD * variance**0.5 * norms)
        return x0hat + self._pseudo_inverse(within - expected)

    def _pseudo_inverse(self, r: Array) -> Array:
        """Return the smallest image (B, C, H, W) with coefficients r; A has full row rank."""
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
        """Reshape (B, C, H, W) to (B, units, C h w)."""
        xp, (_, down, across), (h, w) = array_namespace(x), self.measurement_shape, self.unit
        channels = self.image_shape[0]
        cut = xp.reshape(x, (x.shape[0], channels, down, h, across, w))
        return xp.reshape(xp.permute_dims(cut, (0, 2, 4, 1, 3, 5)), (x.shape[0], down * across, channels * h * w))

    def _to_image(self, units: Array) -> Array:
        xp, (_, down, across), (h, w) = array_namespace(units), self.measurement_shape, self.unit
        cut = xp.reshape(units, (units.shape[0], down, across, self.image_shape[0], h, w))
        return xp.reshape(xp.permute_dims(cut, (0, 3, 1, 4, 2, 5)), (units.shape[0], *self.image_shape))

    def _by_unit(self, y: Array) -> Array:
        """Reshape (B, m, H / h, W / w) to (B, units, m)."""
        xp, (values, down, across) = array_namespace(y), self.measurement_shape
        return xp.permute_dims(xp.reshape(y, (y.shape[0], values, down * across)), (0, 2, 1))

    def _from_units(self, units: Array) -> Array:
        xp = array_namespace(units)
        return xp.reshape(xp.permute_dims(units, (0, 2, 1)), (units.shape[0], *self.measurement_shape))


def unit_size(components: Sequence[Component]) -> tuple[int, int]:
    """Return the height and width in pixels of the minimum coded unit. Raises InputError for unsupported sampling."""
    down, across = max(one.down for one in components), max(one.across for one in components)
    for one in components:
        if one.down not in FACTORS or one.across not in FACTORS:
            raise InputError(f"a JPEG's sampling factors of 1, 2 or 4 are read; this one has {one.across}x{one.down}")
    if len(components) > 1 and sum(one.down * one.across for one in components) > MOST_BLOCKS:
        raise InputError(f"a JPEG's minimum coded unit has {MOST_BLOCKS} blocks at most")
    return SIDE * down, SIDE * across


def mean_in_cell(expected: Array, deviation: Array) -> Array:
    """Return the mean of a logistic distribution truncated to -1/2 .. 1/2, elementwise.

    `expected` and `deviation` are those of the whole distribution. It is logistic because a normal one needs the error
    function, which numpy lacks. With S(u) = 1 / (1 + e^u), a and b the cell's edges minus the mean in units of the
    distribution's scale, and w = b - a, the truncated mean exceeds a by

        (log(1 + e^-a) - log(1 + e^-b) - w S(b)) / (S(a) - S(b)),

    or w/2 - tanh((a + b)/4) w^2/12 where w is small. It is computed for means below the cell's middle, and mirrored for
    the others.
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
    """Return log(1 + e^u)."""
    return xp.maximum(u, xp.zeros_like(u)) + xp.log1p(xp.exp(-xp.abs(u)))


def _pixels(row: np.ndarray) -> np.ndarray:
    """Invert the cosine transform of a row of blocks (columns, 8, 8); return its pixels (8, 8 columns)."""
    check()
    return np.asarray(np.einsum("jvu,vr,us->rjs", row, cosines(), cosines()).reshape(SIDE, -1))


def _transform(blocks: int, side: int) -> np.ndarray:
    """Return (blocks, 8, side): means over boxes of a line of `side` pixels, then the cosine transform of blocks."""
    mean = np.repeat(np.eye(SIDE * blocks), side // (SIDE * blocks), axis=1) * (SIDE * blocks / side)
    return np.asarray(np.einsum("vr,brs->bvs", cosines(), mean.reshape(blocks, SIDE, side)))


def stretched(plane: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """Upscale `plane` by `factor` along an axis, linearly between the middles of pixels (JFIF's positions)."""
    size = plane.shape[axis]
    place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), size - 2)
    share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(plane.take(low, axis) * (1 - share) + plane.take(low + 1, axis) * share)


def cosines() -> np.ndarray:
    """Return the orthonormal cosine transform of 8 values (T.81, A.3.3), (8, 8): a row for each frequency."""
    frequency, place = np.mgrid[:SIDE, :SIDE]
    matrix = np.cos((2 * place + 1) * frequency * np.pi / (2 * SIDE)) / 2
    matrix[0] /= math.sqrt(2)
    return np.asarray(matrix)
