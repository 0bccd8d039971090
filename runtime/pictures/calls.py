"""A call of a restorer with a picture: from its input and options to measurements, and from images to its answer."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engines import InputError, Plan
from ..operators import Shape
from ..sampling.guidance import Guidance
from .decoding import LARGEST
from .kinds import Kind, Made, Output, Range, read_pictures, signed_sigma
from .measurement import Measurement
from .options import check_names, guidance_of, read_damage, read_whole
from .ready import Ready, make_ready


@dataclass(frozen=True)
class Call:
    """Pictures of one size with the same settings, each restored as it would be alone."""

    ready: Sequence[Ready]
    kind: Kind
    output: Output | None
    guidance: Guidance
    """Settings with any sigma: each picture has its own."""
    fit: str | None
    notes: tuple[str, ...]
    """Sentences about contents of files that were left out, the mask's first."""

    @classmethod
    def read(
        cls, plan: Plan, given: Any, range: Range | None, output: Output | None, options: Mapping[str, Any]
    ) -> "Call":
        """Read and measure the given pictures, for the prior of `plan`.

        given, range: as in `read_pictures`. options: `Options`; sigma is on `range`, where one is given. Raises
        InputError, and KindError for an unknown option or type.
        """
        check_names(options)
        notes: list[str] = []
        damage, guidance = read_damage(_signed(options, range), notes.append), guidance_of(options)
        if range is not None and not damage.is_picture:
            raise InputError("range is for pictures, and this measurement is not one; leave it out")
        photos, kind = read_pictures(
            given, range, LARGEST if damage.is_picture else np.inf, read_whole("frame", options.get("frame"))
        )
        made: dict[Hashable, Any] = {}
        fit, aligned = options.get("fit"), bool(options.get("align", False))
        ready = [make_ready(photo, plan, damage, fit, aligned, made) for photo in photos]
        notes += [note for photo in photos for note in photo.notes]
        return cls(ready, kind, output, guidance, fit, tuple(notes))

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of the images that are restored."""
        return self.ready[0].image_shape

    @property
    def due(self) -> list[Measurement]:
        """The measurements to restore: those of the pictures in which something wrong was found."""
        return [each for one in self.ready if not one.measurement.is_clean for each in one.measurements]

    def give(self, restored: Sequence[Sequence[np.ndarray]]) -> Any:
        """Return the restored pictures in the given kind.

        restored: for each picture the images (1, C, H, W) of its measurements, none for an unchanged picture.
        """
        made = [_made(one, images) for one, images in zip(self.ready, restored, strict=True)]
        return self.kind.give(made, self.output)


def _made(one: Ready, images: Sequence[np.ndarray]) -> Made:
    if not images:
        return Made(one.untouched, one.photo.metadata)
    return Made(one.laid_out(images)[0], one.photo.metadata, one.left_missing)


def _signed(options: Mapping[str, Any], range: Range | None) -> Mapping[str, Any]:
    """Return the options with sigma on the [-1, 1] scale."""
    if range is None or options.get("sigma") is None:
        return options
    return {**options, "sigma": signed_sigma(options["sigma"], range)}
