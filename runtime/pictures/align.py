"""A face brought into the framing that a prior was trained on, and what became of it put back into its photograph."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...engines import InputError, MissingExtra, Plan
from ..operators import GREY_WEIGHTS, Shape
from .damage import SIGMA, Damage, SettledDamage, settle
from .decoding import Photo
from .images import fit_photo, resized
from .measurement import Measurement, measure
from .noise_level import estimate_sigma

ALIGNED = ("denoise", "inpaint", "colorize")
"""The tasks that survive a change of scale: what happened to a pixel has no width, as a kernel or a block has."""
SEARCHED = 384
"""Pixels of the longer side of what is searched. Averaging or interpolating on the way takes noise out."""
SMALLEST = 32
"""Pixels of the smallest face there."""
VOTES = 3
"""Boxes of the detector that must agree on a face."""
OWN_PIXELS = 0.15
"""A frame that differs from the prior's images by a smaller share is taken at the photograph's own pixels."""
FEATHER = 0.125
"""Share of a frame's side over which it fades into the photograph."""


class Face(NamedTuple):
    """The detector's square box, in pixels of the photograph: its centre, its side, and how many boxes agreed."""

    x: float
    y: float
    side: float
    votes: int


@dataclass(frozen=True)
class Frame:
    """A square of a photograph, in its pixels; it may reach beyond the photograph."""

    left: int
    top: int
    side: int

    @classmethod
    def around(cls, face: Face, framing: Mapping[str, Any], size: int) -> "Frame":
        """The square in which the box lies as `framing` says it lies in the prior's images of `size`.

        framing: `centre` [x, y] and `side` of the detector's box, in shares of the image's side.
        """
        side = face.side / framing["side"]
        side = size if abs(side / size - 1) < OWN_PIXELS else max(1, round(side))
        x, y = framing["centre"]
        return cls(round(face.x - x * side), round(face.y - y * side), side)

    def cut(self, photo: Photo, size: int) -> Photo:
        """The square at size x size; what of it lies beyond the photograph is `outside`."""
        inside, rows, columns = self.places(photo)
        blank = np.ones((self.side, self.side), bool)
        outside, missing = blank.copy(), ~blank
        pixels = np.zeros((len(photo.pixels), self.side, self.side), np.float32)
        outside[inside], pixels[(..., *inside)] = False, photo.pixels[:, rows, columns]
        if photo.missing is not None:
            missing[inside] = photo.missing[rows, columns]
        cut = Photo(pixels, missing if missing.any() else None, photo.metadata, outside if outside.any() else None)
        return cut if self.side == size else fit_photo(cut, (size, size), "mean" if self.side > size else "resize")

    def paste(self, photo: Photo, images: np.ndarray, measurement: Measurement) -> np.ndarray:
        """The photograph (N, C, H, W) with each of `images`, restored from `measurement`, in the square alone.

        The border fades. Values that were measured within SIGMA stay the photograph's, at its own resolution: known
        pixels beside the missing ones, and the grey of a picture that is coloured.
        """
        inside, rows, columns = self.places(photo)
        channels = images.shape[1]
        before = (photo.colour() if channels == 3 else photo).pixels
        whole = np.repeat(before[None], len(images), axis=0)
        old = before[:, rows, columns]
        known = np.ones(old.shape[1:], bool) if photo.missing is None else ~photo.missing[rows, columns]
        exact = measurement.sigma <= SIGMA
        say = np.where(known, self._fade()[inside], np.float32(1))
        for image, restored in zip(whole, images, strict=True):
            new = np.stack([resized(channel, (self.side, self.side)) for channel in restored])[(..., *inside)]
            if measurement.task == "inpaint" and exact:
                new = np.where(known, old, new)
            if measurement.task == "colorize" and exact:
                weights = np.asarray(GREY_WEIGHTS[measurement.operator.settings["weights"]], np.float32)
                new = new + np.where(known, np.tensordot(weights, old - new, 1), np.float32(0))
            image[:, rows, columns] = old + say * (new - old)
        return whole

    def left_missing(self, photo: Photo) -> np.ndarray | None:
        """(H, W) bool: missing pixels that lie outside the square; None where there are none."""
        if photo.missing is None:
            return None
        _, rows, columns = self.places(photo)
        missing = photo.missing.copy()
        missing[rows, columns] = False
        return missing if missing.any() else None

    def places(self, photo: Photo) -> tuple[tuple[slice, slice], slice, slice]:
        """Where photograph and square overlap: in the square, and the rows and columns in the photograph."""
        width, height = photo.size
        top, bottom = max(self.top, 0), min(self.top + self.side, height)
        left, right = max(self.left, 0), min(self.left + self.side, width)
        inside = slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)
        return inside, slice(top, bottom), slice(left, right)

    def _fade(self) -> np.ndarray:
        """(side, side): 1 in the middle, falling off linearly towards the border."""
        ramp = np.minimum(np.arange(self.side), np.arange(self.side)[::-1]) + 0.5
        ramp = np.clip(ramp / (FEATHER * self.side), 0, 1).astype(np.float32)
        return np.minimum.outer(ramp, ramp)


class Aligned(NamedTuple):
    """A photograph, the square of it that a prior restores, and the measurement that the square is."""

    photo: Photo
    frame: Frame
    measurement: Measurement


def framing_of(plan: Plan) -> Mapping[str, Any] | None:
    """How the faces are framed that the plan's prior was trained on; None where it does not say."""
    framing: Mapping[str, Any] | None = plan.manifest["prior"].get("framing")
    return framing


