"""Training photographs: decoded once into a memory-mapped file, and drawn from it by a recipe."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....engines.errors import InputError
from ....engines.files import atomic_write
from .recipe import Recipe

PIXELS = "pictures.u8"
"""File of the pixels of all photographs, one after the other, (H, W, 3) uint8 each."""
TABLE = "pictures.json"
"""File of each photograph's name, offset in PIXELS in bytes, height and width, and of the names of the shards."""
ENDINGS = (".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Draw:
    """A step's crops, timesteps and seed of noise."""

    crops: np.ndarray
    """(B, 3, side, side) uint8."""
    t: np.ndarray
    """Timesteps (B,), int64."""
    noise_seed: int
    """Seed of the noise, which the device draws."""


def read_pictures(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and pixels (H, W, 3) uint8 of each photograph: of a tar file in its order, of a folder by name.

    Raises InputError where there is none.
    """
    found = False
    for name, file in _files(path):
        with Image.open(file) as image:
            yield name, np.asarray(image.convert("RGB"))
        found = True
    if not found:
        raise InputError(f"{path.name} holds no photograph ({', '.join(ENDINGS)})")


def _files(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in ENDINGS:
                yield file.name, file
        return
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                if member.isfile() and member.name.lower().endswith(ENDINGS):
                    yield member.name, io.BytesIO(shard.extractfile(member).read())  # type: ignore[union-attr]
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read the photographs of {path}: {error}") from error


def read_held_out(path: Path, recipe: Recipe) -> list[np.ndarray]:
    """Read the photographs of a folder or tar file, (H, W, 3) uint8, with sides cropped to multiples of the stride.

    Raises InputError where one is smaller than the recipe's first kind of crops.
    """
    stride, smallest = recipe.stride, recipe.batches[0].side
    cut = []
    for name, picture in read_pictures(path):
        height, width = (side - side % stride for side in picture.shape[:2])
        if min(height, width) < smallest:
            raise InputError(f"{name} is smaller than the {smallest} pixels that the network is measured on")
        cut.append(picture[:height, :width])
    return cut


class Pictures:
    """The photographs of a recipe's shards in `data`, decoded into `folder` where that has not been done.

    Raises InputError where `data` lacks what the recipe names.
    """

    def __init__(self, data: Path, recipe: Recipe, folder: Path):
        self.recipe = recipe
        shards = sorted(data.glob(recipe.shards))
        if not shards:
            raise InputError(f"{data} holds no {recipe.shards}")
        self.rows = _decoded(shards, folder)
        self.pixels = np.memmap(folder / PIXELS, np.uint8, "r")
        side = max(kind.side for kind in recipe.batches)
        small = [name for name, _, height, width in self.rows if min(height, width) < side]
        if small:
            raise InputError(f"{small[0]} and {len(small) - 1} other photographs are smaller than {side} pixels")
        if recipe.groups is None and len(self) < recipe.batches[0].crops:
            raise InputError(f"{data} holds {len(self)} photographs, fewer than a batch of {recipe.batches[0].crops}")
        self.groups = self._members(data) if recipe.groups is not None else None

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, seed: int, step: int) -> Draw:
        """Draw the batch of step number `step`, which depends on the two numbers alone."""
        draw = np.random.default_rng((seed, step))
        kinds = self.recipe.batches
        kind = kinds[draw.choice(len(kinds), p=[kind.share for kind in kinds])]
        chosen = self._epoch(seed, step, kind.crops) if self.groups is None else self._weighted(draw, kind.crops)
        crops = np.stack([self._crop(draw, i, kind.side) for i in chosen])
        u = (np.arange(kind.crops) + draw.random(kind.crops)) / kind.crops
        t = np.minimum(1000 * u**self.recipe.t_power, 999).astype(np.int64)
        return Draw(crops, t, int(draw.integers(2**62)))

    def _epoch(self, seed: int, step: int, count: int) -> np.ndarray:
        """Return the numbers of the `count` photographs of this step in an epoch's random order.

        Photographs that do not fill a batch at the end of an epoch are skipped in it.
        """
        epoch, position = divmod(step, len(self) // count)
        order = np.random.default_rng((seed, epoch, 1)).permutation(len(self))
        return order[position * count : (position + 1) * count]

    def _weighted(self, draw: np.random.Generator, count: int) -> np.ndarray:
        """Draw the numbers of `count` photographs: each time a group by its share, then a photograph of the group."""
        assert self.recipe.groups is not None
        assert self.groups is not None
        names = draw.choice(list(self.groups), count, p=list(self.recipe.groups.values()))
        return np.array([draw.choice(self.groups[name]) for name in names])

    def _crop(self, draw: np.random.Generator, i: int, side: int) -> np.ndarray:
        """Draw a square of photograph i, (3, side, side), mirrored with probability 1/2."""
        _, place, height, width = self.rows[i]
        picture = self.pixels[place : place + height * width * 3].reshape(height, width, 3)
        y, x = draw.integers(height - side + 1), draw.integers(width - side + 1)
        crop = picture[y : y + side, x : x + side].transpose(2, 0, 1)
        return crop[..., ::-1] if draw.random() < 0.5 else crop

    def _members(self, data: Path) -> dict[str, np.ndarray]:
        """Return the photographs' numbers by group, in the recipe's order of groups."""
        index = data / str(self.recipe.index)
        try:
            with index.open(newline="", encoding="utf-8") as file:
                group_of = {row["file"]: row["group"] for row in csv.DictReader(file, delimiter="\t")}
            named = np.array([group_of[name] for name, *_ in self.rows])
        except OSError as error:
            raise InputError(f"cannot read {index}: {error.strerror}") from error
        except KeyError as error:
            raise InputError(f"{index.name} tells no group of {error.args[0]}") from error
        shares = self.recipe.groups or {}
        if strange := sorted({*named} ^ {*shares}):
            raise InputError(f"groups must name those of {index.name}, no more and no fewer; see {', '.join(strange)}")
        return {group: np.flatnonzero(named == group) for group in shares}


def _decoded(shards: list[Path], folder: Path) -> list[tuple[str, int, int, int]]:
    """Return the rows of TABLE; write TABLE and PIXELS where they are missing or of other shards."""
    table = folder / TABLE
    sources = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in shards}
    if table.exists():
        kept = json.loads(table.read_text())
        if kept["sources"] == sources:
            listed: list[tuple[str, int, int, int]] = kept["pictures"]
            return listed
    table.unlink(missing_ok=True)  # its offsets are not those of the pixels that follow
    rows, place = [], 0
    with atomic_write(folder / PIXELS) as file:
        for shard in shards:
            for name, picture in read_pictures(shard):
                rows.append((name, place, *picture.shape[:2]))
                file.write(picture.tobytes())
                place += picture.nbytes
    with atomic_write(table) as file:
        file.write(json.dumps({"sources": sources, "pictures": rows}).encode())
    return rows
