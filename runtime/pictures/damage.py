"""Damage: a degradation as a user describes it, and its meaning for one photo."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from ...engines import InputError
from ..operators import Shape
from ..operators.masks import border_mask, box_mask
from ..sampling import guidance
from .decoding import Photo

TASK_FIELDS: dict[str, tuple[str, ...]] = {
    "denoise": (),
    "inpaint": ("mask", "hole", "keep", "share"),
    "outpaint": ("mask", "hole", "keep", "share"),
    "sr": ("scale", "filter", "kernel", "mask", "share"),
    "colorize": ("grey", "mask", "share"),
    "deblur": ("kernel", "border", "mask", "share"),
    "sense": ("fraction",),
    "matrix": ("matrix",),
    "jpeg": ("mask", "quality"),
}
"""The tasks, and which fields of Damage each one reads besides sigma."""
VECTORS = ("sense", "matrix")
"""The tasks whose measurement is no picture: a .npy array of values of any size."""
FILTERS = ("box", "bicubic")
BORDERS = ("mirror", "circular", "valid", "taper")
GREY = "rec601"
JPEG_SIGMA = 0.12
"""Deviation of a JPEG's rounding, in steps: less than 1 / sqrt(12), as most coefficients are 0 and were close to it.
Chosen on tune-20, for a Gaussian, which the methods take that start from noise; the others know the cells."""
SIGMA = guidance.SIGMA
"""Noise assumed where none is named, on the [-1, 1] scale; denoising estimates its own."""


@dataclass(frozen=True)
class Damage:
    """A degradation as a user describes it. Anything left None is worked out or takes its default."""

    task: str | None = None
    mask: np.ndarray | None = None
    """(H, W) bool, True where a pixel is missing."""
    hole: tuple[int, int] | None = None
    """Width and height of a missing box in the middle."""
    keep: tuple[int, int] | None = None
    """Width and height of the kept box in the middle; the rest is invented."""
    share: float | None = None
    """Share of pixels missing at random; for simulating only."""
    scale: int | None = None
    filter: str | None = None
    """One of FILTERS, how resolution was lost; None is the box, the mean over a block."""
    kernel: str | np.ndarray | None = None
    """Text for parse_kernel, or weights (h, w). With `scale`, the blur before one pixel of scale x scale is kept."""
    border: str | None = None
    """One of BORDERS, what lies past a blurred picture's border; None is a mirror where the kernel allows one."""
    fraction: float | None = None
    """Share of the Walsh-Hadamard coefficients that were measured."""
    matrix: np.ndarray | None = None
    """(m, C H W), or (m, H W) for each channel: what was measured."""
    grey: str | None = None
    """A name of GREY_WEIGHTS; None is rec601."""
    quality: int | None = None
    """A JPEG's quality, 1 to 100 as libjpeg has it; for simulating only."""
    sigma: float | None = None
    """Noise on the [-1, 1] scale; for a JPEG, in steps of its quantisation, for the methods that start from noise."""
    by_file: bool = False
    """Whether the task is what the picture or its file told, and nobody named it."""

    @property
    def is_picture(self) -> bool:
        """Whether the measurement is a picture, on [-1, 1] but for its noise."""
        return self.task not in VECTORS and self.matrix is None and self.fraction is None

    @property
    def leaves_task(self) -> bool:
        """Whether the photo is to tell its task: neither that nor an option that implies one is named."""
        return self.task is None and self.mask is None and _implied(self) is None


def parse_sigma(text: str) -> float:
    """A number or a fraction such as 13/255, on the [-1, 1] scale. Raises InputError outside 0..2."""
    try:
        sigma = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"sigma must be a number or a fraction such as 13/255; got {text!r}") from None
    if not 0 <= sigma <= 2:
        raise InputError(
            f"sigma = {text} is out of range: it is on the [-1, 1] scale, 0..2; noise in grey levels of 255 is --noise"
        )
    return sigma


def parse_noise(text: str) -> float:
    """Grey levels of 255 as sigma, which is on the [-1, 1] scale. Raises InputError outside 0..255."""
    try:
        levels = float(text)
    except ValueError:
        levels = -1.0
    if not 0 <= levels <= 255:
        raise InputError(f"noise is in grey levels of 255, such as 25; got {text!r}")
    return sigma_of(levels)


def sigma_of(levels: float) -> float:
    """The deviation on the [-1, 1] scale of noise of so many grey levels of 255."""
    return 2 * levels / 255


