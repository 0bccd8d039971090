"""Alignment: faces of a photograph are cut out as the prior was trained on them, restored, and pasted back."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...engines import InputError, MissingExtra, Plan
from ..operators import GREY_WEIGHTS, Shape
from .damage import GREY, SIGMA, Damage, SettledDamage, settle
from .decoding import Photo, is_grey
from .detail import detail
from .faces import SURE, Face, find_faces
from .images import fit_photo, resized
from .measurement import Measurement, measure
from .noise_level import unnamed_sigma

ALIGNED = ("denoise", "inpaint", "colorize")
"""The tasks that can be aligned: their damage is per pixel, so that it does not change with the scale."""
MOST = 16
"""The most faces of a photograph that are restored, the largest first."""
TOLD = 3
"""The most faces of a photograph whose places a message lists."""
ENLARGED = 4
"""The largest factor by which a frame is enlarged; a smaller face has too few pixels to restore."""
OWN_PIXELS = 0.15
"""A frame whose side differs from the prior's by a smaller share is cut out without resampling."""
FEATHER = 0.125
"""Share of a frame's side over which it is blended with the photograph."""


@dataclass(frozen=True)
class Frame:
    """A square in a photograph, in pixels; it may extend beyond the photograph."""

    left: int
    top: int
    side: int

    @classmethod
    def around(cls, face: Face, framing: Mapping[str, Any], size: int) -> "Frame":
        """Return the square in which the face's box lies as `framing` says for the prior's images of `size`.

        framing: `centre` [x, y] and `side` of the detector's box, in shares of the image's side.
        """
        side = face.side / framing["side"]
        side = size if abs(side / size - 1) < OWN_PIXELS else max(1, round(side))
        x, y = framing["centre"]
        return cls(round(face.x - x * side), round(face.y - y * side), side)

    def cut(self, photo: Photo, size: int) -> Photo:
        """Cut the square out, at size x size; the part beyond the photograph is marked `outside`."""
        inside, rows, columns = self.places(photo)
        blank = np.ones((self.side, self.side), bool)
        outside, missing = blank.copy(), ~blank
        pixels = np.zeros((len(photo.pixels), self.side, self.side), np.float32)
        outside[inside], pixels[(..., *inside)] = False, photo.pixels[:, rows, columns]
        if photo.missing is not None:
            missing[inside] = photo.missing[rows, columns]
        cut = Photo(pixels, missing if missing.any() else None, photo.metadata, outside if outside.any() else None)
        return cut if self.side == size else fit_photo(cut, (size, size), "mean" if self.side > size else "resize")

    def places(self, photo: Photo) -> tuple[tuple[slice, slice], slice, slice]:
        """Return the overlap of photograph and square: its slices in the square, and in the photograph."""
        width, height = photo.size
        top, bottom = max(self.top, 0), min(self.top + self.side, height)
        left, right = max(self.left, 0), min(self.left + self.side, width)
        inside = slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)
        return inside, slice(top, bottom), slice(left, right)

    def fade(self) -> np.ndarray:
        """Return blending weights (side, side): 1 in the middle, falling off linearly towards the border."""
        ramp = np.minimum(np.arange(self.side), np.arange(self.side)[::-1]) + 0.5
        ramp = np.clip(ramp / (FEATHER * self.side), 0, 1).astype(np.float32)
        return np.minimum.outer(ramp, ramp)


