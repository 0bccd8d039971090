"""Pictures as users have them, in and out."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ...engines import InputError
from ...engines.files import atomic_write
from ..operators.dense import MAX_VALUES

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
LARGEST = 10.0
"""Beyond it, an array is not on the [-1, 1] scale, whatever its noise."""
MASK_LEVEL = 128
"""Mask values from here up, and alpha values below it, mark a pixel as missing."""
SPACES: dict[str | None, bytes] = {"L": b"GRAY", "RGB": b"RGB "}
"""What an ICC profile calls the colour space of a picture of a mode."""
PORTRAIT = Path(__file__).parent / "portrait.png"
"""The packaged face that the demo, the benchmark and the page restore."""
SETTINGS_KEY = "frugal-rt"
"""The PNG text chunk that carries a restoration's settings as JSON."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".npy")
"""How the names of the files end that are taken for pictures, of all those in a folder."""


@dataclass(frozen=True)
class Metadata:
    """What a picture's file says beside its pixels, to be written with what is made of it."""

    icc_profile: bytes | None = None
    exif: bytes | None = None

    @classmethod
    def of(cls, image: Image.Image) -> "Metadata":
        """A profile of a colour space that the pixels are not kept in (CMYK, Lab) is left out."""
        profile = image.info.get("icc_profile") or b""
        kept = profile[16:20] == SPACES.get(_kept_mode(image))
        exif = image.getexif()
        return cls(profile if kept else None, exif.tobytes() if len(exif) else None)

    def for_picture(self, picture: Image.Image) -> dict[str, bytes]:
        """What Pillow takes to save `picture` with it. A grey profile does not describe colour, nor the reverse."""
        fits = self.icc_profile is not None and self.icc_profile[16:20] == SPACES.get(_kept_mode(picture))
        profile = self.icc_profile if fits else None
        return {name: data for name, data in (("icc_profile", profile), ("exif", self.exif)) if data is not None}


@dataclass(frozen=True)
class Photo:
    """A picture on [-1, 1]."""

    pixels: np.ndarray
    """(C, H, W) float32, C = 1 for one-channel pictures, else 3."""
    missing: np.ndarray | None = None
    """(H, W) bool, True where a pixel is transparent (or NaN in a .npy); None where none is."""
    metadata: Metadata = Metadata()
    outside: np.ndarray | None = None
    """(H, W) bool, True where the picture was extended: measured by nothing, whatever the task; None where it was not.
    """

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def colour(self) -> "Photo":
        """The same picture with three channels."""
        return replace(self, pixels=np.broadcast_to(self.pixels, (3, *self.pixels.shape[1:])))


def read_photo(path: str | os.PathLike[str], largest: float = LARGEST) -> Photo:
    """Read a picture (PNG, JPEG, WebP, TIFF, BMP, GIF, PPM), or a .npy array (C, H, W) or (H, W) on [-1, 1].

    EXIF orientation is applied; palettes, CMYK and 16 bit are understood; transparent pixels become `missing`. Byte
    and pixel limits hold before anything is decoded. A .npy array with a value beyond `largest` is taken for one on
    another scale. Raises InputError.
    """
    return decode_photo(read_bytes(Path(path)), Path(path).name, largest)


