"""Pictures from the command line: found, and restored a portion at a time. A failure is reported and stops no other."""

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
"""The most restorations that share network calls and memory."""
PIXELS_TOGETHER = 4_000_000
"""The most pixels of the restorations that share network calls."""


@dataclass(frozen=True)
class Prepared:
    """A picture that has been read and measured."""

    source: Path
    ready: Ready
    restorer: Restorer
    """The restorer for the picture's size."""

    @property
    def photo(self) -> Photo:
        """The picture, or the photograph around its faces."""
        return self.ready.photo

    @property
    def measurement(self) -> Measurement:
        """The measurement; of several faces, the first one's."""
        return self.ready.measurement

    @property
    def measurements(self) -> list[Measurement]:
        """The measurement of each face, or of the whole picture alone."""
        return self.ready.measurements


@dataclass(frozen=True)
class Restored:
    """A restored picture. The result has a batch axis, with a row for each sample."""

    source: Path
    metadata: Metadata
    task: str
    because: str
    sigma: float
    faces: Sequence[Mapping[str, Any]]
    """`Aligned.settings` of the faces restored; empty where the whole picture was."""
    images: np.ndarray
    """(N, C, H, W): the result in the picture's orientation, without padding, faces pasted into the photograph."""
    missing: np.ndarray | None
    """(H, W) bool: pixels that are still missing, outside the frames; None where none are."""
    result: Result
    """The result; of several faces the first one's, with the seconds of all."""
    notes: Sequence[str] = ()
    """`Photo.notes`."""

    @classmethod
    def of(cls, one: Prepared, results: Sequence[Result]) -> "Restored":
        """Combine the results, one for each of `one.measurements`."""
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
    """A picture in which nothing wrong was found."""

    source: Path
    data: bytes | None
    """The picture's file; None where a part, a frame or another size of it was to be restored."""
    pixels: np.ndarray
    """(C, H, W) on [-1, 1]: the pixels that would have been restored."""
    metadata: Metadata
    because: str
    sigma: float
    notes: Sequence[str] = ()
    """`Photo.notes`."""
    options: Sequence[str] = ()
    """Options that say what may be wrong with it."""

    @classmethod
    def of(cls, one: Prepared, data: bytes | None) -> "Untouched":
        photo, measurement = one.photo, one.measurement
        whole = measurement.picture.shape[1:] == photo.pixels.shape[1:]
        kept = data if whole else None
        options = ["--noise 5", *["--task jpeg"] * (photo.coding is not None), *["--task colorize"] * photo.is_grey]
        said = measurement.because, measurement.sigma, photo.notes, options
        return cls(one.source, kept, measurement.picture, photo.metadata, *said)


@dataclass(frozen=True)
class Failed:
    """A picture that cannot be read or restored, with the reason in one sentence."""

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
    """Settings of the sampler; each picture has its own sigma."""
    samples: int
    tile: tuple[int, int] | None = None
    """Height and width of the tiles, to repeat an earlier run; None: as memory allows."""
    frame: int | None = None
    """The frame or page of each file, from 1; None is the first."""


class FolderRestorer:
    """Restorer of pictures by an Order, a portion at a time. Pictures of one size share calls, restorer and operators.

    Restorers and operators are kept for later pictures. on_tiles: as in `Restorer.at`.
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
        """Restore every picture, TOGETHER rows at a time, with the same result as alone.

        A picture in which nothing wrong is found is Untouched. read: returns a picture's file. on_ready: called with
        each picture before it is restored. A FrugalError of one picture, also from `read`, becomes its Failed.
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
        """Restore a portion and yield its outcomes in order."""
        done: dict[Path, Outcome] = {one.source: one for one in portion if not isinstance(one, Prepared)}
        ready = (one for one in portion if isinstance(one, Prepared))
        for _, same in groupby(ready, lambda one: id(one.restorer)):
            for few in _portions(list(same), together(self._order.samples)):
                for outcome in self._together(few, on_step):
                    done[outcome.source] = outcome
        yield from (done[one.source] for one in portion)

    def _prepare(self, source: Path, data: bytes) -> Prepared:
        """Decode and measure the picture `source` from its file. Raises InputError."""
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
        """Restore pictures of one size in shared calls; where one diverges, restore each alone to keep the others."""
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
    """Return a picture's name for messages."""
    return "standard input" if source == STREAM else source.name


def together(samples: int) -> int:
    """Return the number of pictures that, with `samples` rows each, make at most TOGETHER rows."""
    return max(1, TOGETHER // samples)


def _portions(pictures: Sequence[Prepared], most: int) -> Iterator[list[Prepared]]:
    """Yield the pictures in portions of at most `most` measurements; a picture with more is a portion of its own."""
    few: list[Prepared] = []
    for one in pictures:
        if few and sum(len(each.measurements) for each in [*few, one]) > most:
            yield few
            few = []
        few.append(one)
    if few:
        yield few


def find_pictures(given: Sequence[Path], tell: Callable[[str], object] = lambda line: None) -> list[Path]:
    """Return the files named, those that match a pattern such as 'photos/*.jpg', and those in a folder, once each.

    In a folder, subfolders and hidden files are skipped. So are pictures that this program restored, and formats that
    cannot be read; `tell` is called with a sentence that counts them. Raises InputError for a name without a picture.
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
    """Return the names of the first three files."""
    return ", ".join(one.name for one in files[:3]) + (", ..." if len(files) > 3 else "")
