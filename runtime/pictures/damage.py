"""Damage: a degradation as a user describes it, and its settled form for a photo."""

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
"""The fields of Damage that each task reads besides sigma."""
VECTORS = ("sense", "matrix")
"""The tasks whose measurement is no picture, but a .npy array of any numbers."""
FILTERS = ("box", "bicubic")
BORDERS = ("mirror", "circular", "valid", "taper")
GREY = "rec601"
JPEG_SIGMA = 0.12
"""Deviation of a JPEG's rounding, in quantisation steps, for methods that take it for Gaussian noise: those that start
from pure noise. It is less than 1 / sqrt(12), as most coefficients are 0 and were close to it. Chosen on tune-20."""
SIGMA = guidance.SIGMA
"""The default deviation of the noise on the [-1, 1] scale; denoising estimates it instead."""


@dataclass(frozen=True)
class Damage:
    """A degradation as a user describes it. None stands for a value to infer, or the default."""

    task: str | None = None
    mask: np.ndarray | None = None
    """(H, W) bool, True where a pixel is missing."""
    hole: tuple[int, int] | None = None
    """Width and height of a missing box in the middle."""
    keep: tuple[int, int] | None = None
    """Width and height of the kept box in the middle; the rest is painted."""
    share: float | None = None
    """Share of pixels missing at random; for simulation only."""
    scale: int | None = None
    filter: str | None = None
    """The downscaling filter, one of FILTERS; None is the box, the mean over a block."""
    kernel: str | np.ndarray | None = None
    """Text for `parse_kernel`, or weights (h, w). With `scale`, the blur before one pixel of scale x scale is kept."""
    border: str | None = None
    """The assumption about pixels outside a blurred picture, one of BORDERS; None: nothing, or by a prior of one
    size, and to simulate, mirrored if the kernel allows it."""
    fraction: float | None = None
    """Share of the Walsh-Hadamard coefficients that are measured."""
    matrix: np.ndarray | None = None
    """A, (m, C H W), or (m, H W) for each channel."""
    grey: str | None = None
    """A name of GREY_WEIGHTS; None is rec601."""
    quality: int | None = None
    """libjpeg's quality of a JPEG, 1 to 100; for simulation only."""
    sigma: float | None = None
    """Deviation of the noise on the [-1, 1] scale; for a JPEG in quantisation steps, for methods from pure noise."""
    by_file: bool = False
    """Whether the task was inferred from the picture or its file."""

    @property
    def is_picture(self) -> bool:
        """Whether the measurement is a picture, on [-1, 1] except for its noise."""
        return self.task not in VECTORS and self.matrix is None and self.fraction is None

    @property
    def leaves_task(self) -> bool:
        """Whether the task is inferred from the photo: neither a task nor an option that implies one is given."""
        return named_task(self) is None


def parse_sigma(text: str) -> float:
    """Parse a number or a fraction such as 13/255, on the [-1, 1] scale. Raises InputError outside 0..2."""
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
    """Parse a noise in grey levels of 255; return sigma on the [-1, 1] scale. Raises InputError outside 0..255."""
    try:
        levels = float(text)
    except ValueError:
        levels = -1.0
    if not 0 <= levels <= 255:
        raise InputError(f"noise is in grey levels of 255, such as 25; got {text!r}")
    return sigma_of(levels)


def sigma_of(levels: float) -> float:
    """Convert a deviation in grey levels of 255 to the [-1, 1] scale."""
    return 2 * levels / 255


