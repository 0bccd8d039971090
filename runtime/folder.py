"""Many pictures from the command line: found, restored a batch at a time, the ones that fail told and passed over."""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..engines import DivergedError, FrugalError, InputError
from ..engines.files import is_folder, is_there
from .framing import Frame
from .images import Photo
from .picture_set import SUFFIXES
from .restorer import Restorer, Result, StepEvent
from .tasks import Job

TOGETHER = 16
"""Restorations that are in memory, and share network calls, at once."""


@dataclass(frozen=True)
class Prepared:
    """A picture that can be restored."""

    source: Path
    photo: Photo
    job: Job
    restorer: Restorer
    """The one for its size."""
    frame: Frame | None = None
    """The part of it that the job restores, where that is not all."""


@dataclass(frozen=True)
class Restored:
    """What became of it; the result has a batch axis, a row for each sample."""

    picture: Prepared
    result: Result

    @property
    def source(self) -> Path:
        return self.picture.source

    @property
    def images(self) -> np.ndarray:
        """(N, C, H, W): the result as the picture lay, cut out of its padding or in its place in the photograph."""
        picture, images = self.picture, self.result.image
        if picture.frame is not None:
            return picture.frame.paste(picture.photo, images, picture.job)
        return images if picture.job.inside is None else images[(..., *picture.job.inside)]

    @property
    def missing(self) -> np.ndarray | None:
        """(H, W) bool: pixels that are still missing, outside the frame; None where none are."""
        return None if self.picture.frame is None else self.picture.frame.left_missing(self.picture.photo)


@dataclass(frozen=True)
class Failed:
    """A picture that cannot be read or restored, and why, in one sentence."""

    source: Path
    why: str


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


def targets_in(folder: Path, sources: Sequence[Path]) -> dict[Path, Path]:
    """Where each picture goes: FOLDER/STEM.png, or FOLDER/NAME.png where two have the stem. Raises InputError."""
    stems = [source.stem for source in sources]
    targets = {
        source: folder / f"{source.stem if stems.count(source.stem) == 1 else source.name}.png" for source in sources
    }
    owners: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in owners:
            raise InputError(f"{owners[target]} and {source} would both become {target.name}; restore them apart")
        owners[target] = source
        if target.resolve() == source.resolve():
            raise InputError(f"{source} would be replaced by its restoration; name another folder with -o")
    return targets


def restore_pictures(
    sources: Sequence[Path],
    prepare: Callable[[Path], Prepared],
    settings: Mapping[str, Any],
    samples: int = 1,
    on_step: Callable[[StepEvent], object] | None = None,
) -> Iterator[Restored | Failed]:
    """Every picture restored `samples` times, in order, TOGETHER rows at a time; each as it would be alone.

    `prepare` reads one; `settings` are those of `Restorer.restore` besides y, operator and sigma. FrugalErrors of one
    picture become its Failed.
    """
    size = max(1, TOGETHER // samples)
    for first in range(0, len(sources), size):
        ready: list[Prepared] = []
        failed: dict[Path, Failed] = {}
        for source in sources[first : first + size]:
            try:
                ready.append(prepare(source))
            except FrugalError as error:
                failed[source] = Failed(source, str(error))
        done: dict[Path, Restored | Failed] = dict(failed)
        for _, same in groupby(ready, lambda one: id(one.restorer)):
            for outcome in _together(list(same), settings, samples, on_step):
                done[outcome.source] = outcome
        yield from (done[source] for source in sources[first : first + size])


def _together(
    pictures: Sequence[Prepared],
    settings: Mapping[str, Any],
    samples: int,
    on_step: Callable[[StepEvent], object] | None,
) -> list[Restored | Failed]:
    """Pictures of one size in shared calls; each alone if one of them diverges, so that the others are kept."""
    restorer = pictures[0].restorer
    try:
        groups = [
            restorer.start(
                np.repeat(one.job.y[None], samples, axis=0), one.job.operator, sigma=one.job.sigma, **settings
            )
            for one in pictures
        ]
        results = restorer.results(groups, on_step=on_step)
        return [Restored(one, result) for one, result in zip(pictures, results, strict=True)]
    except DivergedError as error:
        if len(pictures) == 1:
            return [Failed(pictures[0].source, str(error))]
        return [outcome for one in pictures for outcome in _together([one], settings, samples, on_step)]
