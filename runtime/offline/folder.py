"""Many pictures from the command line: found, restored a batch at a time, the ones that fail told and passed over."""

import glob
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import DivergedError, FrugalError, InputError
from ...engines.files import is_folder, is_pipe, is_there
from ..pictures.damage import Damage
from ..pictures.decoding import LARGEST, Metadata, Photo, decode_photo
from ..pictures.formats import is_restored
from ..pictures.images import SUFFIXES, UNREAD
from ..pictures.measurement import Measurement
from ..pictures.ready import Ready, make_ready
from ..restorer import Restorer
from ..result import Result
from ..sampling.guidance import Guidance
from ..sampling.loop import StepEvent
from .streams import STREAM

TOGETHER = 16
"""Restorations that are in memory, and share network calls, at once."""
PIXELS_TOGETHER = 4_000_000
"""Pixels of theirs, beyond which no more join them."""


@dataclass(frozen=True)
class Prepared:
    """A picture that can be restored."""

    source: Path
    ready: Ready
    restorer: Restorer
    """The one for its size."""

    @property
    def photo(self) -> Photo:
        """The picture, or the photograph around its faces."""
        return self.ready.photo

    @property
    def measurement(self) -> Measurement:
        """The first one's, of several faces."""
        return self.ready.measurement

    @property
    def measurements(self) -> list[Measurement]:
        """The measurement of each face, or of all."""
        return self.ready.measurements


@dataclass(frozen=True)
class Restored:
    """A restored picture, without what restoring it took; the result has a batch axis, a row for each sample."""

    source: Path
    metadata: Metadata
    task: str
    because: str
    sigma: float
    faces: Sequence[Mapping[str, Any]]
    """`Aligned.settings` of those that were restored; empty where all was."""
    images: np.ndarray
    """(N, C, H, W): the result as the picture lay, cut out of its padding or in its place in the photograph."""
    missing: np.ndarray | None
    """(H, W) bool: pixels that are still missing, outside the frames; None where none are."""
    result: Result
    """The first face's, where there are several, with the seconds of all."""
    notes: Sequence[str] = ()
    """`Photo.notes`."""

    @classmethod
    def of(cls, one: Prepared, results: Sequence[Result]) -> "Restored":
        """results: one for each of `one.measurements`."""
        photo, measurement, aligned = one.photo, one.measurement, one.ready.aligned
        result = results[0]
        if len(results) > 1:
            taken = {phase: sum(each.seconds[phase] for each in results) for phase in result.seconds}
            result = replace(result, seconds=taken)
        return cls(
            source=one.source,
            metadata=photo.metadata,
            task=measurement.task,
            because=measurement.because,
            sigma=measurement.sigma,
            faces=() if aligned is None else aligned.settings,
            images=one.ready.laid_out([each.image for each in results]),
            missing=one.ready.left_missing,
            result=result,
            notes=photo.notes,
        )


@dataclass(frozen=True)
class Untouched:
    """A picture that nothing is wrong with, as it came."""

    source: Path
    data: bytes | None
    """Its file; None where only part of it, or one of its frames, was to be restored, or at another size."""
    pixels: np.ndarray
    """(C, H, W) on [-1, 1]: what would have been restored."""
    metadata: Metadata
    because: str
    sigma: float
    notes: Sequence[str] = ()
    """`Photo.notes`."""

    @classmethod
    def of(cls, one: Prepared, data: bytes | None) -> "Untouched":
        photo, measurement = one.photo, one.measurement
        whole = measurement.picture.shape[1:] == photo.pixels.shape[1:]
        kept = data if whole else None
        said = measurement.because, measurement.sigma, photo.notes
        return cls(one.source, kept, measurement.picture, photo.metadata, *said)


@dataclass(frozen=True)
class Failed:
    """A picture that cannot be read or restored, and why, in one sentence."""

    source: Path
    why: str


Outcome = Restored | Untouched | Failed


@dataclass(frozen=True)
class Order:
    """Settings of a run, the same for every picture."""

    damage: Damage
    fit: str | None
    align: bool
    guidance: Guidance
    """Settings with any sigma: a picture has its own."""
    samples: int
    tile: tuple[int, int] | None = None
    """Height and width of the tiles, to repeat what was run in such."""
    frame: int | None = None
    """The frame or page of each file, from 1; None is the first."""


