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
from ..pictures.images import LARGEST, SUFFIXES, Metadata, Photo, decode_photo
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
class Failed:
    """A picture that cannot be read or restored, and why, in one sentence."""

    source: Path
    why: str


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

    def preparing(
        self, restorer: Restorer, on_tiles: Callable[[int, int], object] | None = None
    ) -> Callable[[Path, bytes], Prepared]:
        """Takes a picture's name and the bytes of its file to what can be restored; that raises InputError.

        on_tiles: as `Restorer.tiled` takes it.
        """
        tiled, made = cache(partial(restorer.tiled, on_tiles=on_tiles)), dict[Hashable, Any]()
        largest = LARGEST if self.damage.is_picture else math.inf

        def prepared(source: Path, data: bytes) -> Prepared:
            photo, mine, frame = decode_photo(data, source.name, largest), restorer, None
            if self.align:
                photo, frame, measurement = align(photo, restorer.plan, self.damage)
            else:
                if self.tile:
                    sides = full_size(photo, self.damage)
                    least = restorer.image_shape[1:] if self.fit == "pad" else sides
                    mine = tiled(*map(max, sides, least))
                measurement = prepare(photo, mine.image_shape, self.damage, self.fit, made)
            if self.guidance.switch != "never":
                measurement.operator.prepare()
            return Prepared(source, photo, measurement, mine, frame)

        return prepared


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


def restore_pictures(
    sources: Sequence[Path],
    read: Callable[[Path], Prepared],
    order: Order,
    on_step: Callable[[StepEvent], object] | None = None,
) -> Iterator[Restored | Failed]:
    """Every picture restored as ordered, one after another, TOGETHER rows at a time; each as it would be alone.

    FrugalErrors of one picture, those of `read` among them, become its Failed.
    """
    size = together(order.samples)
    for first in range(0, len(sources), size):
        ready: list[Prepared] = []
        failed: dict[Path, Failed] = {}
        for source in sources[first : first + size]:
            try:
                ready.append(read(source))
            except FrugalError as error:
                failed[source] = Failed(source, str(error))
        done: dict[Path, Restored | Failed] = dict(failed)
        for _, same in groupby(ready, lambda one: id(one.restorer)):
            for outcome in _together(list(same), order, on_step):
                done[outcome.source] = outcome
        yield from (done[source] for source in sources[first : first + size])


def together(samples: int) -> int:
    """How many pictures, each restored so often, make TOGETHER rows."""
    return max(1, TOGETHER // samples)


def _together(
    pictures: Sequence[Prepared],
    order: Order,
    on_step: Callable[[StepEvent], object] | None,
) -> list[Restored | Failed]:
    """Pictures of one size in shared calls; each alone if one of them diverges, so that the others are kept."""
    restorer = pictures[0].restorer
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
        return [outcome for one in pictures for outcome in _together([one], order, on_step)]
