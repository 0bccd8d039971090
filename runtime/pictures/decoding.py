"""Pictures from the bytes of their files, within limits that hold before pixels are decoded."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ...engines import InputError

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
LARGEST = 10.0
"""Beyond it, an array is not on the [-1, 1] scale, whatever its noise."""
MASK_LEVEL = 128
"""Mask values from here up, and alpha values below it, mark a pixel as missing."""
SPACES: dict[str | None, bytes] = {"L": b"GRAY", "RGB": b"RGB "}
"""The colour space that an ICC profile of a picture of a mode names."""


@dataclass(frozen=True)
class Limits:
    """The pictures that are decoded."""

    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS
    compiled: bool = False
    """Whether formats that Pillow decodes byte by byte in Python (BMP's run lengths, PPM of odd depths) are refused."""
    max_metadata: int | None = None
    """Bytes of EXIF, beyond which a picture is refused, and of an ICC profile, beyond which that is left out."""


WIDE = Limits()
"""The limits of the command line, whose pictures are its user's own."""


@dataclass(frozen=True)
class Metadata:
    """What a picture's file says beside its pixels, to be written with what is made of it."""

    icc_profile: bytes | None = None
    exif: bytes | None = None

    @classmethod
    def of(cls, image: Image.Image, most: int | None = None) -> "Metadata":
        """A profile of a colour space that the pixels are not kept in (CMYK, Lab) is left out; so is one of over `most`
        bytes.
        """
        profile = image.info.get("icc_profile") or b""
        kept = profile[16:20] == SPACES.get(kept_mode(image)) and (most is None or len(profile) <= most)
        exif = image.getexif()
        return cls(profile if kept else None, exif.tobytes() if len(exif) else None)

    def for_picture(self, picture: Image.Image) -> dict[str, bytes]:
        """What Pillow takes to save `picture` with it. A grey profile does not describe colour, nor the reverse."""
        fits = self.icc_profile is not None and self.icc_profile[16:20] == SPACES.get(kept_mode(picture))
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


def decode_photo(data: bytes, name: str, largest: float = LARGEST, limits: Limits | None = None) -> Photo:
    """Decode a picture, or a .npy array (C, H, W) or (H, W) on [-1, 1], from its file's bytes. Raises InputError.

    name: stands in the errors, and says by .npy that it is an array. largest: a .npy array with a value beyond it is
    taken for one on another scale. limits: WIDE where None; they hold before anything is decoded.
    """
    limits = limits or WIDE
    if name.lower().endswith(".npy"):
        return _from_npy(data, name, largest, limits)
    with _opened(data, name, limits) as picture:
        picture.load()
        image = ImageOps.exif_transpose(picture)
        metadata = Metadata.of(image, limits.max_metadata)
        picture.close()  # it, and not only its file
    return _from_image(image, name, metadata)


def count_pixels(data: bytes, name: str, limits: Limits | None = None) -> int:
    """Read a picture's, or a .npy array's, number of pixels off its head. Raises InputError where it has too many."""
    limits = limits or WIDE
    if name.lower().endswith(".npy"):
        return math.prod(_npy_shape(io.BytesIO(data), name, 3 * limits.max_pixels))
    with _opened(data, name, limits) as picture:
        return math.prod(picture.size)


def load_npy(file: IO[bytes], name: str, most: int) -> np.ndarray:
    """The array in a .npy, no pickle, once its header says that it has `most` values or fewer. Raises InputError."""
    _npy_shape(file, name, most)
    with as_input_error(lambda error: f"{name} is not a .npy array of numbers: {error}"):
        return np.asarray(np.load(file, allow_pickle=False))


def kept_mode(image: Image.Image) -> str | None:
    """The mode that the values of `image` are kept in, or None where they are converted."""
    if image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"):
        return "L"
    return "RGB" if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA") else None


@contextlib.contextmanager
def as_input_error(sentence: Callable[[Exception], str]) -> Iterator[None]:
    """Whatever a decoder raises over a file as an InputError: it raises what it likes on broken ones."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(sentence(error)) from error


@contextlib.contextmanager
def _opened(data: bytes, name: str, limits: Limits) -> Iterator[Image.Image]:
    """The picture, its head read and within the limits, none of its pixels decoded. Raises InputError."""

    def broken(error: Exception) -> str:
        if isinstance(error, Image.DecompressionBombError):
            return f"{name} has too many pixels; up to {limits.max_pixels} are read"
        if isinstance(error, MemoryError):
            return f"{name} needs more memory to be decoded than there is for it; make it smaller"
        return f"{name} is a broken picture: {error}"

    with as_input_error(broken):
        try:
            picture = Image.open(io.BytesIO(data), formats=limits.formats)
        except UnidentifiedImageError:
            raise InputError(_unknown(data, name, limits)) from None
        with picture:
            pixels = math.prod(picture.size)
            if pixels > limits.max_pixels:
                raise InputError(f"{name} has {pixels} pixels; up to {limits.max_pixels} are read")
            if limits.compiled and any(tile[0] in Image.DECODERS for tile in getattr(picture, "tile", ())):
                raise InputError(
                    f"{name} is a {picture.format} of a kind that is decoded byte by byte; send it as a PNG"
                )
            exif = len(picture.info.get("exif") or b"")
            if limits.max_metadata is not None and exif > limits.max_metadata:
                most = limits.max_metadata >> 10
                raise InputError(
                    f"{name} has {math.ceil(exif / 1024)} KiB of EXIF; up to {most} are read; save it without"
                )
            yield picture


def _unknown(data: bytes, name: str, limits: Limits) -> str:
    """The sentence for a file of no format that is read, which may be one that the command line reads."""
    for kind in FORMATS:
        accepts = Image.OPEN[kind][1]
        if kind not in limits.formats and accepts is not None and accepts(data[:16]):
            return f"{name} is a {kind}, which only the command line reads; send it as a PNG"
    return f"{name} is not a picture this can read ({', '.join(limits.formats)}, .npy)"


def _from_image(image: Image.Image, name: str, metadata: Metadata) -> Photo:
    """The photo of a decoded picture, which it closes: at most 16 bytes a pixel are held at once."""
    missing: np.ndarray | None = None
    if "A" in image.getbands() or "transparency" in image.info:
        clear = image.info.get("transparency")
        deep = image.mode.startswith("I;16") and isinstance(clear, int)  # Pillow's conversion would lose it
        missing = np.asarray(image) == clear if deep else _alpha(image) < MASK_LEVEL
        missing = missing if missing.any() else None
    whole = 255
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        whole = 65535
    elif image.mode == "F":
        whole = 1
    else:
        mode = kept_mode(image) or "RGB"
        if image.mode != mode:
            given, image = image, image.convert(mode)
            given.close()
    levels = np.atleast_3d(np.asarray(image))
    image.close()
    pixels = np.empty((levels.shape[2], *levels.shape[:2]), np.float32)
    for channel, pixels_of_it in enumerate(pixels):
        pixels_of_it[:] = levels[:, :, channel]
    del levels
    pixels /= whole
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN is neither
        raise InputError(f"{name}: a floating-point picture must lie on [0, 1], an integer one on 0..65535")
    pixels *= 2
    pixels -= 1
    return Photo(pixels, missing, metadata)


def _alpha(image: Image.Image) -> np.ndarray:
    """(H, W) uint8: how opaque each pixel is."""
    has = image.mode in ("LA", "PA", "RGBA")  # in Lab, A is a colour
    return np.asarray((image if has else image.convert("RGBA")).getchannel("A"))


def _from_npy(data: bytes, name: str, largest: float, limits: Limits) -> Photo:
    array = load_npy(io.BytesIO(data), name, 3 * limits.max_pixels)
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] not in (1, 3)):
        raise InputError(
            f"{name} must be a real array of (H, W), (1, H, W) or (3, H, W); it is {array.dtype} {array.shape}"
        )
    pixels = np.asarray(array if array.ndim == 3 else array[None], np.float32)
    missing = np.asarray(np.isnan(pixels).any(axis=0))
    pixels[:, missing] = 0
    if not pixels.size or not max(-pixels.min(), pixels.max()) <= min(largest, np.finfo(np.float32).max):
        raise InputError(f"{name} must hold values on the [-1, 1] scale (noise may go beyond), NaN for missing pixels")
    return Photo(pixels, missing if missing.any() else None)


def _npy_shape(file: IO[bytes], name: str, most: int) -> tuple[int, ...]:
    """The shape that a .npy's header names, `most` values at most; the file is at its beginning again."""
    with as_input_error(lambda error: f"{name} is not a .npy array of numbers: {error}"):  # a header is Python's syntax
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, _ = read_header[np.lib.format.read_magic(file)](file)
        if math.prod(shape) > most:
            raise InputError(f"{name} has {math.prod(shape)} values; up to {most} are read")
        file.seek(0)
        return tuple(shape)
