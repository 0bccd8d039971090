"""Many pictures from the command line: found, restored a batch at a time, the ones that fail told and passed over."""

import glob
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import DivergedError, FrugalError, InputError
from ...engines.files import is_folder, is_there
from ..pictures.align import Frame, align
from ..pictures.damage import Damage
from ..pictures.decoding import LARGEST, Metadata, Photo, decode_photo
from ..pictures.images import SUFFIXES
from ..pictures.measurement import Measurement, full_size, prepare
from ..restorer import Restorer, Result
from ..sampling.guidance import Guidance
from ..sampling.loop import StepEvent

TOGETHER = 16
"""Restorations that are in memory, and share network calls, at once."""


@dataclass(frozen=True)
class Prepared:
    """A picture that can be restored."""

    source: Path
    photo: Photo
    measurement: Measurement
    restorer: Restorer
    """The one for its size."""
    frame: Frame | None = None
    """The part of it that is restored, where that is not all."""


@dataclass(frozen=True)
class Restored:
    """What became of it, without what it took; the result has a batch axis, a row for each sample."""

    source: Path
    metadata: Metadata
    task: str
    because: str
    sigma: float
    frame: Frame | None
    images: np.ndarray
    """(N, C, H, W): the result as the picture lay, cut out of its padding or in its place in the photograph."""
    missing: np.ndarray | None
    """(H, W) bool: pixels that are still missing, outside the frame; None where none are."""
    result: Result

    @classmethod
    def of(cls, one: Prepared, result: Result) -> "Restored":
        photo, measurement, frame = one.photo, one.measurement, one.frame
        images = result.image if measurement.inside is None else result.image[(..., *measurement.inside)]
        return cls(
            source=one.source,
            metadata=photo.metadata,
            task=measurement.task,
            because=measurement.because,
            sigma=measurement.sigma,
            frame=frame,
            images=images if frame is None else frame.paste(photo, result.image, measurement),
            missing=None if frame is None else frame.left_missing(photo),
            result=result,
        )


@dataclass(frozen=True)
class Untouched:
    """A picture that nothing is wrong with, as it came."""

    source: Path
    data: bytes | None
    """Its file; None where only part of it was to be restored, or at another size."""
    pixels: np.ndarray
    """(C, H, W) on [-1, 1]: what would have been restored."""
    metadata: Metadata
    because: str
    sigma: float

    @classmethod
    def of(cls, one: Prepared, data: bytes) -> "Untouched":
        photo, measurement = one.photo, one.measurement
        whole = measurement.picture.shape[1:] == photo.pixels.shape[1:]
        kept = data if whole else None
        return cls(one.source, kept, measurement.picture, photo.metadata, measurement.because, measurement.sigma)


@dataclass(frozen=True)
class Failed:
    """A picture that cannot be read or restored, and why, in one sentence."""

    source: Path
    why: str


Outcome = Restored | Untouched | Failed


@dataclass(frozen=True)
class Order:
    """What is asked of every picture alike."""

    damage: Damage
    fit: str | None
    tile: bool
    align: bool
    guidance: Guidance
    """With any sigma: a picture has its own."""
    samples: int


class FolderRestorer:
    """Restores pictures as ordered, some at a time: those of one size share network calls, a restorer and operators.

    It keeps what they share for the pictures to come. on_tiles: as `Restorer.tiled` takes it.
    """

    def __init__(self, restorer: Restorer, order: Order, on_tiles: Callable[[int, int], object] | None = None):
        self._restorer, self._order = restorer, order
        self._tiled = cache(partial(restorer.tiled, on_tiles=on_tiles))
        self._operators: dict[Hashable, Any] = {}

    def restore(
        self,
        sources: Sequence[Path],
        read: Callable[[Path], bytes],
        on_ready: Callable[[Prepared], object] = lambda prepared: None,
        on_step: Callable[[StepEvent], object] | None = None,
    ) -> Iterator[Outcome]:
        """Restore every picture, one after another, TOGETHER rows at a time; each as it would be alone.

        One that nothing is wrong with is left untouched. read: gives a picture's file. on_ready: called with each
        before it is restored. FrugalErrors of one picture, those of `read` among them, become its Failed.
        """
        size = together(self._order.samples)
        for first in range(0, len(sources), size):
            portion = sources[first : first + size]
            ready: list[Prepared] = []
            done: dict[Path, Outcome] = {}
            for source in portion:
                try:
                    data = read(source)
                    prepared = self._prepare(source, data)
                except FrugalError as error:
                    done[source] = Failed(source, str(error))
                    continue
                if prepared.measurement.is_clean:
                    done[source] = Untouched.of(prepared, data)
                else:
                    ready.append(prepared)
                    on_ready(prepared)
            for _, same in groupby(ready, lambda one: id(one.restorer)):
                for outcome in self._together(list(same), on_step):
                    done[outcome.source] = outcome
            yield from (done[source] for source in portion)

    def _prepare(self, source: Path, data: bytes) -> Prepared:
        """A picture of that name, from its file. Raises InputError."""
        order, mine, frame = self._order, self._restorer, None
        photo = decode_photo(data, source.name, LARGEST if order.damage.is_picture else math.inf)
        if order.align:
            photo, frame, measurement = align(photo, mine.plan, order.damage)
        else:
            if order.tile:
                sides = full_size(photo, order.damage)
                least = mine.image_shape[1:] if order.fit == "pad" else sides
                mine = self._tiled(*map(max, sides, least))
            measurement = prepare(photo, mine.image_shape, order.damage, order.fit, self._operators)
        if order.guidance.aim_with(measurement.operator) is None and order.guidance.switch != "never":
            measurement.operator.prepare()
        return Prepared(source, photo, measurement, mine, frame)

    def _together(
        self, pictures: Sequence[Prepared], on_step: Callable[[StepEvent], object] | None
    ) -> list[Restored | Failed]:
        """Pictures of one size in shared calls; each alone if one of them diverges, so that the others are kept."""
        restorer, order = pictures[0].restorer, self._order
        try:
            groups = [
                restorer.start(
                    np.repeat(one.measurement.y[None], order.samples, axis=0),
                    one.measurement.operator,
                    replace(order.guidance, sigma=one.measurement.sigma),
                )
                for one in pictures
            ]
            results = restorer.results(groups, on_step=on_step)
            return [Restored.of(one, result) for one, result in zip(pictures, results, strict=True)]
        except DivergedError as error:
            if len(pictures) == 1:
                return [Failed(pictures[0].source, str(error))]
            return [outcome for one in pictures for outcome in self._together([one], on_step)]


def together(samples: int) -> int:
    """How many pictures, each restored so often, make TOGETHER rows."""
    return max(1, TOGETHER // samples)


def find_pictures(given: Sequence[Path]) -> list[Path]:
    """The files named, those that fit a pattern such as 'photos/*.jpg', and the pictures in a folder, once each.

    Of a folder, files in folders below it and hidden ones are not. Raises InputError for a name that gives none.
    """
    found: dict[Path, None] = {}
    for path in given:
        if is_folder(path):
            matches = [one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and not one.name.startswith(".")]
            if not matches:
                raise InputError(f"there are no pictures in {path} ({', '.join(SUFFIXES)})")
        elif glob.has_magic(str(path)) and not is_there(path):
            named = glob.iglob(str(path), recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
            matches = [one for one in map(Path, named) if one.is_file()]
            if not matches:
                raise InputError(f"no file fits {path}")
        else:
            matches = [path]
        found.update(dict.fromkeys(sorted(matches)))
    return list(found)
