"""A call of a restorer with a picture: what was given and asked, made ready, and what is handed out."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engines import InputError, Plan
from ..operators import Shape
from ..sampling.guidance import Guidance
from .decoding import LARGEST
from .kinds import Kind, Made, Output, Range, check_range, read_pictures
from .measurement import Measurement
from .options import check_names, guidance_of, read_damage
from .ready import Ready, make_ready


@dataclass(frozen=True)
class Call:
    """Pictures of one size that are restored alike, each as it would be alone."""

    ready: Sequence[Ready]
    kind: Kind
    output: Output | None
    guidance: Guidance
    """With any sigma: each picture has its own."""
    fit: str | None

    @classmethod
    def read(
        cls, plan: Plan, given: Any, range: Range | None, output: Output | None, options: Mapping[str, Any]
    ) -> "Call":
        """Read and measure what is given, for the prior of `plan`.

        given, range: as `read_pictures` takes them. options: `Options`; sigma is on `range`, where one is given. Raises
        InputError, KindError of a name or type that is none.
        """
        check_names(options)
        damage, guidance = read_damage(_signed(options, range)), guidance_of(options)
        if range is not None and not damage.is_picture:
            raise InputError("range is of pictures, and what was measured is none; leave it out")
        photos, kind = read_pictures(given, range, LARGEST if damage.is_picture else np.inf)
        made: dict[Hashable, Any] = {}
        fit, aligned = options.get("fit"), bool(options.get("align", False))
        ready = [make_ready(photo, plan, damage, fit, aligned, made) for photo in photos]
        return cls(ready, kind, output, guidance, fit)

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of the images that are restored."""
        return self.ready[0].image_shape

    @property
    def due(self) -> list[Measurement]:
        """The measurements to restore: those of the pictures in which something is wrong."""
        return [each for one in self.ready if not one.measurement.is_clean for each in one.measurements]

    def give(self, restored: Sequence[Sequence[np.ndarray]]) -> Any:
        """Hand out the pictures.

        restored: for each picture the images (1, C, H, W) of its measurements, none where it is left alone.
        """
        made = [_made(one, images) for one, images in zip(self.ready, restored, strict=True)]
        return self.kind.give(made, self.output)


def _made(one: Ready, images: Sequence[np.ndarray]) -> Made:
    if not images:
        return Made(one.untouched, one.photo.metadata)
    return Made(one.laid_out(images)[0], one.photo.metadata, one.left_missing)


def _signed(options: Mapping[str, Any], range: Range | None) -> Mapping[str, Any]:
    """The options with sigma on the [-1, 1] scale."""
    if range is None or options.get("sigma") is None:
        return options
    low, high = check_range(range)
    return {**options, "sigma": 2 * options["sigma"] / (high - low)}
