"""Functions for callers on pictures as arrays (C, H, W) on [-1, 1]: read, write, show and compare."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from ...engines import InputError, KindError
from ..sampling import psnr as rows
from .decoding import decode_photo
from .formats import PICTURES, write_picture
from .images import MAX_BYTES, PORTRAIT, fit_photo, read_photo, to_picture, write_npy
from .kinds import to_array

__all__ = ["PORTRAIT", "psnr", "read", "to_pil", "write"]


def read(file: str | os.PathLike[str] | IO[bytes], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a picture, or a .npy array: (C, H, W) float32 on [-1, 1], C = 1 or 3, NaN where it is transparent.

    file: its name, or a binary file object of a picture. size: (width, height); the picture is cropped about its middle
    to that shape, and scaled. Raises MissingFile, and InputError for a file that is no picture.

    >>> from frugal_rt import read, write
    >>> write("grey.png", np.zeros((3, 4, 6)))
    >>> read("grey.png", size=(2, 2)).round(2)[0]
    array([[0., 0.],
           [0., 0.]], dtype=float32)
    """
    photo = read_photo(file) if isinstance(file, str | os.PathLike) else decode_photo(_rest_of(file), "the picture")
    if size is not None:
        photo = fit_photo(photo, size, "crop")
    return photo.pixels if photo.missing is None else np.where(photo.missing, np.float32(np.nan), photo.pixels)


def _rest_of(file: IO[bytes]) -> bytes:
    data = file.read(MAX_BYTES + 1)
    if not isinstance(data, bytes):
        raise KindError("a file of text was given; open a picture in binary: open(path, 'rb')")
    if len(data) > MAX_BYTES:
        raise InputError(f"the picture has more than {MAX_BYTES >> 20} MiB, up to which pictures are read")
    return data


def write(path: str | os.PathLike[str], image: Any, settings: Mapping[str, Any] | None = None) -> None:
    """Write an image into a file, whole or not at all, by its suffix: .png, .jpg, .webp, .tif, or .npy for an array.

    image: an argument of `to_pil`, or a PIL image. settings: `Result.settings`, which the file carries, so that
    `frugal-rt restore` recognises it as restored. An existing file is replaced. Raises InputError, FileError.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        write_npy(path, to_array(image, "the image"))
    elif suffix in PICTURES:
        write_picture(path, image if isinstance(image, Image.Image) else to_pil(image), settings)
    else:
        raise InputError(f"{Path(path).name}: a picture ends in {', '.join(PICTURES)}, an array in .npy")


def to_pil(image: Any) -> Image.Image:
    """Show an array or tensor (C, H, W) or (H, W) on [-1, 1] as an 8-bit PIL image: clipped, never stretched.

    NaN becomes transparent. Raises InputError for another shape, KindError for another type than an array of floats.

    >>> from frugal_rt import to_pil
    >>> to_pil(np.linspace(-1, 1, 3)[None, None]).tobytes()
    b'\\x00\\x80\\xff'
    """
    values = to_array(image, "the image")
    if values.dtype.kind != "f":
        raise KindError(f"the image is of {values.dtype}, and not of floats on [-1, 1]")
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) not in (1, 3) or not values.size:
        raise InputError(f"an image is (1, H, W), (3, H, W) or (H, W), one at a time; got {values.shape}")
    missing = np.isnan(values).any(axis=0)
    return to_picture(np.where(missing, values.dtype.type(0), values), missing if missing.any() else None)


def psnr(a: Any, b: Any) -> float:
    """Return the PSNR in dB between two arrays or tensors of the same shape on [-1, 1], over all their values.

    It is 10 log10(peak^2 / MSE) with peak 2, as on [0, 1] with peak 1; infinite where they are equal. Raises InputError
    for different shapes.

    >>> from frugal_rt import psnr
    >>> round(psnr(np.zeros((3, 4, 4)), np.full((3, 4, 4), 0.2)), 1)
    20.0
    """
    one, other = (np.asarray(to_array(image, "the image"), np.float64) for image in (a, b))
    if one.shape != other.shape:
        raise InputError(f"two images of one shape are compared; got {one.shape} and {other.shape}")
    return float(rows.psnr(one[None], other[None])[0])
