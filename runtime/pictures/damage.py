"""What a user says of a degradation, and the operator that it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ...engines import InputError
from ..operators import (
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
from ..operators.dense import is_small
from ..operators.kernels import KINDS
from ..operators.masks import border_mask, box_mask

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


def make_operator(task: str, shape: Shape, damage: Damage, missing: np.ndarray | None = None) -> Operator:
    """The operator of a task on images of `shape`. Raises InputError naming the option that is missing or wrong."""
    refuse_unread(task, damage, missing)
    return without(whole_operator(task, shape, damage), task, shape, damage, missing)


def whole_operator(task: str, shape: Shape, damage: Damage) -> Resolvable | None:
    """The operator of a task before any mask; None for inpainting, which is nothing else."""
    if task not in TASKS:
        raise InputError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}")
    refuse_unread(task, damage, None)
    return None if task in ("inpaint", "outpaint") else _complete(task, shape, damage)


def without(
    operator: Resolvable | None,
    task: str,
    shape: Shape,
    damage: Damage,
    missing: np.ndarray | None,
    outside: np.ndarray | None = None,
) -> Operator:
    """What `whole_operator` gave, without the pixels that are missing, or outside the picture."""
    if operator is None:
        missing = missing_pixels(task, shape, damage, missing)
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


def missing_pixels(task: str, shape: Shape, damage: Damage, missing: np.ndarray | None) -> np.ndarray:
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
    return np.asarray(np.logical_or.reduce(masks))


def refuse_unread(task: str, damage: Damage, missing: np.ndarray | None) -> None:
    """Raise InputError for what the task would silently leave aside."""
    for name in sorted({name for names in TASKS.values() for name in names} - set(TASKS[task])):
        if getattr(damage, name) is not None:
            option = {"share": "random", "fraction": "keep-fraction"}.get(name, name)
            raise InputError(f"--{option} does not go with {task}; one damage at a time")
    if missing is not None and "mask" not in TASKS[task]:
        raise InputError(f"the picture has transparent pixels, which {task} cannot use; flatten it, or --task inpaint")


def _smaller(shape: Shape, scale: int, filter: str | None, kernel: str | np.ndarray | None) -> Linear:
    if kernel is not None:
        if filter is not None:
            raise InputError("--filter and --kernel both say how resolution was lost; give one")
        return Circular(shape, kernel_weights(kernel), scale)
    if filter not in (None, *FILTERS):
        raise InputError(f"there is no filter {filter!r}; choose one of {', '.join(FILTERS)}")
    return Bicubic(shape, scale) if filter == "bicubic" else SuperResolution(shape, scale)


def kernel_weights(kernel: str | np.ndarray) -> np.ndarray:
    return parse_kernel(kernel) if isinstance(kernel, str) else kernel


def _blur(shape: Shape, kernel: str | np.ndarray, border: str | None) -> Resolvable:
    """The blur whose basis is the cheapest: by rows and columns, by cosines, or by Fourier."""
    if border not in (None, *BORDERS):
        raise InputError(f"there is no border {border!r}; choose one of {', '.join(BORDERS)}")
    weights = kernel_weights(kernel)
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
