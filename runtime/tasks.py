"""From a photograph and a few words to a measurement, its operator and its noise: what a user means by a task."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from ..engines import InputError
from .images import Photo, fit_photo, pad_photo
from .noise import Use, generator, normal
from .operators import (
    GREY_WEIGHTS,
    Bicubic,
    Circular,
    Colorize,
    Deblur,
    Denoise,
    Inpaint,
    Linear,
    Masked,
    MaskedMatrix,
    Matrix,
    Mirrored,
    Operator,
    Partial,
    Resolvable,
    Shape,
    SuperResolution,
    Tapered,
    WalshHadamard,
    is_mirrored,
    parse_kernel,
    valid_blur,
)
from .operators.dense import is_small
from .operators.kernels import KINDS, valid_part

TASKS: dict[str, tuple[str, ...]] = {
    "denoise": (),
    "inpaint": ("mask", "hole", "keep", "share"),
    "outpaint": ("mask", "hole", "keep", "share"),
    "sr": ("scale", "filter", "kernel", "mask", "share"),
    "colorize": ("grey", "mask", "share"),
    "deblur": ("kernel", "border", "mask", "share"),
    "sense": ("fraction",),
    "matrix": ("matrix",),
}
"""The tasks, and which fields of Damage each one reads besides sigma."""
VECTORS = ("sense", "matrix")
"""The tasks whose measurement is no picture: a .npy array of values of any size."""
FILTERS = ("box", "bicubic")
BORDERS = ("mirror", "circular", "valid", "taper")
GREY = "rec601"
KEPT = 4
"""Operators that are kept for the next picture."""
SIGMA = 0.01
"""Noise assumed where none is named, on the [-1, 1] scale; denoising estimates its own."""


@dataclass(frozen=True)
class Damage:
    """What a user says of a degradation. Anything left None is worked out or takes its default."""

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
    """Of FILTERS: how resolution was lost; None is the box, the mean over a block."""
    kernel: str | np.ndarray | None = None
    """What parse_kernel reads, or weights (h, w). With `scale`, the blur before one pixel of scale x scale is kept."""
    border: str | None = None
    """Of BORDERS: what lies past a blurred picture's border; None is a mirror where the kernel allows one."""
    fraction: float | None = None
    """Share of the Walsh-Hadamard coefficients that were measured."""
    matrix: np.ndarray | None = None
    """(m, C H W), or (m, H W) for each channel: what was measured."""
    grey: str | None = None
    """A name of GREY_WEIGHTS; None is rec601."""
    sigma: float | None = None

    @property
    def is_picture(self) -> bool:
        """Whether the measurement is a picture, on [-1, 1] but for its noise."""
        return self.task not in VECTORS and self.matrix is None and self.fraction is None


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


def parse_sigma(text: str) -> float:
    """A number or a fraction such as 13/255, on the [-1, 1] scale. Raises InputError outside 0..2."""
    try:
        sigma = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"sigma must be a number or a fraction such as 13/255; got {text!r}") from None
    if not 0 <= sigma <= 2:
        raise InputError(
            f"sigma = {text} is out of range: it is on the [-1, 1] scale, 0..2 (s grey levels of 255 are s/127.5)"
        )
    return sigma


