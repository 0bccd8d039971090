"""Where results go, and what each leaves on disk: the picture, and with several samples each and their deviation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import InputError
from ...engines.files import atomic_write, is_folder
from ..pictures.images import check_output, to_picture, write_png
from .folder import Restored, Untouched


@dataclass(frozen=True)
class Targets:
    """Where the results of pictures go."""

    paths: Mapping[Path, Path]
    """The PNG of each picture that is to be restored, in the pictures' order."""
    there: Sequence[Path]
    """Pictures that are left, because theirs is there."""
    folder: Path | None
    """The one that several go into, whether it is there or not."""
    named: bool
    """Whether it was said where they go: what nothing is wrong with goes nowhere else."""

    @classmethod
    def settle(
        cls, sources: Sequence[Path], one: bool, output: Path | None, samples: int, resume: bool, force: bool
    ) -> "Targets":
        """Settle them for `samples` of each picture.

        one: a picture was named, and not several; its result goes beside it where there is no `output`. resume: leave
        pictures whose files are all there. force: replace files. Raises InputError for what may not be written.
        """
        in_folder = output is not None and is_folder(output)
        if one and not in_folder:
            targets = {source: output or source.parent / f"{source.stem}.restored.png" for source in sources}
        elif output is None:
            raise InputError("say where the restored pictures go: -o FOLDER")
        else:
            if output.is_file():
                raise InputError(f"{output} is a file; several pictures go into a folder: -o FOLDER")
            targets = _in_folder(output, sources)
        there = [
            source
            for source, target in targets.items()
            if resume and all(path.exists() for path in output_paths(target, samples))
        ]
        due = {source: target for source, target in targets.items() if source not in there}
        if one or in_folder:
            for target in due.values():
                check_outputs(target, samples, force or resume)
        return cls(due, there, None if one else output, output is not None)


def output_paths(target: Path, samples: int) -> list[Path]:
    """The picture and, for 2 samples or more, STEM.sample-1.png .. and STEM.deviation.png beside it."""
    if samples == 1:
        return [target]
    more = [f"sample-{i + 1}" for i in range(samples)]
    return [target, *(target.with_name(f"{target.stem}.{name}.png") for name in [*more, "deviation"])]


def check_outputs(target: Path, samples: int, force: bool) -> None:
    """Raises InputError unless all of them may be written."""
    for path in output_paths(target, samples):
        check_output(path, force)


def write_result(target: Path, restored: Restored, settings: Mapping[str, Any]) -> list[Path]:
    """Write a result's rows, with the metadata of the picture they came from, and `settings` in a text chunk.

    With several samples the picture is their mean, and the deviation's is grey: the root mean square over channels of
    the deviation of a sample (N - 1 below), white being its largest, which its own text chunk names. Raises
    FrugalError.
    """
    images, missing, metadata = restored.images, restored.missing, restored.metadata
    paths = output_paths(target, len(images))
    write_png(target, to_picture(images.mean(axis=0), missing), settings, metadata)
    if len(images) > 1:
        for i, (path, image) in enumerate(zip(paths[1:-1], images, strict=True)):
            write_png(path, to_picture(image, missing), {**settings, "sample": settings["sample"] + i}, metadata)
        deviation = np.sqrt(np.square(images.std(axis=0, ddof=1)).mean(axis=0, keepdims=True))
        white = float(deviation.max())
        write_png(paths[-1], to_picture(2 * deviation / (white or 1) - 1), {**settings, "white": white})
    return paths


def write_untouched(target: Path, untouched: Untouched) -> list[Path]:
    """Write a picture as it came: its file where the format is the same, its pixels otherwise. Raises FrugalError."""
    if untouched.data is not None and target.suffix.lower() == untouched.source.suffix.lower():
        with atomic_write(target) as file:
            file.write(untouched.data)
    else:
        write_png(target, to_picture(untouched.pixels), metadata=untouched.metadata)
    return [target]


def _in_folder(folder: Path, sources: Sequence[Path]) -> dict[Path, Path]:
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