class FolderRestorer:
    """Restores pictures as ordered, some at a time: those of one size share network calls, a restorer and operators.

    It keeps what they share for the pictures to come. on_tiles: as `Restorer.at` takes it.
    """

    def __init__(self, restorer: Restorer, order: Order, on_tiles: Callable[[int, int], object] | None = None):
        self._restorer, self._order = restorer, order
        self._at = lru_cache(2 * TOGETHER)(partial(restorer.at, on_tiles=on_tiles, tile=order.tile))
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
        size, pixels = together(self._order.samples), 0
        portion: list[Prepared | Untouched | Failed] = []
        for source in sources:
            try:
                data = read(source)
                ready = self._prepare(source, data)
            except FrugalError as error:
                portion.append(Failed(source, str(error)))
            else:
                if ready.measurement.is_clean:
                    portion.append(Untouched.of(ready, data if self._order.frame is None else None))
                else:
                    on_ready(ready)
                    portion.append(ready)
                pixels += math.prod(ready.restorer.image_shape[1:]) * self._order.samples
            if len(portion) == size or pixels >= PIXELS_TOGETHER:
                yield from self._outcomes(portion, on_step)
                portion, pixels = [], 0
        yield from self._outcomes(portion, on_step)

    def _outcomes(
        self, portion: Sequence[Prepared | Untouched | Failed], on_step: Callable[[StepEvent], object] | None
    ) -> Iterator[Outcome]:
        """Restore a portion and yield its outcomes, in its order."""
        done: dict[Path, Outcome] = {one.source: one for one in portion if not isinstance(one, Prepared)}
        ready = (one for one in portion if isinstance(one, Prepared))
        for _, same in groupby(ready, lambda one: id(one.restorer)):
            for few in _portions(list(same), together(self._order.samples)):
                for outcome in self._together(few, on_step):
                    done[outcome.source] = outcome
        yield from (done[one.source] for one in portion)

    def _prepare(self, source: Path, data: bytes) -> Prepared:
        """A picture of that name, from its file. Raises InputError."""
        order, mine = self._order, self._restorer
        photo = decode_photo(data, name_of(source), LARGEST if order.damage.is_picture else math.inf, frame=order.frame)
        ready = make_ready(photo, mine.plan, order.damage, order.fit, order.align, self._operators)
        if ready.image_shape != mine.image_shape:
            mine = self._at(*ready.image_shape[1:])
        prepared = Prepared(source, ready, mine)
        if order.guidance.method != "dps":
            for each in prepared.measurements:
                each.operator.prepare()
        return prepared

    def _together(
        self, pictures: Sequence[Prepared], on_step: Callable[[StepEvent], object] | None
    ) -> list[Restored | Failed]:
        """Pictures of one size in shared calls; each alone if one of them diverges, so that the others are kept."""
        restorer, order = pictures[0].restorer, self._order
        try:
            groups = [
                restorer._begin(
                    np.repeat(each.y[None], order.samples, axis=0),
                    each.operator,
                    replace(order.guidance, sigma=each.sigma),
                )
                for one in pictures
                for each in one.measurements
            ]
            results = iter(restorer._finish(groups, on_step=on_step))
            return [Restored.of(one, [*islice(results, len(one.measurements))]) for one in pictures]
        except DivergedError as error:
            if len(pictures) == 1:
                return [Failed(pictures[0].source, str(error))]
            return [outcome for one in pictures for outcome in self._together([one], on_step)]


def name_of(source: Path) -> str:
    """A picture's name in sentences about it."""
    return "standard input" if source == STREAM else source.name


def together(samples: int) -> int:
    """Number of pictures that, each restored so often, make TOGETHER rows."""
    return max(1, TOGETHER // samples)


def _portions(pictures: Sequence[Prepared], most: int) -> Iterator[list[Prepared]]:
    """The pictures in portions of `most` measurements, or of one picture that has more."""
    few: list[Prepared] = []
    for one in pictures:
        if few and sum(len(each.measurements) for each in [*few, one]) > most:
            yield few
            few = []
        few.append(one)
    if few:
        yield few


def find_pictures(given: Sequence[Path], tell: Callable[[str], object] = lambda line: None) -> list[Path]:
    """The files named, those that fit a pattern such as 'photos/*.jpg', and the pictures in a folder, once each.

    Of a folder, files in folders below it and hidden ones are not, nor pictures that this program restored, nor those
    of a format that is not read; `tell` is called with a sentence that counts the last two. Raises InputError for a
    name that gives none.
    """
    found: dict[Path, None] = {}
    for path in given:
        if is_folder(path):
            matches = _in_folder(path, tell)
        elif glob.has_magic(str(path)) and not is_there(path):
            named = glob.iglob(str(path), recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
            matches = [one for one in map(Path, named) if one.is_file()]
            if not matches:
                raise InputError(f"no file fits {path}")
        else:
            matches = [path]
        found.update(dict.fromkeys(sorted(matches)))
    return list(found)


def _in_folder(folder: Path, tell: Callable[[str], object]) -> list[Path]:
    files = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    unread = [one for one in files if one.suffix.lower() in UNREAD and one.suffix.lower() not in SUFFIXES]
    if unread:
        kinds = ", ".join(sorted({one.suffix.lower() for one in unread}))
        tell(f"{folder}: {len(unread)} passed over, of formats that are not read ({kinds}): {_few(unread)}")
    named = [one for one in files if one.suffix.lower() in SUFFIXES and not is_folder(one)]
    if pipes := [one for one in named if is_pipe(one)]:
        tell(f"{folder}: {len(pipes)} passed over, pipes or devices, which may never end: {_few(pipes)}")
    files = [one for one in named if one not in set(pipes)]
    restored = [one for one in files if is_restored(one)]
    if restored:
        tell(f"{folder}: {len(restored)} passed over, results of frugal-rt; name one to restore it: {_few(restored)}")
    matches = [one for one in files if one not in set(restored)]
    if not matches:
        but = f" but {len(restored)} that were restored" if restored else ""
        raise InputError(f"there are no pictures in {folder}{but} ({', '.join(SUFFIXES)})")
    return matches


def _few(files: Sequence[Path]) -> str:
    """The names of the first three."""
    return ", ".join(one.name for one in files[:3]) + (", ..." if len(files) > 3 else "")