def parse_size(text: str) -> tuple[int, int]:
    """ "24x32" (width x height) or "24" (a square). Raises InputError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"a size is WIDTHxHEIGHT in pixels, such as 24x24; got {text!r}")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True)
class SettledDamage:
    """A photo and what was done to it, with nothing left to work out but its noise."""

    photo: Photo
    """The measurement. Transparency and the mask are joined in its `missing`; of a photo to be padded, the boxes too.
    """
    task: str
    because: str
    """One clause that says how the task was settled."""
    damage: Damage
    """The options, all of which the task reads. The scale of super-resolution is found."""
    boxes: np.ndarray | None
    """(H, W) bool of the image that is restored: the pixels that boxes in its middle mark missing; None without any."""


def settle(photo: Photo, damage: Damage, image_shape: Shape, fit: str | None = None) -> SettledDamage:
    """Settle what was done to `photo`, a measurement of an image of `image_shape` (C, H, W).

    Where neither a task nor an option that implies one is named, the photo tells: smaller by a whole factor is
    super-resolution, transparent pixels are inpainting, one channel is colourising, anything else is denoising.
    fit: how the photo will be brought to its size; "pad" puts the boxes into the middle of the photo as it is.

    Raises InputError for an option that the task does not read, a mask that does not fit the photo, a box that leaves
    nothing, and what cannot be padded.
    """
    factor = whole_factor(photo, image_shape)
    task, because = _task(photo, damage, image_shape, None if fit else factor)
    refuse_unread(task, damage)
    if damage.mask is not None and task != "jpeg":  # whose file has every pixel
        photo = masked(photo, damage.mask)
    if fit == "pad":
        _refuse_padding(photo, task, damage)
        photo, boxes = _without(photo, boxed_pixels(photo.pixels.shape[1:], damage)), None
    else:
        boxes = boxed_pixels(image_shape[1:], damage)
    scale = damage.scale or (factor if task == "sr" else None)
    return SettledDamage(photo, task, because, replace(damage, scale=scale), boxes)


def refuse_unread(task: str, damage: Damage) -> None:
    """Raise InputError for a task that is none, and for an option that the task would silently leave aside."""
    if task not in TASK_FIELDS:
        raise InputError(f"there is no task {task!r}; choose one of {', '.join(TASK_FIELDS)}")
    for name in sorted({name for names in TASK_FIELDS.values() for name in names} - set(TASK_FIELDS[task])):
        if getattr(damage, name) is not None:
            option = {"share": "random", "fraction": "keep-fraction"}.get(name, name)
            raise InputError(f"--{option} does not go with {task}; one damage at a time")


def boxed_pixels(size: tuple[int, int], damage: Damage) -> np.ndarray | None:
    """(H, W) bool of an image of `size` (H, W): the pixels that its boxes mark missing. Raises InputError."""
    shape = (1, *size)
    masks = [] if damage.hole is None else [box_mask(shape, *damage.hole)]
    masks += [] if damage.keep is None else [border_mask(shape, *damage.keep)]
    return np.logical_or.reduce(masks) if masks else None


def _task(photo: Photo, damage: Damage, image_shape: Shape, factor: int | None) -> tuple[str, str]:
    """The task and why it is that; `factor` is what super-resolution would have, None where it is not meant."""
    implied = _implied(damage)
    if damage.by_file:
        assert damage.task is not None
        return damage.task, "it was saved as a coarse JPEG"
    if damage.task is not None or damage.mask is not None:
        return damage.task or implied or "inpaint", "as asked"
    if implied is not None:
        return implied, "as its option implies"
    width, height = photo.size
    if factor is not None:
        return "sr", f"{width}x{height} is 1/{factor} of {image_shape[2]}x{image_shape[1]} a side"
    if photo.missing is not None:
        return "inpaint", "pixels are missing"
    if len(photo.pixels) == 1 and image_shape[0] == 3:
        return "colorize", "the picture has one channel"
    return "denoise", "nothing is missing from the picture"


def _implied(damage: Damage) -> str | None:
    """The task that an option is for, where one is named."""
    tasks: Mapping[str, Any] = {
        "sr": damage.scale,
        "deblur": damage.kernel,
        "inpaint": damage.hole,
        "outpaint": damage.keep,
        "sense": damage.fraction,
        "matrix": damage.matrix,
    }
    return next((task for task, option in tasks.items() if option is not None), None)


def whole_factor(photo: Photo, image_shape: Shape) -> int | None:
    """The r >= 2 by which both sides of the prior's images are larger, if there is one."""
    (width, height), (_, full_height, full_width) = photo.size, image_shape
    r = full_width // width
    return r if r >= 2 and (width * r, height * r) == (full_width, full_height) else None


def masked(photo: Photo, mask: np.ndarray) -> Photo:
    """`photo` without the pixels that `mask` (H, W) marks. Raises InputError for one of another size, or empty."""
    if mask.shape != photo.pixels.shape[1:]:
        raise InputError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]} but the picture is {photo.size[0]}x{photo.size[1]}; "
            "make them equal"
        )
    if not mask.any():
        raise InputError("the mask marks nothing: paint white what is missing")
    return _without(photo, mask)


def _without(photo: Photo, mask: np.ndarray | None) -> Photo:
    if mask is None:
        return photo
    return replace(photo, missing=mask if photo.missing is None else photo.missing | mask)


def _refuse_padding(photo: Photo, task: str, damage: Damage) -> None:
    """Raise InputError where nothing can lie around `photo`, or something else is said to."""
    if task == "outpaint" and damage.keep is None and photo.missing is None:
        raise InputError("outpainting is to paint the surroundings and keep them; leave --fit pad out")
    if damage.border in ("valid", "taper"):
        raise InputError(
            f"--fit pad assumes nothing past the picture's border already, so --border {damage.border} has no part in "
            "it; leave one of them out"
        )
