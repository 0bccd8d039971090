"""A picture on its way to a restorer and back: its size settled, measured, and what was restored laid where it was."""

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
    """(C, H, W) of the images that are restored."""
    measurement: Measurement
    """The first one's, of several faces."""
    aligned: Aligned | None = None
    """The faces that are restored, where that is not all."""

    @property
    def measurements(self) -> list[Measurement]:
        """The measurement of each face, or of all."""
        return [self.measurement] if self.aligned is None else [face.measurement for face in self.aligned.faces]

    @property
    def untouched(self) -> np.ndarray:
        """(C, H, W): what would have been restored, of a picture that nothing is wrong with."""
        return self.measurement.picture

    def laid_out(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C, H, W): the N images restored of each measurement as the picture lay.

        They are cut out of its padding, or in their places in the photograph.
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
    """Settle a photo's size and damage for the prior of `plan`, and measure it, or with `aligned` the faces in it.

    damage, fit, made: as `own_size` and `prepare` take them. Raises InputError, and MissingExtra where faces cannot be
    found.
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
