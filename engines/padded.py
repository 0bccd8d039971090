"""An engine for images of any size, around one whose plan takes multiples of a stride: reflected up to one at its right
and lower border, and run whole, or above a number of pixels in large tiles.

A pixel depends on no other farther away than the network's reach, but for the mean and variance of its norms. So tiles
that overlap by twice the reach say of every pixel what the whole image would, where one of them has all that it depends
on; norms over a large tile differ little from those over the image.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .array_api import Array, array_namespace
from .base import Engine, Prediction, Pull
from .errors import InputError
from .plan import Plan
from .shapes import sized
from .tiled import Tiled

SHARE = 0.5
"""Share of the memory that a call may take."""
WORK = 5
"""Times the activations that a pullback reads, in float32, that a call with a gradient takes. Measured on photo, whose
activations are 0.98 KB a pixel: onnxruntime 4.2, OpenVINO in bfloat16 2.6."""
GRAIN = 64
"""Pixels that the sides of tiles are multiples of."""
BLEND = 32
"""Pixels over which neighbouring tiles are blended, outside the reach of their ends."""


class Padded:
    """`engine`, of a plan for images of any size, on images of `image` (C, H, W). To close one is to close the other.

    most: pixels of a network call at most; None takes as many as the memory allows. tile: height and width of the
    tiles, to repeat what was run in such. `on_tiles` as of `Tiled`. Raises InputError for an image without pixels or of
    other channels, and for tiles that cannot be.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        image: tuple[int, int, int],
        on_tiles: Callable[[int, int], object] | None = None,
        most: int | None = None,
        tile: tuple[int, int] | None = None,
    ):
        channels, height, width = image
        if channels != plan.image_shape[0] or min(height, width) < 1:
            raise InputError(
                f"this prior's images have {plan.image_shape[0]} channels and a pixel at least; got {image}"
            )
        stride, room = plan.stride or 1, engine.room
        grain = math.lcm(stride, room.grain)
        self._image = image
        self._padded = channels, -(-height // grain) * grain, -(-width // grain) * grain
        most = most or int(SHARE * room.memory / bytes_a_pixel(plan))
        least = 2 * (2 * plan.reach + BLEND + stride)
        sides = tile_sides(self._padded[1:], most, room.side, least, math.lcm(GRAIN, stride))
        if tile is not None:
            if not is_tile(tile, self._padded[1:], most, stride, least):
                raise InputError(f"an image of {width}x{height} cannot be run in tiles of {tile[1]}x{tile[0]} here")
            sides = tile
        tiles = channels, *sides
        self.tile: tuple[int, int] | None = None
        """Height and width of the tiles; None where images are run whole."""
        self.rows = max(1, most // math.prod(sides))
        """Images that a call has room for."""
        inner = engine
        if tiles != self._padded:
            self.tile = sides
            shares = functools.partial(far_shares, reach=plan.reach, stride=stride)
            inner = Tiled(engine, tiles, self._padded, on_tiles, shares)
        self._inner, self.room = inner, room
        self.asarray, self.upload, self.prepare = inner.asarray, inner.upload, inner.prepare
        self.throttle, self.capture, self.close = inner.throttle, inner.capture, inner.close

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def can_capture(self) -> bool:
        return self._inner.can_capture

    @property
    def tiles(self) -> int:
        """How many there are; 1 where images are run whole."""
        return self._inner.tiles if isinstance(self._inner, Tiled) else 1

    @property
    def throttled_seconds(self) -> float:
        return self._inner.throttled_seconds

    def predict(self, x: Array, t: Array) -> Prediction:
        return self._cut(self._inner.predict(self._reflected(x), t))

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        prediction, pull = self._inner.pullback(self._reflected(x), t)
        return self._cut(prediction), lambda v: self._folded(pull(self._widened(v)))

    def _reflected(self, x: Array) -> Array:
        """(B, C, H, W) up to the engine's size: rows and columns beyond the border mirror those before it."""
        xp = array_namespace(x)
        for axis in (2, 3):
            runs = reflections(self._image[axis - 1], self._padded[axis - 1])
            parts = [
                xp.flip(x[_at(axis, run.source)], axis=axis) if run.turned else x[_at(axis, run.source)] for run in runs
            ]
            x = xp.concat([x, *parts], axis=axis) if parts else x
        return x

    def _folded(self, v: Array) -> Array:
        """The transpose of `_reflected`: what came of a mirrored pixel is added to the pixel."""
        xp = array_namespace(v)
        for axis in (3, 2):
            length = self._image[axis - 1]
            if length == v.shape[axis]:
                continue
            sums, start = xp.asarray(v[_at(axis, slice(0, length))], copy=True), length
            for source, turned in reflections(length, v.shape[axis]):
                stop = start + source.stop - source.start
                part = v[_at(axis, slice(start, stop))]
                sums[_at(axis, source)] += xp.flip(part, axis=axis) if turned else part
                start = stop
            v = sums
        return v

    def _widened(self, v: Array) -> Array:
        """The transpose of `_cut`: nothing comes of the pixels beyond the border."""
        _, height, width = self._image
        if v.shape[2:] == self._padded[1:]:
            return v
        xp = array_namespace(v)
        wide = xp.zeros((*v.shape[:2], *self._padded[1:]), dtype=v.dtype, device=v.device)
        wide[..., :height, :width] = v
        return wide

    def _cut(self, prediction: Prediction) -> Prediction:
        _, height, width = self._image
        out, variance = prediction
        return Prediction(out[..., :height, :width], None if variance is None else variance[..., :height, :width])


class Run(NamedTuple):
    """Pixels along an axis that are repeated beyond the border, backwards where they are `turned`."""

    source: slice
    turned: bool


def reflections(length: int, padded: int) -> Iterator[Run]:
    """Yield the runs that pad `length` pixels to `padded`, as numpy's and torch's "reflect": the last is not repeated.

    A single pixel is.
    """
    missing, turned = padded - length, True
    while missing > 0:
        count = min(missing, max(1, length - 1))
        first = 0 if length == 1 else length - 1 - count if turned else 1
        yield Run(slice(first, first + count), turned)
        missing, turned = missing - count, not turned


def bytes_a_pixel(plan: Plan) -> float:
    """Memory that a call with a gradient takes for each pixel of its images."""
    side = plan.image_shape[1]
    outputs = plan.manifest["graphs"]["forward"]["outputs"].values()
    return WORK * sum(4 * math.prod(sized(shape, 1, side, side)) for shape in outputs) / side**2


def tile_sides(image: tuple[int, int], most: int, longest: int | None, least: int, grain: int) -> tuple[int, int]:
    """Height and width of tiles of at most so many pixels and so long a side: those of the image itself where it fits.

    Otherwise multiples of `grain`, and of `least` pixels, as smaller tiles would be more overlap than image.
    """
    height, width = image
    longest = longest or max(image)
    if height * width <= most and max(image) <= longest:
        return image

    def side(n: int, pixels: int) -> int:
        """Along a side of `n`, where a tile has room for so many."""
        return min(n, max(min(pixels, longest) // grain * grain, -(-least // grain) * grain))

    square = math.isqrt(most)
    if height <= square:
        return side(height, height), side(width, most // height)
    if width <= square:
        return side(height, most // width), side(width, width)
    return side(height, square), side(width, square)


def is_tile(tile: tuple[int, int], image: tuple[int, int], most: int, stride: int, least: int) -> bool:
    """Whether an image can be run in such tiles, multiples of the stride, of at most so many pixels."""
    sides = [side == n or (least <= side < n and side % stride == 0) for side, n in zip(tile, image, strict=True)]
    return all(sides) and math.prod(tile) <= max(most, (least + GRAIN + stride) ** 2)


def far_shares(length: int, tile: int, reach: int, stride: int) -> dict[int, np.ndarray]:
    """The starts of tiles along a side of `length` pixels, multiples of `stride`, and each one's say (tile,) in its
    pixels, as of `tile_shares`: none in those within `reach` of an end that is not the image's.
    """
    count = 1 + math.ceil((length - tile) / (tile - 2 * reach - BLEND - stride))
    starts = [round(start / stride) * stride for start in np.linspace(0, length - tile, count)]
    place = np.arange(tile) + 0.5
    says, total = {}, np.zeros(length)
    for start in starts:
        before = place - reach if start > 0 else np.full(tile, np.inf)
        after = tile - place - reach if start + tile < length else np.full(tile, np.inf)
        says[start] = np.clip(np.minimum(before, after), 0, BLEND)
        total[start : start + tile] += says[start]
    return {start: say / total[start : start + tile] for start, say in says.items()}


def _at(axis: int, part: slice) -> tuple[slice, ...]:
    """The index of `part` along an axis."""
    return (*[slice(None)] * axis, part)
