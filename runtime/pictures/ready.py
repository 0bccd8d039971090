"""A picture prepared for a restorer: its size and measurement, and the way back from restored images to the picture."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...engines import Plan
from ..operators import Shape
from .align import Aligned, align
from .damage import Damage
from .decoding import Photo
from .measurement import Measurement, own_size, prepare, told_by_file


@dataclass(frozen=True)
class Ready:
    """A picture that can be restored."""

    photo: Photo
    image_shape: Shape
    """(C, H, W) of the restored images."""
    measurement: Measurement
    """The measurement; of several faces, the first one's."""
    aligned: Aligned | None = None
    """The faces to restore; None where the whole picture is."""

    @property
    def measurements(self) -> list[Measurement]:
        """The measurement of each face, or of the whole picture alone."""
        return [self.measurement] if self.aligned is None else [face.measurement for face in self.aligned.faces]

    @property
    def untouched(self) -> np.ndarray:
        """(C, H, W): the pixels that would have been restored, for a picture in which nothing wrong was found."""
        return self.measurement.picture

    def laid_out(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return (N, C, H, W): the N restored images of each measurement in the picture's layout.

        They are cropped out of the padding, or pasted into the photograph.
        """
        if self.aligned is not None:
            return self.aligned.paste(images)
        return self.measurement.shown(images[0])

    @property
    def left_missing(self) -> np.ndarray | None:
        """(H, W) bool: pixels that are still missing, outside the frames of faces; None where none are."""
        return None if self.aligned is None else self.aligned.left_missing()


def make_ready(
    photo: Photo,
    plan: Plan,
    damage: Damage,
    fit: str | None = None,
    aligned: bool = False,
    made: dict[Hashable, Any] | None = None,
) -> Ready:
    """Settle a photo's size and damage for the prior of `plan`, and measure it, or with `aligned` its faces.

    damage, fit, made: as in `own_size` and `prepare`. Raises InputError, and MissingExtra without the face detector.
    """
    if aligned:
        found = align(photo, plan, damage)
        return Ready(found.photo, plan.image_shape, found.faces[0].measurement, found)
    damage = told_by_file(photo, damage, plan.image_shape, plan.stride is not None, fit)
    sizing = own_size(photo, damage, plan.image_shape, plan.stride is not None, fit)
    measurement = prepare(photo, sizing.image_shape, damage, sizing.fit, made)
    if sizing.said:
        measurement = replace(measurement, because=f"{measurement.because}; {sizing.said}")
    return Ready(photo, sizing.image_shape, measurement)