def decode_photo(data: bytes, name: str, largest: float = LARGEST, max_pixels: int | None = None) -> Photo:
    """`read_photo` of a file's bytes; `name` says which kind it is and stands in the errors. Raises InputError.

    max_pixels: in place of MAX_PIXELS.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    if name.lower().endswith(".npy"):
        return _from_npy(data, name, largest, max_pixels)
    return _from_picture(data, name, max_pixels)


def read_bytes(path: Path) -> bytes:
    """A picture's file, if it is no larger than one may be. Raises InputError."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError(f"{path} is a folder; give one picture")
        if size > MAX_BYTES:
            raise InputError(f"{path.name} has {size >> 20} MiB; pictures of up to {MAX_BYTES >> 20} MiB are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W) bool from a mask picture, True where it is white: where the pixel is missing. Raises InputError."""
    return as_mask(read_photo(path))


def as_mask(photo: Photo) -> np.ndarray:
    """(H, W) bool, True where `photo` is white."""
    return np.asarray(photo.pixels.mean(axis=0) >= MASK_LEVEL / 127.5 - 1)


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray:
    """(h, w) a blur kernel from a picture, black being 0, or a .npy of real numbers. Raises InputError."""
    data, name = read_bytes(Path(path)), Path(path).name
    photo = decode_photo(data, name, math.inf)
    if photo.missing is not None:
        raise InputError(f"{name}: a kernel must not have transparent or NaN pixels")
    kernel: np.ndarray = photo.pixels.mean(axis=0, dtype=np.float64)
    return kernel if name.lower().endswith(".npy") else (kernel + 1) / 2


def read_matrix(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in a .npy file, of at most a matrix's entries and no pickle. Raises InputError."""
    try:
        with Path(path).open("rb") as file:
            return _load_npy(file, Path(path).name, MAX_VALUES)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def fit_photo(photo: Photo, size: tuple[int, int], how: str) -> Photo:
    """`photo` at (width, height): "crop" keeps its shape and cuts the middle out, "resize" stretches it.

    "mean" stretches it too, by a box filter: white noise stays white where the picture shrinks.
    """
    bilinear = Image.Resampling.BILINEAR
    stretching = Image.Resampling.BOX if how == "mean" else bilinear

    def fitted(channel: np.ndarray) -> np.ndarray:
        image = Image.fromarray(channel.astype(np.float32))
        return np.asarray(ImageOps.fit(image, size, bilinear) if how == "crop" else image.resize(size, stretching))

    pixels = photo.pixels
    masks = {name: mask for name in ("missing", "outside") if (mask := getattr(photo, name)) is not None}
    for mask in masks.values():
        pixels = np.where(mask, np.float32(0), pixels)
    # A pixel that any missing one contributes to is missing.
    masks = {name: fitted(mask) > 0 for name, mask in masks.items()}
    return replace(photo, pixels=np.stack([fitted(channel) for channel in pixels]), **masks)


def pad_photo(photo: Photo, size: tuple[int, int]) -> Photo:
    """`photo` in the middle of (width, height), which it must not exceed; the rest is `outside`."""
    (width, height), (full_width, full_height) = photo.size, size
    top, left = (full_height - height) // 2, (full_width - width) // 2
    around = (top, full_height - height - top), (left, full_width - width - left)
    return replace(
        photo,
        pixels=np.pad(photo.pixels, ((0, 0), *around)),
        missing=None if photo.missing is None else np.pad(photo.missing, around),
        outside=np.pad(np.zeros((height, width), bool), around, constant_values=True),
    )


def resized(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A channel (h, w) at (width, height) float32, by a bicubic filter as wide as the coarser of the two grids."""
    image = Image.fromarray(np.asarray(channel, np.float32))
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))


def to_picture(image: np.ndarray, missing: np.ndarray | None = None) -> Image.Image:
    """A (C, H, W) array on [-1, 1] as an 8-bit picture, clipped, never stretched; `missing` pixels transparent."""
    levels = np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
    if missing is None:
        return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    levels = np.where(missing, 0, np.broadcast_to(levels, (3, *levels.shape[1:])))
    alpha = np.where(missing, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([levels.transpose(1, 2, 0).astype(np.uint8), alpha]))


def check_output(path: str | os.PathLike[str], force: bool, suffixes: Sequence[str] = (".png",)) -> Path:
    """The path, if it may be written: a known suffix, not taken unless `force`, its folder there. Raises InputError."""
    target = Path(path)
    if len(target.name.encode()) > 200:
        raise InputError(f"the name {target.name[:30]}... is too long for a file")
    if suffixes and target.suffix.lower() not in suffixes:
        raise InputError(f"{target.name}: the output must end in {' or '.join(suffixes)}")
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file in it")
    if target.exists() and not force:
        raise InputError(f"{target} exists; give another name with -o, or --force to replace it")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist")
    return target


def write_png(
    path: str | os.PathLike[str],
    picture: Image.Image,
    settings: Mapping[str, Any] | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write a PNG, whole or not at all, its settings as JSON in a text chunk. Raises FrugalError."""
    data = encode_png(picture, settings, metadata)
    with atomic_write(path) as file:
        file.write(data)


def encode_png(
    picture: Image.Image, settings: Mapping[str, Any] | None = None, metadata: Metadata | None = None
) -> bytes:
    """The bytes of a PNG, as `write_png` writes it."""
    info = PngInfo()
    info.add_text("Software", "frugal-rt")
    if settings is not None:
        info.add_text(SETTINGS_KEY, json.dumps(settings))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info, **(metadata or Metadata()).for_picture(picture))
    return file.getvalue()


def write_npy(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array as .npy, whole or not at all. Raises FrugalError."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def _from_npy(data: bytes, name: str, largest: float, max_pixels: int) -> Photo:
    array = _load_npy(io.BytesIO(data), name, 3 * max_pixels)
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] not in (1, 3)):
        raise InputError(
            f"{name} must be a real array of (H, W), (1, H, W) or (3, H, W); it is {array.dtype} {array.shape}"
        )
    pixels = np.asarray(array if array.ndim == 3 else array[None], np.float32)
    missing = np.asarray(np.isnan(pixels).any(axis=0))
    pixels = np.where(missing, np.float32(0), pixels)
    if not pixels.size or not np.isfinite(pixels).all() or np.abs(pixels).max() > largest:
        raise InputError(f"{name} must hold values on the [-1, 1] scale (noise may go beyond), NaN for missing pixels")
    return Photo(pixels, missing if missing.any() else None)


def _load_npy(file: IO[bytes], name: str, most: int) -> np.ndarray:
    """The array, once its header says that it has `most` values or fewer."""
    try:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, _ = read_header[np.lib.format.read_magic(file)](file)
        if math.prod(shape) > most:
            raise InputError(f"{name} has {math.prod(shape)} values; up to {most} are read")
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))
    except InputError:
        raise
    except Exception as error:  # a header is Python's syntax, and fails as Python's parser does
        raise InputError(f"{name} is not a .npy array of numbers: {error}") from error


