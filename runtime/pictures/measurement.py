"""From a photograph and what is said of its damage to a measurement, its operator and its noise."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...engines import InputError
from ..operators import GREY_WEIGHTS, Inpaint, Operator, Resolvable, Shape, Tapered
from ..operators.kernels import valid_part
from ..operators.masks import border_mask
from .damage import (
    GREY,
    SIGMA,
    VECTORS,
    Damage,
    implied,
    kernel_weights,
    missing_pixels,
    refuse_unread,
    whole_operator,
    without,
)
from .images import Photo, fit_photo, pad_photo
from .noise_level import estimate_sigma

KEPT = 4
"""Operators that are kept for the next picture."""


@dataclass(frozen=True)
class Job:
    """A measurement ready to restore."""

    operator: Operator
    y: np.ndarray
    """The operator's measurement shape (c, h, w), on [-1, 1]."""
    sigma: float
    task: str
    because: str
    """One clause that says how the task and sigma were settled."""
    inside: tuple[slice, slice] | None = None
    """Rows and columns of the restored image that the picture covers, where it was padded; None is all."""


def prepare(
    photo: Photo,
    image_shape: Shape,
    damage: Damage,
    fit: str | None = None,
    made: dict[Hashable, Any] | None = None,
) -> Job:
    """The job of restoring `photo` with a prior of images of `image_shape` (C, H, W).

    What `damage` leaves open is read off the photo: smaller by a whole factor is super-resolution, transparent
    pixels are inpainting, one channel is colourising, anything else is denoising at an estimated sigma. `fit` brings a
    photo of the wrong size to the size wanted: "crop" or "resize", or "pad", which leaves its surroundings unmeasured;
    `Job.inside` is then the picture's part of what is restored. `made`, empty at first, holds a few operators over
    calls with the same `damage`, so that pictures of one size share theirs. Raises InputError.
    """
    if damage.mask is not None:
        task = damage.task or implied(damage) or "inpaint"
        refuse_unread(task, damage, None)
        photo, damage = masked(photo, damage.mask), replace(damage, mask=None, task=task)
    if fit == "pad":
        photo, damage = _boxed(photo, damage)
    task, because, scale = _settle_task(photo, image_shape, damage, fit)
    damage = replace(damage, scale=scale)
    if task == "outpaint" and damage.keep is None and photo.missing is None:
        photo = _centred(photo, image_shape)
    if damage.border == "valid" and damage.kernel is not None and photo.size == image_shape[:0:-1]:
        photo = _inside(photo, valid_part(kernel_weights(damage.kernel), image_shape))
    made, key = {} if made is None else made, (task, scale, image_shape)
    whole = _once(made, key, lambda: whole_operator(task, image_shape, damage))
    photo = _sized(photo, _measurement_size(whole, image_shape), fit, task)
    refuse_unread(task, damage, photo.missing)
    operator, marks = whole, (photo.missing, photo.outside)
    if whole is None or damage.mask is not None or any(mark is not None for mark in marks):
        lost_by = (*key, *(None if mark is None else mark.tobytes() for mark in marks))
        operator = _once(made, lost_by, lambda: without(whole, task, image_shape, damage, *marks))
    seen = _seen(photo)
    lost = None if operator.missing is None else operator.missing[seen].mean()
    if lost:
        share = f"{lost:.0%} of the pixels are missing"
        because = share if isinstance(operator, Inpaint) else f"{because}; {share}"
    y, channels = photo.pixels, operator.measurement_shape[0]
    if task == "colorize":
        weights = np.asarray(GREY_WEIGHTS[damage.grey or GREY], np.float32)
        y = y if len(y) == 1 else np.tensordot(weights, y, 1)[None]
    elif len(y) != channels:
        y = photo.colour().pixels if channels == 3 else y.mean(axis=0, keepdims=True)
    if isinstance(operator, Tapered):
        y = operator.taper(y)
    sigma = damage.sigma
    if sigma is None:
        sigma = max(SIGMA, estimate_sigma(y[(..., *seen)])) if task == "denoise" else SIGMA
        because += f"; sigma {sigma:.3f} {'estimated' if task == 'denoise' else 'assumed'}"
    inside = None
    if photo.outside is not None:
        factor = image_shape[1] // operator.measurement_shape[1]
        inside = (
            slice(factor * seen[0].start, factor * seen[0].stop),
            slice(factor * seen[1].start, factor * seen[1].stop),
        )
    return Job(operator, operator.observed(y), sigma, task, because, inside)


def _seen(photo: Photo) -> tuple[slice, slice]:
    """The rows and columns of a photo that hold all that is not `outside` it."""
    if photo.outside is None:
        return slice(0, photo.size[1]), slice(0, photo.size[0])
    rows, columns = np.nonzero(~photo.outside)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def _boxed(photo: Photo, damage: Damage) -> tuple[Photo, Damage]:
    """A photo that is to be padded, with the boxes in its middle in its mask. Raises InputError."""
    task = damage.task or implied(damage)
    if task == "outpaint" and damage.keep is None and photo.missing is None:
        raise InputError("outpainting is to paint the surroundings and keep them; leave --fit pad out")
    if damage.border in ("valid", "taper"):
        raise InputError(
            f"--fit pad assumes nothing past the picture's border already, so --border {damage.border} has no part in "
            "it; leave one of them out"
        )
    if damage.hole is None and damage.keep is None:
        return photo, damage
    refuse_unread(task or "inpaint", damage, None)
    shape = (len(photo.pixels), *photo.pixels.shape[1:])
    missing = missing_pixels(task or "inpaint", shape, damage, photo.missing)
    return replace(photo, missing=missing), replace(damage, task=task, hole=None, keep=None)


