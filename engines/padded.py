"""An engine for images of any size, around one whose plan takes multiples of a stride.

The image is reflected at its right and lower border up to the next multiple. It is run whole, or, above a number of
pixels, in large tiles.

An output pixel depends on input pixels within the network's reach, and on the mean and variance in normalisation
layers. Tiles overlap by twice the reach, so that some tile holds all pixels that an output pixel depends on, and its
answer there is that of the whole image. The statistics over a large tile differ little from those over the image.
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
"""The share of `Room.memory` that a call may take."""
WORK = 5
"""The memory of a call with a gradient, divided by the float32 activations that its pullback reads. Measured on photo,
whose activations take 0.98 KB a pixel: 4.2 by onnxruntime, 2.6 by OpenVINO in bfloat16."""
GRAIN = 64
"""The sides of tiles are multiples of this many pixels."""
BLEND = 32
"""Pixels over which neighbouring tiles are blended, beyond the reach of their borders."""


class Padded:
    """An engine for images of shape `image` (C, H, W), around the `engine` of a plan for any size; it closes with that.

    most: the most pixels of a network call; None: as many as the memory allows. tile: height and width of the tiles, to
    repeat an earlier run. on_tiles: as in `Tiled`. Raises InputError for an image without pixels or with other
    channels, and for tiles that do not fit the image or the memory.
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
        """Height and width of the tiles in pixels; None where images are run whole."""
        self.rows = max(1, most // math.prod(sides))
        """The most images of a call."""
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
        """The number of tiles of an image; 1 where images are run whole."""
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
        """Pad (B, C, H, W) to the engine's size by reflection at the right and lower border."""
        xp = array_namespace(x)
        for axis in (2, 3):
            runs = reflections(self._image[axis - 1], self._padded[axis - 1])
            parts = [
                xp.flip(x[_at(axis, run.source)], axis=axis) if run.turned else x[_at(axis, run.source)] for run in runs
            ]
            x = xp.concat([x, *parts], axis=axis) if parts else x
        return x

    def _folded(self, v: Array) -> Array:
        """Apply the transpose of `_reflected`: add the cotangent of a mirrored pixel to that of its source."""
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
        """Apply the transpose of `_cut`: pad with zeros."""
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
    """A run of pixels along an axis, copied beyond the border; in reverse order where `turned`."""

    source: slice
    turned: bool


def reflections(length: int, padded: int) -> Iterator[Run]:
    """Yield the runs that pad `length` pixels to `padded`, as numpy's and torch's "reflect" do.

    The last pixel is not repeated, except where it is the only one.
    """
    missing, turned = padded - length, True
    while missing > 0:
        count = min(missing, max(1, length - 1))
        first = 0 if length == 1 else length - 1 - count if turned else 1
        yield Run(slice(first, first + count), turned)
        missing, turned = missing - count, not turned


def bytes_a_pixel(plan: Plan) -> float:
    """Return the bytes that a call with a gradient takes for each pixel of its images."""
    side = plan.image_shape[1]
    outputs = plan.manifest["graphs"]["forward"]["outputs"].values()
    return WORK * sum(4 * math.prod(sized(shape, 1, side, side)) for shape in outputs) / side**2


def tile_sides(image: tuple[int, int], most: int, longest: int | None, least: int, grain: int) -> tuple[int, int]:
    """Return the height and width of tiles of at most `most` pixels, whose sides are at most `longest`.

    An image that fits is one tile. Otherwise sides are multiples of `grain`, at least `least` pixels long, as smaller
    tiles would consist of overlap.
    """
    height, width = image
    longest = longest or max(image)
    if height * width <= most and max(image) <= longest:
        return image

    def side(n: int, pixels: int) -> int:
        """Return a tile's length along an image side of `n`, where it may have `pixels`."""
        return min(n, max(min(pixels, longest) // grain * grain, -(-least // grain) * grain))

    square = math.isqrt(most)
    if height <= square:
        return side(height, height), side(width, most // height)
    if width <= square:
        return side(height, most // width), side(width, width)
    return side(height, square), side(width, square)


def is_tile(tile: tuple[int, int], image: tuple[int, int], most: int, stride: int, least: int) -> bool:
    """Return whether an image can be run in tiles of this size: multiples of the stride, of at most `most` pixels."""
    sides = [side == n or (least <= side < n and side % stride == 0) for side, n in zip(tile, image, strict=True)]
    return all(sides) and math.prod(tile) <= max(most, (least + GRAIN + stride) ** 2)


def far_shares(length: int, tile: int, reach: int, stride: int) -> dict[int, np.ndarray]:
    """Return the starts of tiles along a side of `length` pixels, and each tile's weights (tile,), as `tile_shares`.

    Starts are multiples of `stride`. A tile has weight 0 within `reach` of its borders, where they are not the image's.
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
    """Return the index that takes `part` along an axis."""
    return (*[slice(None)] * axis, part)