def _from_picture(data: bytes, name: str, max_pixels: int) -> Photo:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if math.prod(opened.size) > max_pixels:
                raise InputError(f"{name} has {math.prod(opened.size)} pixels; up to {max_pixels} are read")
            opened.load()
            image = ImageOps.exif_transpose(opened)
            metadata = Metadata.of(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a picture this can read ({', '.join(FORMATS)}, .npy)") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has too many pixels; up to {max_pixels} are read") from None
    except Exception as error:  # Pillow's decoders raise what they like on broken files
        raise InputError(f"{name} is a broken picture: {error}") from error
    missing: np.ndarray | None = None
    if "A" in image.getbands() or "transparency" in image.info:
        clear = image.info.get("transparency")
        deep = image.mode.startswith("I;16") and isinstance(clear, int)  # Pillow's conversion would lose it
        missing = np.asarray(image) == clear if deep else np.asarray(image.convert("RGBA"))[:, :, 3] < MASK_LEVEL
        missing = missing if missing.any() else None
    pixels: np.ndarray
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        pixels = np.asarray(image, np.float32)[None] / 65535
    elif image.mode == "F":
        pixels = np.asarray(image, np.float32)[None]
    elif _kept_mode(image) == "L":
        pixels = np.asarray(image.convert("L"), np.float32)[None] / 255
    else:
        pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(f"{name}: a floating-point picture must lie on [0, 1], an integer one on 0..65535")
    return Photo(pixels * 2 - 1, missing, metadata)


def _kept_mode(image: Image.Image) -> str | None:
    """The mode that the values of `image` are kept in, or None where they are converted."""
    if image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"):
        return "L"
    return "RGB" if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA") else None


"""Eileen Collins, NASA, 1995: public domain; framed as the celeba prior was trained."""