class FramedFace(NamedTuple):
    """A frame with a face, and its measurement."""

    frame: Frame
    measurement: Measurement
    sigma: float
    """Deviation of the noise in the photograph's pixels; the measurement averages them and has less."""

    def paste(self, photo: Photo, whole: np.ndarray, images: np.ndarray) -> None:
        """Write `images` (N, C, h, w), restored from the measurement, into `whole` (N, C, H, W), `photo` N times.

        A frame larger than the images keeps the photograph's detail beyond their resolution, weighed by `detail`. A
        grey frame stays grey unless colour was asked for. Values that were measured with noise of at most SIGMA keep
        the photograph's: known pixels beside missing ones, and the grey of a coloured picture. The frame's border is
        blended.
        """
        frame, task, exact = self.frame, self.measurement.task, self.sigma <= SIGMA
        inside, rows, columns = frame.places(photo)
        old = photo.pixels[:, rows, columns]
        known = np.ones(old.shape[1:], bool) if photo.missing is None else ~photo.missing[rows, columns]
        say = np.where(known, frame.fade()[inside], np.float32(1))
        colours = task == "colorize"
        if colours:
            weights = np.asarray(GREY_WEIGHTS[self.measurement.operator.settings["weights"]], np.float32)
            old = old if len(old) == 1 else np.tensordot(weights, old, 1)[None]
        elif is_grey(old, ~known):
            old, images = old[:1], _grey(images)
        for image, restored in zip(whole, images, strict=True):
            new = np.stack([resized(channel, (frame.side, frame.side)) for channel in restored])
            if colours and exact:
                new = new[(..., *inside)]
                new = np.where(known, new + (old - np.tensordot(weights, new, 1)), new)
            else:
                new = self._with_detail(new, old, known, inside, images.shape[-1])
            if task == "inpaint" and exact:
                new = np.where(known, old, new)
            there = image[:, rows, columns]
            image[:, rows, columns] = there + say * (new - there)

    def _with_detail(
        self, new: np.ndarray, old: np.ndarray, known: np.ndarray, inside: tuple[slice, slice], size: int
    ) -> np.ndarray:
        """Return the restored square (C, s, s) with the photograph's detail in known pixels, cropped to `inside`."""
        channels = max(len(new), len(old))
        seen = np.zeros(new.shape[1:], bool)
        seen[inside] = known
        square = np.broadcast_to(new, (channels, *seen.shape)) if len(old) > 1 else _grey(new[None])[0]
        square = square.copy()
        square[(..., *inside)] = np.where(known, old, square[(..., *inside)])
        found = detail(square, size, self.sigma, seen)
        return np.asarray((new + seen * found)[(..., *inside)])


class Aligned(NamedTuple):
    """A photograph, and its faces to restore."""

    photo: Photo
    faces: Sequence[FramedFace]
    """The faces, at least one, the largest first. The first one's measurement has the task and noise of all."""

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Return `frame` and `sigma` of each face for a restored picture's settings, in JSON's types."""
        return [{"frame": [*astuple(face.frame)], "sigma": face.measurement.sigma} for face in self.faces]

    def paste(self, restored: Sequence[np.ndarray]) -> np.ndarray:
        """Return the photograph (N, C, H, W) with the N images (N, c, h, w) of each face in its frame alone.

        They are pasted from the last to the first, so that the larger face is on top where frames overlap.
        """
        coloured = self.faces[0].measurement.task == "colorize"
        before = (self.photo.colour() if coloured else self.photo).pixels
        whole = np.repeat(before[None], len(restored[0]), axis=0)
        for face, images in reversed([*zip(self.faces, restored, strict=True)]):
            face.paste(self.photo, whole, images)
        return whole

    def left_missing(self) -> np.ndarray | None:
        """(H, W) bool: missing pixels that lie in no frame; None where there are none."""
        if self.photo.missing is None:
            return None
        missing = self.photo.missing.copy()
        for face in self.faces:
            _, rows, columns = face.frame.places(self.photo)
            missing[rows, columns] = False
        return missing if missing.any() else None


def framing_of(plan: Plan) -> Mapping[str, Any] | None:
    """Return the framing of the faces that the plan's prior was trained on, or None."""
    framing: Mapping[str, Any] | None = plan.manifest["prior"].get("framing")
    return framing


def knows_faces(plan: Plan) -> str | None:
    """Return a sentence that the plan's prior was trained on faces; None for another prior."""
    if framing_of(plan) is None:
        return None
    return f"{plan.manifest['prior']['name']} knows whole faces framed in one way, and does poorly elsewhere"


def sees_face(photo: Photo, plan: Plan) -> bool:
    """Return whether `photo` contains a face, detected with certainty, of at least the size that the prior knows.

    False where the detector is not installed, or the plan has no framing.
    """
    framing, size = framing_of(plan), plan.image_shape[2]
    if framing is None:
        return False
    try:
        faces = find_faces(photo)
    except MissingExtra:
        return False
    return any(face.votes >= SURE and Frame.around(face, framing, size).side >= size for face in faces)


