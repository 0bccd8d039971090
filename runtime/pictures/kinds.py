"""Kinds of pictures that Python callers give and get: files, PIL images, arrays and tensors."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeGuard, TypeVar

import numpy as np
from PIL import Image

from ...engines import InputError, KindError
from ...engines.extras import import_torch
from ..operators import Linear, Operator
from .decoding import LARGEST, Metadata, Photo, looks_unsigned, photo_of, photo_of_array
from .images import read_photo, to_picture

Named: TypeAlias = str | os.PathLike[str]
Output = Literal["pil", "array", "tensor"]
"""The kinds of restored pictures; None is the kind of the input."""
Range: TypeAlias = tuple[float, float]
SIGNED: Range = (-1.0, 1.0)


class Tensor(Protocol):
    """The methods of a torch tensor that pictures need; torch is not imported for it."""

    def detach(self) -> Any: ...
    def new_tensor(self, data: Any) -> Any: ...


TensorT = TypeVar("TensorT", bound=Tensor)


def is_named(given: object) -> TypeGuard[Named]:
    """Return whether `given` is a file's name."""
    return isinstance(given, str | os.PathLike)


def is_tensor(given: object) -> bool:
    """Return whether `given` is a torch tensor."""
    return hasattr(given, "detach") and hasattr(given, "new_tensor")


def to_array(given: Any, name: str) -> np.ndarray:
    """Convert an array, tensor or nested sequence of numbers to a numpy array on the host. Raises KindError."""
    if is_tensor(given):
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given  # numpy has no bfloat16
        return np.asarray(given.numpy())
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise KindError(f"{name} is no array: {error}") from error
    if array.dtype.kind not in "biufc":
        raise KindError(f"{name} is a {type(given).__name__}, and no array of numbers")
    return array


def warn_of_unsigned(values: np.ndarray, name: str, depth: int) -> None:
    """Warn where all values lie in [0, 1]; the warning's line is `depth` calls above this one."""
    if looks_unsigned(values):
        said = f"{name}: all values lie in [0, 1], and are taken to be on [-1, 1]; if they are not, give range=(0, 1)"
        warnings.warn(said, stacklevel=depth + 2)


def signed(values: np.ndarray, range: Range) -> np.ndarray:
    """Convert values from `range` to [-1, 1], float32."""
    low, high = check_range(range)
    return np.asarray((values - np.float32(low)) * np.float32(2 / (high - low)) - 1, np.float32)


def signed_sigma(sigma: float, range: Range) -> float:
    """Convert a deviation from `range` to the [-1, 1] scale."""
    low, high = check_range(range)
    return 2 * sigma / (high - low)


def signed_measurement(y: np.ndarray, operator: Operator, range: Range) -> np.ndarray:
    """Convert a measurement y of images on `range` to that of the same images on [-1, 1].

    Both are (B, c, h, w) or (c, h, w).

    y = A x, so that A (2 x - low - high) / (high - low) = (2 y - (low + high) A 1) / (high - low), where 1 is a white
    image. Raises InputError for an operator that is not linear.
    """
    low, high = check_range(range)
    if not isinstance(operator, Linear):
        raise InputError(f"range is for linear operators, and {operator.name} is none; give y on its own scale")
    white = np.asarray(operator.A(np.ones(operator.image_shape, np.float32)))
    return np.asarray((2 * y.astype(np.float32) - np.float32(low + high) * white) / np.float32(high - low), np.float32)


def scaled(image: np.ndarray, range: Range | None) -> np.ndarray:
    """Convert an image from [-1, 1] to `range`."""
    if range is None:
        return image
    low, high = check_range(range)
    return np.asarray((image + 1) * np.float32((high - low) / 2) + np.float32(low), np.float32)


