"""An engine for images larger than the network's: overlapping tiles, whose answers are blended at every call.

At a given x and t the network's answer (eps, v or x0) is affine in the estimate x0hat, so blending answers blends
x0hat. The sampler and the operator see one image: a mask or a blur crosses the borders of tiles.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from . import stopping
from .array_api import Array, array_namespace
from .base import Engine, OnHost, Prediction, Pull, Room
from .errors import InputError

OVERLAP = 0.5
"""The least overlap of neighbouring tiles, as a share of a tile's side."""


class Place(NamedTuple):
    """A tile of an image of a batch."""

    row: int
    top: int
    left: int


Chunk = list[Place]


class Tiled(OnHost):
    """An engine for images of shape `image` (C, H, W), around `engine`, whose images have shape `tile` (C, h, w).

    Each side of the image is at least the tile's. Closing this engine closes the other. The network takes as many tiles
    in a call as `prepare` was given rows, so its memory does not grow with the image. Where an image takes several
    calls, a gradient runs the forward graph of each tile a second time.

    `on_tiles(done, total)` is called after each network call with the tiles done and the tiles in all, of `predict` or
    of `pullback` with its gradient; an exception from it ends the call. `shares(length, side)` returns the starts and
    weights of tiles along a side; `tile_shares` by default. Raises InputError for an image smaller than a tile.
    """

    def __init__(
        self,
        engine: Engine,
        tile: tuple[int, int, int],
        image: tuple[int, int, int],
        on_tiles: Callable[[int, int], object] | None = None,
        shares: Callable[[int, int], dict[int, np.ndarray]] | None = None,
    ):
        if image[0] != tile[0] or image[1] < tile[1] or image[2] < tile[2]:
            raise InputError(
                f"an image of {image[2]}x{image[1]} is smaller than this prior's {tile[2]}x{tile[1]}, and tiles do not "
                "help; bring it to that size with --fit pad or --fit resize"
            )
        self._engine, self._tile, self._on_tiles = engine, tile, on_tiles
        self._rows = 1
        self._down, self._across = ((shares or tile_shares)(image[side], tile[side]) for side in (1, 2))

    @property
    def room(self) -> Room:
        return self._engine.room

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the tiles."""
        return self._tile[1:]

    @property
    def tiles(self) -> int:
        """The number of tiles of an image."""
        return len(self._down) * len(self._across)

    @property
    def name(self) -> str:
        return f"{self._engine.name}, {self.tiles} tiles"

    def asarray(self, x: Any) -> Array:
        return self._engine.asarray(x)

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        return self._engine.upload(array)

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        self._rows = batch
        self._engine.prepare(gradients, batch)

    def close(self) -> None:
        self._engine.close()

    def predict(self, x: Array, t: Array) -> Prediction:
        chunks = self._counted(self._chunks(x))
        return self._blended(x, chunks, lambda chunk: self._engine.predict(*self._cut(x, t, chunk)))

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        chunks, kept = self._chunks(x), []

        def call(chunk: Chunk) -> Prediction:
            if len(chunks) > 1:
                return self._engine.predict(*self._cut(x, t, chunk))
            prediction, pull = self._engine.pullback(*self._cut(x, t, chunk))
            kept.append(pull)
            return prediction

        def pull(v: Array) -> Array:
            """Apply the transpose of cutting, predicting and blending: sum the tiles' vector-Jacobian products."""
            gradient = array_namespace(x).zeros_like(x)
            for chunk in self._counted(chunks, passes=2, gone=1):
                of_tiles = kept.pop() if kept else self._engine.pullback(*self._cut(x, t, chunk))[1]
                self._add(gradient, chunk, of_tiles(self._crops(v, chunk) * self._shares(v, chunk)))
            return gradient

        return self._blended(x, self._counted(chunks, passes=2), call), pull

    def _blended(self, x: Array, chunks: Iterable[Chunk], call: Callable[[Chunk], Prediction]) -> Prediction:
        images: dict[str, Array] = {}
        for chunk in chunks:
            for name, part in call(chunk)._asdict().items():
                if part is not None:
                    if name not in images:
                        images[name] = array_namespace(x).zeros_like(x)
                    self._add(images[name], chunk, part * self._shares(part, chunk))
        return Prediction(images["out"], images.get("variance"))

    def _chunks(self, x: Array) -> list[Chunk]:
        """Return every tile of a batch, grouped into calls of as many rows as `prepare` was given."""
        places = [Place(*place) for place in product(range(x.shape[0]), self._down, self._across)]
        return [places[first : first + self._rows] for first in range(0, len(places), self._rows)]

    def _counted(self, chunks: list[Chunk], passes: int = 1, gone: int = 0) -> Iterator[Chunk]:
        """Yield `chunks` and report each when done. The whole call makes `passes` passes; `gone` are done."""
        tiles = sum(map(len, chunks))
        done = gone * tiles
        for chunk in chunks:
            stopping.check()
            yield chunk
            done += len(chunk)
            if self._on_tiles is not None:
                self._on_tiles(done, passes * tiles)

    def _cut(self, x: Array, t: Array, chunk: Chunk) -> tuple[Array, Array]:
        return self._crops(x, chunk), t[[place.row for place in chunk]]

    def _crops(self, images: Array, chunk: Chunk) -> Array:
        _, h, w = self._tile
        crops = [images[row, :, top : top + h, left : left + w] for row, top, left in chunk]
        return array_namespace(images).stack(crops)

    def _shares(self, like: Array, chunk: Chunk) -> Array:
        """Return the weights of tiles in their pixels, (tiles, 1, h, w)."""
        shares = np.stack([np.outer(self._down[place.top], self._across[place.left]) for place in chunk])[:, None]
        return array_namespace(like).asarray(shares, dtype=like.dtype, device=like.device)

    def _add(self, images: Array, chunk: Chunk, parts: Array) -> None:
        _, h, w = self._tile
        for i, (row, top, left) in enumerate(chunk):
            images[row, :, top : top + h, left : left + w] += parts[i, ...]


def tile_count(length: int, tile: int) -> int:
    """Return the number of tiles along a side of `length` pixels."""
    return 1 + max(0, math.ceil((length - tile) / (tile * (1 - OVERLAP))))


def tile_shares(length: int, tile: int) -> dict[int, np.ndarray]:
    """Return the starts of evenly spaced tiles along a side of `length` pixels, and each tile's weights (tile,).

    The weights of the tiles over a pixel sum to 1, and fall off linearly towards a tile's ends.
    """
    starts = [round(start) for start in np.linspace(0, length - tile, tile_count(length, tile))]
    say = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1)).astype(np.float64)
    total = np.zeros(length)
    for start in starts:
        total[start : start + tile] += say
    return {start: say / total[start : start + tile] for start in starts}
