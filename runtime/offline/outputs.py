"""Outputs of a run: the names of results, and the files of each, of which several samples have more."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import InputError
from ...engines.files import atomic_write, is_folder, is_there
from ...engines.version import __version__
from ..pictures.formats import PICTURES, encode_picture, write_picture
from ..pictures.images import check_output, is_name_too_long, to_picture
from . import streams
from .folder import Failed, Restored, Untouched


@dataclass(frozen=True)
class Targets:
    """The names of a run's results."""

    paths: Mapping[Path, Path]
    """The output file, or STREAM, of each picture to restore, in the pictures' order."""
    there: Sequence[Path]
    """Pictures that are skipped, because their results exist."""
    folder: Path | None
    """The folder for several results, which may not exist yet."""
    suffix: str
    """The format, one of PICTURES, of results whose names the user does not give."""
    unfit: Sequence[Failed] = ()
    """Pictures whose result would have an impossible file name."""
    named: bool = False
    """Whether the user named an output; without one, a picture with nothing wrong is not written."""
    replaced: frozenset[Path] = frozenset()
    """Pictures whose existing results are replaced. Results that appear later belong to another process."""

    @classmethod
    def settle(
        cls,
        sources: Sequence[Path],
        one: bool,
        output: Path | None,
        samples: int,
        resume: bool,
        force: bool,
        suffix: str = ".png",
    ) -> "Targets":
        """Determine the targets for `samples` of each picture.

        one: a single picture was named; without `output` its result goes beside it. resume: skip pictures whose files
        all exist. force: replace files. suffix: the suffix of names that are made here. Raises InputError for a file
        that may not be written.
        """
        if output == streams.STREAM:
            return cls({_alone(sources, one, samples): output}, [], None, suffix, named=True)
        in_folder = output is not None and is_folder(output)
        if one and not in_folder:
            targets = {source: output or source.parent / f"{source.stem}.restored{suffix}" for source in sources}
        elif output is None:
            raise InputError("say where the restored pictures go: -o FOLDER")
        else:
            if output.is_file():
                raise InputError(f"{output} is a file; several pictures go into a folder: -o FOLDER")
            if output.suffix.lower() in PICTURES and not in_folder:
                raise InputError(f"{output} is named as a picture; several go into a folder: -o FOLDER")
            targets = _in_folder(output, sources, suffix)
        whole = {source for source, target in targets.items() if is_whole(target, samples)}  # others may add
        there = [source for source in targets if resume and source in whole]
        due = {source: target for source, target in targets.items() if not (resume and source in whole)}
        whys = {} if one else {source: _unfit(target, samples) for source, target in due.items()}
        unfit = [Failed(source, why) for source, why in whys.items() if why]
        due = {source: target for source, target in due.items() if not whys.get(source)}
        if one or in_folder:
            for target in due.values():
                check_outputs(target, samples, force or resume)
        replaced = frozenset(whole).intersection(due)
        return cls(due, there, None if one else output, suffix, unfit, output is not None, replaced)


def output_paths(target: Path, samples: int) -> list[Path]:
    """Return the picture's path and, for 2 samples or more, STEM.sample-1.png .. and STEM.deviation.png beside it."""
    if samples == 1:
        return [target]
    more = [f"sample-{i + 1}" for i in range(samples)]
    return [target, *(target.with_name(f"{target.stem}.{name}{target.suffix}") for name in [*more, "deviation"])]


def is_whole(target: Path, samples: int) -> bool:
    """Return whether all files of a result exist."""
    return all(is_there(path) for path in output_paths(target, samples))


def _unfit(target: Path, samples: int) -> str:
    """Return a sentence where the result's file name is impossible, or ""."""
    for path in output_paths(target, samples):
        if is_name_too_long(path):
            return f"its result cannot be written: the name {path.name[:30]}... is too long for a file"
        if is_folder(path):
            return f"its result cannot be written: {path} is a folder"
    return ""


def check_outputs(target: Path, samples: int, force: bool) -> None:
    """Raise InputError unless all files of a result may be written."""
    for path in output_paths(target, samples):
        check_output(path, force, [*PICTURES])


def write_result(target: Path, restored: Restored, settings: Mapping[str, Any], suffix: str = ".png") -> list[Path]:
    """Write a result's rows into their files, with the source's metadata and `settings`; return the files.

    With several samples the picture is their mean. The picture of the deviation is grey: the root mean square over
    channels of the samples' standard deviation (N - 1 in the denominator). White is its largest value, which its
    settings name. suffix: the format for standard output. Raises FrugalError.
    """
    images, missing, metadata = restored.images, restored.missing, restored.metadata
    paths = output_paths(target, len(images))
    mean = to_picture(images.mean(axis=0), missing)
    if target == streams.STREAM:
        streams.write(encode_picture(f"standard output{suffix}", mean, settings, metadata))
        return paths
    write_picture(target, mean, settings, metadata)
    if len(images) > 1:
        for i, (path, image) in enumerate(zip(paths[1:-1], images, strict=True)):
            write_picture(path, to_picture(image, missing), {**settings, "sample": settings["sample"] + i}, metadata)
        deviation = np.sqrt(np.square(images.std(axis=0, ddof=1)).mean(axis=0, keepdims=True))
        white = float(deviation.max())
        write_picture(paths[-1], to_picture(2 * deviation / (white or 1) - 1), {**settings, "white": white})
    return paths


def write_untouched(target: Path, untouched: Untouched, suffix: str = ".png") -> list[Path]:
    """Write an untouched picture: its file where the format is the same, its pixels otherwise.

    suffix: the format for standard output. Raises FrugalError.
    """
    to_stream = target == streams.STREAM
    name, data = f"standard output{suffix}" if to_stream else target.name, untouched.data
    kind = PICTURES[Path(name).suffix.lower()]
    if data is None or PICTURES.get(untouched.source.suffix.lower()) != kind:
        said = {
            "frugal_rt": __version__,
            "task": "denoise",
            "unchanged": True,
        }  # so that `find_pictures` does not take it for a source
        data = encode_picture(name, to_picture(untouched.pixels), said, untouched.metadata)
    if to_stream:
        streams.write(data)
    else:
        with atomic_write(target) as file:
            file.write(data)
    return [target]


def _alone(sources: Sequence[Path], one: bool, samples: int) -> Path:
    """Return the picture whose restoration goes to standard output. Raises InputError."""
    if not one:
        raise InputError("standard output takes one picture; several go into a folder: -o FOLDER")
    if samples > 1:
        raise InputError("--samples makes several pictures, and standard output takes one; name a file with -o")
    streams.check_output()
    return sources[0]


def _in_folder(folder: Path, sources: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """Return each picture's target: FOLDER/STEM.png, or FOLDER/NAME.png where two have the stem. Raises InputError."""
    stems = [source.stem for source in sources]
    targets = {
        source: folder / f"{source.stem if stems.count(source.stem) == 1 else source.name}{suffix}"
        for source in sources
    }
    owners: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in owners:
            raise InputError(f"{owners[target]} and {source} would both become {target.name}; restore them apart")
        owners[target] = source
        if os.path.realpath(target) == os.path.realpath(source):  # Path.resolve raises for a link to itself
            raise InputError(f"{source} would be replaced by its restoration; name another folder with -o")
    return targets