def parse_size(text: str) -> tuple[int, int]:
    """Parse "24x32" (width x height) or "24" (a square). Raises InputError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"a size is WIDTHxHEIGHT in pixels, such as 24x24; got {text!r}")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True)
class SettledDamage:
    """A photo and its damage, with nothing left to infer except the noise."""

    photo: Photo
    """The measurement. Transparency and the mask are joined in its `missing`; of a photo to be padded, the boxes too.
    """
    task: str
    because: str
    """A clause that says how the task was determined."""
    damage: Damage
    """The options, all of which the task reads; the scale of super-resolution is set."""
    boxes: np.ndarray | None
    """(H, W) bool in the restored image: the pixels that `hole` or `keep` marks as missing; None without them."""


def settle(photo: Photo, damage: Damage, image_shape: Shape, fit: str | None = None) -> SettledDamage:
    """Settle the damage of `photo`, a measurement of an image of `image_shape` (C, H, W).

    Without a task, or an option that implies one, the photo decides: smaller by a whole factor is super-resolution,
    transparent pixels are inpainting, anything else is denoising: grey stays grey. fit: how the photo will be brought
    to the image's size; with "pad" boxes lie in the middle of the photo before padding.

    Raises InputError for an option that the task does not read, a mask that does not fit the photo, a box that leaves
    nothing, and a photo that cannot be padded.
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
    """Raise InputError for an unknown task, and for an option that the task does not read."""
    if task not in TASK_FIELDS:
        raise InputError(f"there is no task {task!r}; choose one of {', '.join(TASK_FIELDS)}")
    for name in sorted({name for names in TASK_FIELDS.values() for name in names} - set(TASK_FIELDS[task])):
        if (value := getattr(damage, name)) is not None:
            option = "--" + {"share": "random", "fraction": "keep-fraction"}.get(name, name)
            shown = f"{option} {value}" if isinstance(value, (int, str)) else option
            if named_task(Damage(**{name: value})) is None:  # says how, and not which damage
                instead = f"it goes with {', '.join(one for one, names in TASK_FIELDS.items() if name in names)}"
            elif task == "denoise":
                instead = f"leave the task out: --noise goes with {option}"
            elif not damage.is_picture:
                instead = "leave one of them out"
            elif name in ("hole", "keep") and "mask" in TASK_FIELDS[task]:
                instead = "mark what is missing by --mask"
            elif task == "jpeg" and damage.quality is None:
                instead = f"restore the JPEG first, then its result with {shown}"
            else:
                instead = "one damage at a time: run it for one, then on the result for the other"
            raise InputError(f"{option} does not go with {task}; {instead}")


def boxed_pixels(size: tuple[int, int], damage: Damage) -> np.ndarray | None:
    """Return (H, W) bool, True where `hole` or `keep` marks a pixel of an image of `size` as missing, or None.

    Raises InputError.
    """
    shape = (1, *size)
    masks = [] if damage.hole is None else [box_mask(shape, *damage.hole)]
    masks += [] if damage.keep is None else [border_mask(shape, *damage.keep)]
    return np.logical_or.reduce(masks) if masks else None


def _task(photo: Photo, damage: Damage, image_shape: Shape, factor: int | None) -> tuple[str, str]:
    """Return the task and a clause with the reason; `factor` is the possible scale of super-resolution, or None."""
    named = named_task(damage)
    if named is not None:
        if damage.by_file:
            return named, "it was saved as a coarse JPEG"
        asked = damage.task is not None or damage.mask is not None
        return named, "as asked" if asked else "as its option implies"
    width, height = photo.size
    if factor is not None:
        return "sr", f"{width}x{height} is 1/{factor} of {image_shape[2]}x{image_shape[1]} a side"
    if photo.missing is not None:
        return "inpaint", "pixels are missing"
    return "denoise", "nothing is missing from the picture"


def named_task(damage: Damage) -> str | None:
    """Return the task that is given, or that an option implies, or None."""
    if damage.task is not None:
        return damage.task
    tasks: Mapping[str, Any] = {
        "sr": damage.scale,
        "colorize": damage.grey,
        "deblur": damage.kernel,
        "inpaint": damage.hole,
        "outpaint": damage.keep,
        "sense": damage.fraction,
        "matrix": damage.matrix,
    }
    implied = next((task for task, option in tasks.items() if option is not None), None)
    return "inpaint" if implied is None and damage.mask is not None else implied


def whole_factor(photo: Photo, image_shape: Shape) -> int | None:
    """Return the whole r >= 2 by which both sides of the prior's images are larger, or None."""
    (width, height), (_, full_height, full_width) = photo.size, image_shape
    r = full_width // width
    return r if r >= 2 and (width * r, height * r) == (full_width, full_height) else None


def masked(photo: Photo, mask: np.ndarray) -> Photo:
    """Mark the pixels of `mask` (H, W) as missing. Raises InputError for a mask of another size, or an empty one."""
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
    """Raise InputError for a task or border that does not allow padding."""
    if task == "outpaint" and damage.keep is None and photo.missing is None:
        raise InputError("outpainting is to paint the surroundings and keep them; leave --fit pad out")
    if damage.border in ("valid", "taper"):
        raise InputError(
            f"--fit pad assumes nothing past the picture's border already, so --border {damage.border} has no part in "
            "it; leave one of them out"
        )