def align(photo: Photo, plan: Plan, damage: Damage) -> Aligned:
    """Find at most MOST faces in `photo`, frame them as the prior of `plan` was trained, and measure them.

    `damage.sigma`, or its estimate in denoising, is of the photograph's pixels; a frame that is shrunk averages them,
    and has less noise. Left out are faces that would be enlarged by more than ENLARGED, and in inpainting faces without
    a missing pixel.

    Raises InputError without a face, for a task that is not in ALIGNED, and where the plan has no framing;
    MissingExtra.
    """
    framing, name = framing_of(plan), plan.manifest["prior"]["name"]
    if framing is None:
        own = "or put a framing.json beside the weights of a prior of faces of your own, and export it again"
        raise InputError(
            f"{name} does not say how the faces are framed that it was trained on, so none can be aligned; "
            + ("export it again" if name == "celeba" else f"use -e celeba --align, {own}")
        )
    shape: Shape = plan.image_shape
    settled = _accepted(photo, shape[0], damage)
    frames = [Frame.around(face, framing, shape[2]) for face in find_faces(settled.photo)]
    frames = sorted(frames, key=lambda frame: -frame.side)
    if not frames:
        raise InputError(
            "no face was found in the picture, upright, frontal and a twelfth of its longer side or more; cut one out "
            "by --fit crop, or leave --align out"
        )
    large = [frame for frame in frames if ENLARGED * frame.side >= shape[2]]
    if not large:
        raise InputError(
            f"the largest face's frame in the picture has {frames[0].side} pixels a side, too few for {name}, which "
            f"needs {-(-shape[2] // ENLARGED)}; take a picture of more pixels"
        )
    cuts = [(frame, frame.cut(settled.photo, shape[2])) for frame in large[:MOST]]
    if settled.task == "inpaint":
        cuts = [(frame, cut) for frame, cut in cuts if cut.missing is not None]
    if not cuts:
        raise InputError("no pixel of a face's frame is missing; leave --align out to fill in the others")
    faces, places = [], []
    for frame, cut in cuts:
        face, noise = _framed(settled, frame, cut, shape)
        faces.append(face)
        scaled = "at its own pixels" if frame.side == shape[2] else f"brought to {shape[2]}x{shape[1]}"
        places.append(f"{frame.side}x{frame.side} at ({frame.left}, {frame.top}), {scaled}, {noise}")
    which = "the face" if len(frames) == 1 else f"{len(faces)} of {len(frames)} faces"
    which = f"{len(faces)} faces" if len(faces) == len(frames) > 1 else which
    more = f"; and {len(places) - TOLD} smaller" if len(places) > TOLD else ""
    first = faces[0].measurement
    because = f"{first.because}; {which}, {'; '.join(places[:TOLD])}{more}"
    faces[0] = faces[0]._replace(measurement=replace(first, because=because))
    return Aligned(settled.photo, faces)


def _framed(settled: SettledDamage, frame: Frame, cut: Photo, shape: Shape) -> tuple[FramedFace, str]:
    """Measure the square `cut`; return it, and a clause about its noise."""
    own, sigma, whence = settled.damage.sigma, settled.damage.sigma, "as asked"
    if own is None or sigma is None:
        _, rows, columns = frame.places(settled.photo)
        sigma, found = unnamed_sigma(settled.photo.pixels[:, rows, columns], settled.task == "denoise")
        own, whence = (SIGMA, "assumed") if found is None else (found, "estimated")
    averaged = sigma * min(1, shape[2] / frame.side) if whence != "assumed" else sigma
    said = f"sigma {sigma:.3f} {whence}" + (f", {averaged:.3f} in the frame" if averaged < sigma else "")
    measurement = measure(replace(settled, photo=cut, damage=replace(settled.damage, sigma=averaged)), shape)
    return FramedFace(frame, measurement, own), said


def _grey(images: np.ndarray) -> np.ndarray:
    """Convert images (N, C, h, w) to grey, (N, 1, h, w)."""
    if images.shape[1] == 1:
        return images
    return np.tensordot(images, np.asarray(GREY_WEIGHTS[GREY], np.float32), ((1,), (0,)))[:, None]


def _accepted(photo: Photo, channels: int, damage: Damage) -> SettledDamage:
    """Settle the damage of the whole photograph. Raises InputError for one that cannot be restored in a frame."""
    if damage.hole is not None or damage.keep is not None:
        raise InputError("--hole and --keep are about the middle of a picture, not of a face; draw a --mask to --align")
    shape = (channels, *photo.pixels.shape[1:])
    settled = settle(photo, damage, shape)
    if settled.task not in ALIGNED:
        raise InputError(
            f"--align changes the scale, and {settled.task} is about pixels of one scale; it goes with "
            f"{', '.join(ALIGNED)}"
        )
    return settled