def check_range(range: Any) -> Range:
    """Return the values of black and white as floats. Raises InputError."""
    try:
        low, high = map(float, range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (-np.inf < low < high < np.inf):
        raise InputError(f"range is the values of black and white, such as (0, 1); got {range!r}")
    return low, high


@dataclass(frozen=True)
class Kind:
    """The kind in which pictures were given, and in which results are returned."""

    output: Output
    batched: bool = False
    channels_last: bool = False
    flat: bool = False
    """Whether an array was (H, W), as a grey result is then too."""
    dtype: np.dtype[Any] | None = None
    """The dtype of an array; None for other kinds."""
    range: Range | None = None
    tensor: Any = None
    """The given tensor; results have its type and device."""

    def give(self, images: Sequence["Made"], output: Output | None = None) -> Any:
        """Return restored pictures in this kind.

        output: another kind: "pil"; "array", (C, H, W) float32 on [-1, 1]; or "tensor", the same. A batch of PIL images
        is a list.
        """
        output = output or self.output
        if output == "pil":
            pictures = [one.picture() for one in images]
            return pictures if self.batched else pictures[0]
        rows = [self._values(one.image) for one in images]
        array = np.stack(rows) if self.batched else rows[0]
        if output == "array":
            return array
        if output != "tensor":
            raise InputError(f"there is no output {output!r}; choose one of pil, array, tensor")
        if self.tensor is not None:
            return self.tensor.new_tensor(array)
        return import_torch("A tensor").from_numpy(array)

    def _values(self, image: np.ndarray) -> np.ndarray:
        if self.dtype is None or self.dtype.kind == "f":
            image = scaled(image, self.range)
            image = image if self.dtype is None else image.astype(self.dtype)
        else:
            image = np.atleast_3d(np.asarray(to_picture(image))).transpose(2, 0, 1)
        if self.flat and len(image) == 1:
            return np.array(image[0], order="C")
        return np.array(image.transpose(1, 2, 0) if self.channels_last else image, order="C")  # a writable copy


class Made(NamedTuple):
    """A restored picture to return."""

    image: np.ndarray
    """(C, H, W) on [-1, 1]."""
    metadata: Metadata
    missing: np.ndarray | None = None
    """(H, W) bool: pixels that are still missing; None where none are."""

    def picture(self) -> Image.Image:
        """Return a PIL image with the profile and EXIF of its source, which `save` writes."""
        picture = to_picture(self.image, self.missing)
        picture.info.update(self.metadata.for_picture(picture))
        return picture


def read_pictures(
    given: Any, range: Range | None = None, largest: float = LARGEST, frame: int | None = None
) -> tuple[list[Photo], Kind]:
    """Read the pictures that a caller gives; return photos and their Kind.

    given: a file's name, a PIL image, or an array or tensor: of uint8, (H, W), (H, W, C) or (C, H, W), or of floats on
    `range`, (H, W), (C, H, W) or (H, W, C); several of one size lie along a first axis. NaN marks missing pixels.
    largest, frame: as in `decode_photo`; a frame is of a file. Raises InputError, and KindError for another type.
    """
    if range is not None:
        check_range(range)
    if is_named(given) or isinstance(given, Image.Image):
        if range is not None:
            raise InputError("range is for arrays and tensors of floats; a picture has a scale of its own")
        if isinstance(given, Image.Image):
            _refuse_frame(frame)
            return [photo_of(given)], Kind("pil")
        return [read_photo(given, largest, frame)], Kind("pil")
    _refuse_frame(frame)
    try:
        values = to_array(given, "the picture")
    except KindError:
        values = np.zeros(())
    if values.ndim == 0:
        raise KindError(f"a picture is a file's name, a PIL image, an array or a tensor; got {type(given).__name__}")
    tensor = given if is_tensor(given) else None
    levels = values.dtype == np.uint8 and range in (None, (0, 255))
    if not levels and values.dtype.kind not in ("f" if range is None else "fiu"):
        raise InputError(
            f"the picture is of {values.dtype}, which says no scale; give uint8, floats on [-1, 1], or the values of "
            "black and white: range=(0, 255)"
        )
    batched = values.ndim == 4
    rows = [*values] if batched else [values]
    if not rows:
        raise InputError("the batch holds no picture")
    channels_last = _is_channels_last(rows[0].shape, levels)
    kind = Kind(
        "array" if tensor is None else "tensor",
        batched,
        channels_last,
        rows[0].ndim == 2,
        np.dtype(np.float32) if values.dtype.kind != "f" and not levels else values.dtype,
        None if levels else range,
        tensor,
    )
    if levels:
        return [_photo_of_levels(row, channels_last) for row in rows], kind
    rows = [row.transpose(2, 0, 1) if channels_last else row for row in rows]
    if range is not None:
        rows = [signed(row, range) for row in rows]
    elif largest < np.inf:
        warn_of_unsigned(values, "the picture", depth=3)
    return [photo_of_array(row, "the picture", largest) for row in rows], kind


def _refuse_frame(frame: int | None) -> None:
    if frame is not None:
        raise InputError("frame goes with the name of a file; give the picture of that frame instead")


def _is_channels_last(shape: tuple[int, ...], levels: bool) -> bool:
    """Return whether the last axis of a picture is its channels; True for levels (H, W), coloured to (H, W, 3)."""
    if len(shape) not in (2, 3):
        raise InputError(f"a picture is (H, W), (H, W, C) or (C, H, W), or a batch of the last two; got {shape}")
    if len(shape) == 2:
        return levels
    counts = (1, 2, 3, 4) if levels else (1, 3)
    first, last = shape[0] in counts, shape[-1] in counts
    if not (first or last):
        raise InputError(f"a picture has 1 or 3 channels, (H, W, C) or (C, H, W); got {shape}")
    return last if levels else not first


def _photo_of_levels(levels: np.ndarray, channels_last: bool) -> Photo:
    """Convert a picture of uint8 to a photo, by way of a PIL image."""
    if levels.ndim == 3:
        levels = levels if channels_last else levels.transpose(1, 2, 0)
        levels = levels[:, :, 0] if levels.shape[2] == 1 else levels
    return photo_of(Image.fromarray(np.ascontiguousarray(levels)))
