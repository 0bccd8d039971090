"""The options of a damage and a restoration, parsed alike for the command line, Python and the service."""

import difflib
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

import numpy as np
from PIL import Image

from ...engines import InputError, KindError
from ..operators.kernels import KINDS
from ..sampling.choices import Settings, check_whole
from ..sampling.guidance import Guidance
from .damage import Damage, parse_noise, parse_sigma, parse_size, sigma_of
from .decoding import photo_of
from .images import as_mask, read_kernel, read_mask, read_matrix
from .kinds import Named, is_named, to_array

Task = Literal["denoise", "inpaint", "outpaint", "sr", "colorize", "deblur", "sense", "matrix", "jpeg"]
"""The names in `damage.TASK_FIELDS`."""
Filter = Literal["box", "bicubic"]
Border = Literal["mirror", "circular", "valid", "taper"]
Grey = Literal["mean", "rec601", "rec709"]
Fit = Literal["crop", "resize", "pad"]
Size: TypeAlias = str | tuple[int, int]
"""Width and height in pixels: "24x32" or (24, 32)."""


class Options(Settings, total=False):
    """Options of a restoration: those of `frugal-rt restore` by name, and the settings of `Restorer.restore`."""

    task: Task | None
    """The damage. None: inferred from the picture, as on the command line."""
    mask: Named | Image.Image | np.ndarray | Any
    """The missing pixels: a file or a picture, where it is white, or an array or tensor (H, W), where it is true."""
    hole: Size | None
    """A missing box in the middle."""
    keep: Size | None
    """The kept box in the middle; the rest is painted."""
    scale: int | None
    """The factor of downscaling: one pixel of scale x scale is left."""
    filter: Filter | None
    """The filter of downscaling: "box" (the default, a block's mean) or "bicubic"."""
    kernel: Named | np.ndarray | None
    """The blur: "gaussian:2", "motion:9,30", ..., a file, or weights (h, w)."""
    border: Border | None
    """The assumption about pixels outside a blurred picture."""
    keep_fraction: float | None
    """Share of the Walsh-Hadamard coefficients that are measured."""
    matrix: Named | np.ndarray | None
    """The matrix A: a .npy file or an array (m, C H W), or (m, H W) for each channel."""
    grey: Grey | None
    """The weights of R, G and B in the grey picture."""
    noise: float | None
    """Deviation of the noise in grey levels of 255, instead of sigma."""
    fit: Fit | None
    """How to bring a picture to the size of a prior of one size; None keeps its own size."""
    align: bool
    """Whether to find the faces in the picture, and restore them alone."""
    frame: int | None
    """The frame or page, from 1, of a file of several; None is the first."""
    batch: int | None
    on_step: Callable[[Any], object] | None
    """As in `Restorer.restore`."""


def check_names(options: Mapping[str, Any]) -> None:
    """Raise KindError for an unknown option."""
    names = [*get_type_hints(Options)]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise KindError(f"there is no option {name!r}" + (f"; did you mean {near[0]}?" if near else ""))


def guidance_of(options: Mapping[str, Any]) -> Guidance:
    """Return the settings among `options`, without sigma, which belongs to the damage. Raises InputError."""
    names = get_type_hints(Settings).keys() - {"sigma"}
    return Guidance(**{name: value for name, value in options.items() if name in names})


def read_damage(options: Mapping[str, Any], tell: Callable[[str], object] = lambda note: None, **more: Any) -> Damage:
    """Return the Damage that `options` describe by words, values or files; `more` are further fields of it.

    Options that are left out are None. tell: called with a sentence for each content of a mask's file that was left
    out. Raises InputError.
    """
    said = options.get
    for name in ("task", "filter", "border", "grey"):
        if said(name) is not None and not isinstance(said(name), str):
            raise KindError(f"{name} is a word; got {said(name)!r}")
    return Damage(
        task=said("task"),
        mask=_read_mask(said("mask"), tell),
        hole=_read_size(said("hole")),
        keep=_read_size(said("keep")),
        scale=read_whole("scale", said("scale")),
        filter=said("filter"),
        kernel=_read_kernel(said("kernel")),
        border=said("border"),
        fraction=_read_number("keep_fraction", said("keep_fraction")),
        matrix=_read_matrix(said("matrix")),
        grey=said("grey"),
        sigma=read_sigma(said("noise"), said("sigma")),
        **more,
    )


def read_sigma(noise: str | float | None, sigma: str | float | None) -> float | None:
    """Return the deviation on the [-1, 1] scale, from noise in grey levels or from sigma.

    Raises InputError for both.
    """
    if noise is not None and sigma is not None:
        raise InputError("--noise and --sigma say the same, in grey levels and on [-1, 1]; leave one of them out")
    if noise is not None:
        return parse_noise(noise) if isinstance(noise, str) else _within("noise", noise, 255, sigma_of)
    return parse_sigma(sigma) if isinstance(sigma, str) else _within("sigma", sigma, 2, float)


def _within(name: str, value: Any, most: float, to_sigma: Callable[[float], float]) -> float | None:
    number = _read_number(name, value)
    if number is None:
        return None
    if not 0 <= number <= most:
        scale = "in grey levels of 255" if name == "noise" else "on the [-1, 1] scale"
        raise InputError(f"{name} is {scale}, 0..{most:g}; got {value!r}")
    return to_sigma(number)


def _read_number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise KindError(f"{name} is a number; got {value!r}") from None


def read_whole(name: str, value: Any) -> int | None:
    """Return an option as an int, or None. Raises KindError."""
    return None if value is None else check_whole(name, value)


def _read_size(value: Any) -> tuple[int, int] | None:
    if value is None or isinstance(value, str):
        return None if value is None else parse_size(value)
    try:
        width, height = map(operator.index, value)
    except (TypeError, ValueError):
        width = height = 0
    if min(width, height) < 1:
        raise InputError(f"a size is a width and a height in pixels, such as (24, 32) or '24x32'; got {value!r}")
    return width, height


def _read_mask(given: Any, tell: Callable[[str], object]) -> np.ndarray | None:
    if given is None:
        return None
    if is_named(given):
        return read_mask(given, tell)
    if isinstance(given, Image.Image):
        return as_mask(photo_of(given, "the mask"), "the mask")
    mask = to_array(given, "the mask")
    while mask.ndim > 2 and len(mask) == 1:
        mask = mask[0]
    if mask.ndim != 2:
        raise InputError(f"the mask is of one channel, (H, W); got {mask.shape}")
    if mask.dtype == np.uint8 and mask.max(initial=0) > 1:
        return as_mask(photo_of(Image.fromarray(mask), "the mask"), "the mask")
    if not np.isin(mask, (0, 1)).all():
        raise InputError("the mask has values between 0 and 1; say from where on a pixel is missing: mask > 0.5")
    return np.asarray(mask, bool)


def _read_kernel(given: Any) -> str | np.ndarray | None:
    """Return a kernel described in words as it is; read the weights of a file."""
    if given is None or not is_named(given):
        return None if given is None else to_array(given, "the kernel")
    text = os.fspath(given)
    if text.partition(":")[0] in KINDS or not Path(text).suffix:
        return text
    return read_kernel(text)


def _read_matrix(given: Any) -> np.ndarray | None:
    if given is None:
        return None
    return read_matrix(given) if is_named(given) else to_array(given, "the matrix")