def parse_size(text: str) -> tuple[int, int]:
    """ "24x32" (width x height) or "24" (a square). Raises InputError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"a size is WIDTHxHEIGHT in pixels, such as 24x24; got {text!r}")
    return int(parts[0]), int(parts[-1])


def box_mask(shape: Shape, width: int, height: int) -> np.ndarray:
    """(H, W) bool, True in the centred box. Raises InputError if the box is not smaller than the image."""
    _, h, w = shape
    if width > w or height > h or (width, height) == (w, h):
        raise InputError(f"a box of {width}x{height} does not leave anything of an image of {w}x{h}")
    mask = np.zeros((h, w), bool)
    top, left = (h - height) // 2, (w - width) // 2
    mask[top : top + height, left : left + width] = True
    return mask


def border_mask(shape: Shape, width: int, height: int) -> np.ndarray:
    """(H, W) bool, True outside the centred box. Raises InputError if the box is not smaller than the image."""
    return ~box_mask(shape, width, height)


def make_operator(task: str, shape: Shape, damage: Damage, missing: np.ndarray | None = None) -> Operator:
    """The operator of a task on images of `shape`. Raises InputError naming the option that is missing or wrong."""
    _refuse_unread(task, damage, missing)
    return _lacking(_whole(task, shape, damage), task, shape, damage, missing)


def _whole(task: str, shape: Shape, damage: Damage) -> Resolvable | None:
    """The operator of a task before any mask; None for inpainting, which is nothing else."""
    if task not in TASKS:
        raise InputError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}")
    _refuse_unread(task, damage, None)
    return None if task in ("inpaint", "outpaint") else _complete(task, shape, damage)


def _lacking(
    operator: Resolvable | None,
    task: str,
    shape: Shape,
    damage: Damage,
    missing: np.ndarray | None,
    outside: np.ndarray | None = None,
) -> Operator:
    """What `_whole` gave, without the pixels that are missing, or outside the picture."""
    if operator is None:
        missing = _missing(task, shape, damage, missing)
        return Inpaint(shape, missing if outside is None else missing | outside)
    masks = [mask for mask in (missing, damage.mask, outside) if mask is not None]
    missing = np.logical_or.reduce(masks) if masks else None
    if missing is None:
        return operator
    if isinstance(operator, Tapered):
        raise InputError("edges cannot be tapered where pixels are missing; choose another --border")
    if isinstance(operator, Linear) and type(operator).U is Linear.U:
        return Masked(operator, missing)
    if isinstance(operator, Partial):
        return Partial(operator.inner, operator.part, missing)
    if isinstance(operator, Linear) and not is_small(operator):
        return Partial(operator, missing=missing)
    return MaskedMatrix(shape, _complete(task, (1, *shape[1:]), damage), missing)


def _complete(task: str, shape: Shape, damage: Damage) -> Resolvable:
    """The operator of a task, none of its measurement missing."""
    match task:
        case "denoise":
            return Denoise(shape)
        case "colorize":
            return Colorize(shape, damage.grey or GREY)
        case "sr":
            if damage.scale is None:
                raise InputError("super-resolution needs its factor: --scale 2 .. 16")
            return _smaller(shape, damage.scale, damage.filter, damage.kernel)
        case "deblur":
            if damage.kernel is None:
                words = ", ".join(KINDS.values())
                raise InputError(f"deblurring needs its kernel: --kernel {words}, in pixels, or a file")
            return _blur(shape, damage.kernel, damage.border)
        case "sense":
            if damage.fraction is None:
                raise InputError("say what share of the Walsh-Hadamard coefficients was measured: --keep-fraction 0.25")
            return WalshHadamard(shape, damage.fraction)
        case _:
            if damage.matrix is None:
                raise InputError("say by which matrix: --matrix A.npy, a row each measured value")
            return Matrix(shape, damage.matrix)


def _missing(task: str, shape: Shape, damage: Damage, missing: np.ndarray | None) -> np.ndarray:
    """(H, W) bool: every pixel that one of the masks marks."""
    masks = [mask for mask in (missing, damage.mask) if mask is not None]
    if damage.hole is not None:
        masks.append(box_mask(shape, *damage.hole))
    if damage.keep is not None:
        masks.append(border_mask(shape, *damage.keep))
    if not masks:
        raise InputError(
            "outpainting needs the box to keep: --keep WIDTHxHEIGHT"
            if task == "outpaint"
            else "inpainting needs to know what is missing: --mask MASK.png (white is missing), --hole WIDTHxHEIGHT, "
            "or transparent pixels"
        )
    for mask in masks:
        if mask.shape != shape[1:]:
            raise InputError(
                f"the mask is {mask.shape[1]}x{mask.shape[0]} but the image is {shape[2]}x{shape[1]}; make them equal"
            )
    return np.logical_or.reduce(masks)


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
        _refuse_unread(task, damage, None)
        photo, damage = masked(photo, damage.mask), replace(damage, mask=None, task=task)
    if fit == "pad":
        photo, damage = _boxed(photo, damage)
    task, because, scale = _settle_task(photo, image_shape, damage, fit)
    damage = replace(damage, scale=scale)
    if task == "outpaint" and damage.keep is None and photo.missing is None:
        photo = _centred(photo, image_shape)
    if damage.border == "valid" and damage.kernel is not None and photo.size == image_shape[:0:-1]:
        photo = _inside(photo, valid_part(_weights(damage.kernel), image_shape))
    made, key = {} if made is None else made, (task, scale, image_shape)
    whole = _once(made, key, lambda: _whole(task, image_shape, damage))
    photo = _sized(photo, _measurement_size(whole, image_shape), fit, task)
    _refuse_unread(task, damage, photo.missing)
    operator, marks = whole, (photo.missing, photo.outside)
    if whole is None or damage.mask is not None or any(mark is not None for mark in marks):
        lost_by = (*key, *(None if mark is None else mark.tobytes() for mark in marks))
        operator = _once(made, lost_by, lambda: _lacking(whole, task, image_shape, damage, *marks))
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
    _refuse_unread(task or "inpaint", damage, None)
    shape = (len(photo.pixels), *photo.pixels.shape[1:])
    missing = _missing(task or "inpaint", shape, damage, photo.missing)
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


def simulate(photo: Photo, damage: Damage, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, Operator]:
    """A measurement y = A x + sigma n of a clean photo, for trying things out.

    Returns y (c, h, w) on [-1, 1] with noise beyond it, the missing pixels (H, W) or None, and the operator. The same
    seed gives the same noise and the same random mask. Raises InputError.
    """
    if damage.task is None:
        raise InputError(f"say what to do to the picture: --task {'|'.join(TASKS)}")
    if damage.border == "taper":
        raise InputError("--border taper is for restoring a photograph; damage one with circular, mirror or valid")
    if damage.task == "denoise" and damage.sigma is None:
        raise InputError("say how much noise to add: --sigma, on the [-1, 1] scale")
    clean = photo.pixels if damage.task != "colorize" else photo.colour().pixels
    shape: Shape = (clean.shape[0], clean.shape[1], clean.shape[2])
    missing, whole = photo.missing, _whole(damage.task, shape, damage)
    if damage.share is not None:
        if not 0 < damage.share < 1:
            raise InputError(f"the random share of missing pixels must lie between 0 and 1; got {damage.share}")
        width, height = _measurement_size(whole, shape)
        lost = generator(seed, 0, Use.MEASUREMENT, step=1).random((height, width)) < damage.share
        missing = lost if missing is None else missing | lost
    _refuse_unread(damage.task, damage, missing)
    operator = _lacking(whole, damage.task, shape, damage, missing)
    sigma = SIGMA if damage.sigma is None else damage.sigma
    y = operator.A(clean[None])[0] + np.float32(sigma) * normal(operator.measurement_shape, seed, 0, Use.MEASUREMENT)
    return operator.observed(y), operator.missing, operator


def _refuse_unread(task: str, damage: Damage, missing: np.ndarray | None) -> None:
    """Raise InputError for what the task would silently leave aside."""
    for name in sorted({name for names in TASKS.values() for name in names} - set(TASKS[task])):
        if getattr(damage, name) is not None:
            option = {"share": "random", "fraction": "keep-fraction"}.get(name, name)
            raise InputError(f"--{option} does not go with {task}; one damage at a time")
    if missing is not None and "mask" not in TASKS[task]:
        raise InputError(f"the picture has transparent pixels, which {task} cannot use; flatten it, or --task inpaint")


def estimate_sigma(pixels: np.ndarray) -> float:
    """The deviation of white noise in a picture (C, H, W), in its own units.

    Donoho and Johnstone (1994): the median magnitude of the finest diagonal wavelet coefficients (Daubechies, two
    vanishing moments) over 0.6745, averaged over channels. Texture makes it read high. Raises InputError for a picture
    with a side of fewer than 4 pixels.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < 4:
        raise InputError(f"the noise of a picture of {width}x{height} cannot be estimated; say --sigma")
    root = np.sqrt(3)
    high = np.array([1 - root, root - 3, 3 + root, -1 - root]) / (4 * np.sqrt(2))

    def details(a: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(a, 4, axis=-1)[..., ::2, :]
        return (windows @ high).swapaxes(-1, -2)

    diagonal = details(details(np.asarray(pixels, np.float64)))
    return float(np.mean(np.median(np.abs(diagonal), axis=(-2, -1)) / 0.6745))


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


def implied(damage: Damage) -> str | None:
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


def _whole_factor(photo: Photo, image_shape: Shape) -> int | None:
    """The r >= 2 by which both sides of the prior's images are larger, if there is one."""
    (width, height), (_, full_height, full_width) = photo.size, image_shape
    r = full_width // width
    return r if r >= 2 and (width * r, height * r) == (full_width, full_height) else None


def _measurement_size(operator: Resolvable | None, image_shape: Shape) -> tuple[int, int]:
    """(width, height) of the pictures, or arrays, that a task starts from. `operator` is what `_whole` gave."""
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


def _smaller(shape: Shape, scale: int, filter: str | None, kernel: str | np.ndarray | None) -> Linear:
    if kernel is not None:
        if filter is not None:
            raise InputError("--filter and --kernel both say how resolution was lost; give one")
        return Circular(shape, _weights(kernel), scale)
    if filter not in (None, *FILTERS):
        raise InputError(f"there is no filter {filter!r}; choose one of {', '.join(FILTERS)}")
    return Bicubic(shape, scale) if filter == "bicubic" else SuperResolution(shape, scale)


def _weights(kernel: str | np.ndarray) -> np.ndarray:
    return parse_kernel(kernel) if isinstance(kernel, str) else kernel


def _blur(shape: Shape, kernel: str | np.ndarray, border: str | None) -> Resolvable:
    """The blur whose basis is the cheapest: by rows and columns, by cosines, or by Fourier."""
    if border not in (None, *BORDERS):
        raise InputError(f"there is no border {border!r}; choose one of {', '.join(BORDERS)}")
    weights = _weights(kernel)
    if border is None:
        border = "mirror" if is_mirrored(weights) else "circular"
    if border == "valid":
        return valid_blur(shape, weights)
    if border == "taper":
        return Tapered(shape, weights)
    if border == "circular":
        return Circular(shape, weights)
    kind, _, value = kernel.partition(":") if isinstance(kernel, str) else ("", "", "")
    if kind == "gaussian" and "," not in value:
        return Deblur.gaussian(shape, float(value))
    if kind == "uniform":
        return Deblur.uniform(shape, int(value))
    return Mirrored(shape, weights)
