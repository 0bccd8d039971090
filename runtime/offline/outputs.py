"""What a restoration leaves on disk: the picture, and with several samples each of them and their deviation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..pictures.images import check_output, to_picture, write_png
from .folder import Restored


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