def align(photo: Photo, plan: Plan, damage: Damage) -> Aligned:
    """The largest face in `photo`, framed as the prior of `plan` knows faces, ready to restore.

    `damage.sigma` is that of the photograph's own pixels, where denoising estimates it too; a frame that is shrunk
    averages them, and has less. Raises InputError without a face, for another
    task than those of ALIGNED, and where the plan does not say how its faces are framed; MissingExtra.
    """
    framing = framing_of(plan)
    if framing is None:
        raise InputError(
            f"{plan.manifest['prior']['name']} does not say how the faces are framed that it was trained on, so none "
            "can be aligned; export it again if it is celeba, or put a framing.json beside its weights"
        )
    shape: Shape = plan.image_shape
    settled = _accepted(photo, shape[0], damage)
    photo = settled.photo
    faces = find_faces(photo)
    if not faces:
        raise InputError("no face was found in the picture; cut one out by --fit crop, or leave --align out")
    face = max(faces, key=lambda one: one.side)
    frame = Frame.around(face, framing, shape[2])
    cut = frame.cut(photo, shape[2])
    if settled.task == "inpaint" and photo.missing is not None and cut.missing is None:
        raise InputError(
            "no pixel of the face's frame is missing; without --align what is missing elsewhere is filled in"
        )
    measurement = measure(replace(settled, photo=cut, damage=replace(settled.damage, sigma=0.0)), shape)
    sigma, whence = damage.sigma, "as asked"
    if sigma is None and measurement.task == "denoise":
        _, rows, columns = frame.places(photo)
        sigma, whence = max(SIGMA, estimate_sigma(photo.pixels[:, rows, columns])), "estimated"
    elif sigma is None:
        sigma, whence = SIGMA, "assumed"
    averaged = sigma * min(1, shape[2] / frame.side) if whence != "assumed" else sigma
    noise = f"sigma {sigma:.3f} {whence}" + (f", {averaged:.3f} in the frame" if averaged < sigma else "")
    which = "the face" if len(faces) == 1 else f"the largest of {len(faces)} faces"
    scaled = "at its own pixels" if frame.side == shape[2] else f"brought to {shape[2]}x{shape[1]}"
    where = f"{which}, {frame.side}x{frame.side} at ({frame.left}, {frame.top}), {scaled}"
    because = f"{measurement.because}; {noise}; {where}"
    return Aligned(photo, frame, replace(measurement, sigma=averaged, because=because))


def find_faces(photo: Photo) -> list[Face]:
    """Upright frontal faces, the one that most boxes agree on first, without those of less than half its votes.

    By scikit-image's cascade of local binary patterns over the whole photograph at SEARCHED pixels. Raises
    MissingExtra.
    """
    grey = photo.pixels.mean(axis=0)
    if photo.missing is not None and not photo.missing.all():
        grey = np.where(photo.missing, grey[~photo.missing].mean(), grey)
    height, width = grey.shape
    scale = SEARCHED / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    levels = np.round(np.clip(resized(grey, size) + 1, 0, 2) * 127.5).astype(np.uint8)
    if min(size) < SMALLEST:
        return []
    found = _detector().detect_multi_scale(
        img=levels,
        scale_factor=1.1,
        step_ratio=1,
        min_size=(SMALLEST, SMALLEST),
        max_size=(min(size), min(size)),
        min_neighbor_number=1,
        intersection_score_threshold=2.0,  # more than two boxes can share, so that none are merged: votes count them
    )
    boxes = np.array([(one["c"] + one["width"] / 2, one["r"] + one["height"] / 2, one["width"]) for one in found])
    faces = _agreed(boxes.reshape(-1, 3) / scale)
    return [face for face in faces if face.votes >= max(VOTES, faces[0].votes / 2)]


def _agreed(boxes: np.ndarray) -> list[Face]:
    """Boxes (n, 3) of x, y and side that lie together, as one each: the median, most votes first."""
    faces = []
    while len(boxes):
        x, y, side = boxes.T
        apart = np.maximum(np.abs(x[:, None] - x), np.abs(y[:, None] - y))
        together = (apart < side[:, None] / 4) & (np.abs(np.log(side[:, None] / side)) < np.log(1.5))
        best = together[together.sum(axis=1).argmax()]
        middle = np.median(boxes[best], axis=0)
        face = Face(float(middle[0]), float(middle[1]), float(middle[2]), int(best.sum()))
        faces.append(face)
        boxes = boxes[np.maximum(np.abs(x - face.x), np.abs(y - face.y)) > face.side / 2]
    return sorted(faces, key=lambda face: -face.votes)


def _accepted(photo: Photo, channels: int, damage: Damage) -> SettledDamage:
    """The damage settled on the photograph as it is. Raises InputError for what cannot be done in a frame."""
    if damage.hole is not None or damage.keep is not None:
        raise InputError("--hole and --keep are about the middle of a picture, not of a face; draw a --mask to --align")
    settled = settle(photo, damage, (channels, *photo.pixels.shape[1:]))
    if settled.task not in ALIGNED:
        raise InputError(
            f"--align changes the scale, and {settled.task} is about pixels of one scale; it goes with "
            f"{', '.join(ALIGNED)}"
        )
    return settled


@cache
def _detector() -> Any:
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError as error:
        raise MissingExtra("Finding faces", "scikit-image", "align") from error
    trained: Any = lbp_frontal_face_cascade_filename
    return Cascade(trained())