def _once(made: dict[Hashable, Any], key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gives, or gave before for `key`; the oldest of KEPT goes."""
    if key not in made:
        if len(made) >= KEPT:
            made.pop(next(iter(made)))
        made[key] = make()
    return made[key]


def full_size(photo: Photo, damage: Damage) -> tuple[int, int]:
    """(height, width) of the image that `photo` is a measurement of, whatever the prior's size. Raises InputError."""
    if not damage.is_picture:
        raise InputError("a list of measured values does not say how large the image is; leave --tile out")
    if damage.task == "sr" and damage.scale is None:
        raise InputError("super-resolution in tiles needs its factor: --scale 2 .. 16")
    width, height = photo.size
    return height * (damage.scale or 1), width * (damage.scale or 1)


def _settle_task(photo: Photo, image_shape: Shape, damage: Damage, fit: str | None) -> tuple[str, str, int | None]:
    """The task, why, and the factor of super-resolution."""
    factor = _whole_factor(photo, image_shape)
    if damage.task is not None:
        return damage.task, "as asked", damage.scale or (factor if damage.task == "sr" else None)
    task = implied(damage)
    if task is not None:
        return task, "as its option implies", damage.scale
    width, height = photo.size
    if factor is not None and fit is None:
        return "sr", f"{width}x{height} is 1/{factor} of {image_shape[2]}x{image_shape[1]} a side", factor
    if photo.missing is not None:
        return "inpaint", "pixels are missing", None
    if len(photo.pixels) == 1 and image_shape[0] == 3:
        return "colorize", "the picture has one channel", None
    return "denoise", "nothing is missing from the picture", None


def _whole_factor(photo: Photo, image_shape: Shape) -> int | None:
    """The r >= 2 by which both sides of the prior's images are larger, if there is one."""
    (width, height), (_, full_height, full_width) = photo.size, image_shape
    r = full_width // width
    return r if r >= 2 and (width * r, height * r) == (full_width, full_height) else None


def _measurement_size(operator: Resolvable | None, image_shape: Shape) -> tuple[int, int]:
    """(width, height) of the pictures, or arrays, that a task starts from. `operator` is what `whole_operator` gave."""
    _, height, width = image_shape if operator is None else operator.measurement_shape
    return width, height


def _sized(photo: Photo, size: tuple[int, int], fit: str | None, task: str) -> Photo:
    if photo.size == size:
        return photo
    if task in VECTORS:
        raise InputError(
            f"the measurement is {photo.size[0]}x{photo.size[1]}, and {task} with this prior starts from a .npy array "
            f"of {size[0]} values a channel, {size[1]} x {size[0]}"
        )
    fits = photo.size[0] <= size[0] and photo.size[1] <= size[1]
    if fit == "pad" and fits:
        return pad_photo(photo, size)
    if fit in (None, "pad"):
        tiles = "--tile" if photo.size[0] >= size[0] and photo.size[1] >= size[1] else "--tile --fit pad"
        ways = "--fit crop or --fit resize, "
        ways += "or --fit pad, which restores it at its own size" if fits else f"{tiles}, or --align a face in it"
        raise InputError(
            f"the picture is {photo.size[0]}x{photo.size[1]}, and {task} with this prior starts from "
            f"{size[0]}x{size[1]}; give one of that size, {ways}"
        )
    return fit_photo(photo, size, fit)


def masked(photo: Photo, mask: np.ndarray) -> Photo:
    """`photo` without the pixels that `mask` (H, W) marks. Raises InputError for one of another size, or empty."""
    if mask.shape != photo.pixels.shape[1:]:
        raise InputError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]} but the picture is {photo.size[0]}x{photo.size[1]}; "
            "make them equal"
        )
    if not mask.any():
        raise InputError("the mask marks nothing: paint white what is missing")
    return replace(photo, missing=mask if photo.missing is None else photo.missing | mask)


def _inside(photo: Photo, part: tuple[slice, slice]) -> Photo:
    """The part of a blurred photo whose blur saw nothing from outside it."""
    rows, columns = part
    return Photo(photo.pixels[:, rows, columns], None if photo.missing is None else photo.missing[rows, columns])


def _centred(photo: Photo, image_shape: Shape) -> Photo:
    """A photo smaller than the prior's images in the middle of one, the border missing."""
    (width, height), (_, full_height, full_width) = photo.size, image_shape
    if width > full_width or height > full_height or (width, height) == (full_width, full_height):
        raise InputError(
            f"outpainting starts from a picture smaller than {full_width}x{full_height}, or from one of that size and "
            f"the box to keep: --keep WIDTHxHEIGHT; this one is {width}x{height}"
        )
    missing = border_mask(image_shape, width, height)
    pixels = np.zeros((len(photo.pixels), full_height, full_width), np.float32)
    pixels[:, ~missing] = photo.pixels.reshape(len(photo.pixels), -1)
    return Photo(pixels, missing)
