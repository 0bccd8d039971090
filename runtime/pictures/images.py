"""Picture files in and out: photos, masks, kernels and matrices."""

import io
import json
import math
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ...engines import InputError, MissingFile, UnreadableError
from ...engines.files import atomic_write
from ..operators.dense import MAX_VALUES
from .decoding import FORMATS, LARGEST, MASK_LEVEL, Metadata, Photo, decode_photo, load_npy

MAX_BYTES = 64 << 20
PATIENCE = 10.0
"""Seconds within which a writer must open a pipe that was named as a picture."""
LONGEST_NAME = 255
"""The most bytes of a file's name in common file systems."""
PORTRAIT = Path(__file__).parent / "portrait.png"
"""The portrait in the package, for the demo, the benchmark and the page: Eileen Collins, NASA, 1995, public domain;
framed as celeba's training images."""
PLAIN = 0.5
"""Magnitude on [-1, 1] beyond which a mask's pixel counts as white or black."""
NEAR, MOST_GREY, FEW = 16, 0.85, 8
"""A photograph given as a mask is refused: over MOST_GREY of its pixels are NEAR grey levels or more from black and
white, and its FEW commonest levels hold under half of them. This is so for 56 of the 60 photographs of tune-20,
report-20 and people-20, and 57 of them in grey; not for strokes, soft brushes, and masks saved as JPEG of quality 10,
except where blurred strokes leave no black ground."""
OTHER_MASKS = "or erase the damage to transparency in the photograph itself, or paint it on the page of frugal-rt serve"
"""Ways to mark damage without a mask in black and white, for messages."""
SETTINGS_KEY = "frugal-rt"
"""The PNG text chunk that carries a restoration's settings as JSON."""
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *([".avif"] if "AVIF" in FORMATS else []), ".npy"),
)
"""Suffixes of files in a folder that are read as pictures."""
UNREAD = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".xcf", ".svg", ".tga", ".exr", ".hdr"),
    *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
"""Suffixes of picture formats that are not read, unless SUFFIXES has them."""


def read_photo(path: str | os.PathLike[str], largest: float = LARGEST, frame: int | None = None) -> Photo:
    """Read a picture (PNG, JPEG, WebP, TIFF, BMP, GIF, PPM), or a .npy array (C, H, W) or (H, W) on [-1, 1].

    EXIF's orientation is applied; palettes, CMYK and 16 bits are supported; transparent pixels become `missing`. Limits
    on bytes and pixels are checked before decoding. A .npy array with a value beyond `largest` is taken to be on
    another scale. frame: as in `decode_photo`. Raises InputError.
    """
    return decode_photo(read_bytes(Path(path)), Path(path).name, largest, frame=frame)


def read_bytes(path: Path) -> bytes:
    """Read a picture's file of at most MAX_BYTES. Raises InputError.

    A pipe, such as the shell makes for <(command), is read if a writer opens it within PATIENCE.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise InputError(f"{path} is a folder; give one picture")
        if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
            raise InputError(f"{path} is a device or a socket; give a picture's file")
        with open(path, "rb", opener=_open_now if stat.S_ISFIFO(kind) else None) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise InputError(f"{path.name} has {size >> 20} MiB; pictures of up to {MAX_BYTES >> 20} MiB are read")
            data = (_first_of(file, path) if stat.S_ISFIFO(kind) else b"") + file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{path.name} has more than {MAX_BYTES >> 20} MiB, up to which pictures are read")
        return data
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}") from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        if isinstance(error, InputError):
            raise
        raise UnreadableError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _open_now(path: str, flags: int) -> int:
    """Open a pipe without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _first_of(file: IO[bytes], path: Path) -> bytes:
    """Return the first byte of a pipe, or b"" where its writer has written none yet; make later reads block.

    Raises InputError where no writer opens it.
    """
    ends, first = time.monotonic() + PATIENCE, b""
    while not first and time.monotonic() < ends:
        try:
            first = os.read(file.fileno(), 1)
        except BlockingIOError:
            break
        time.sleep(0 if first else 0.01)
    else:
        if not first:
            raise InputError(f"nobody writes into the pipe {path}")
    os.set_blocking(file.fileno(), True)
    return first


def read_mask(path: str | os.PathLike[str], tell: Callable[[str], object] = lambda note: None) -> np.ndarray:
    """Read a mask picture to (H, W) bool, True where a pixel is missing; see `as_mask`.

    tell: called with a sentence for each content of the file that was left out. Raises InputError.
    """
    photo = read_photo(path)
    for note in photo.notes:
        tell(note)
    return as_mask(photo, Path(path).name)


def as_mask(photo: Photo, name: str) -> np.ndarray:
    """Return (H, W) bool, True where `photo` marks a pixel as missing: where it is white and opaque.

    In a photograph with erased holes, which is mostly opaque and neither black nor white, the transparent pixels are
    marked. Raises InputError where the two cannot be told apart, and for a photograph without holes.
    """
    light = photo.pixels.mean(axis=0)
    white = np.asarray(light >= MASK_LEVEL / 127.5 - 1)
    if photo.missing is None:
        _refuse_photograph(light, name)
        return white
    opaque = ~photo.missing
    plain = (np.abs(photo.pixels) > PLAIN).all(axis=0) & (np.ptp(photo.pixels, axis=0) < 1)
    if not opaque.any() or plain[opaque].mean() > 0.9:
        return np.asarray(white & opaque)
    if opaque.mean() > 0.5:
        return photo.missing
    raise InputError(
        f"{name}: it is mostly transparent, and the rest is neither black nor white; paint white what is missing, "
        f"{OTHER_MASKS}"
    )


def _refuse_photograph(light: np.ndarray, name: str) -> None:
    """Raise InputError where a mask's lightness (H, W) on [-1, 1] is a photograph's."""
    grey = float((np.abs(light) <= 1 - NEAR / 127.5).mean())
    levels = np.bincount(np.rint(127.5 * (light.clip(-1, 1) + 1)).astype(np.int64).ravel(), minlength=256)
    if grey > MOST_GREY and np.sort(levels)[-FEW:].sum() < light.size / 2:
        raise InputError(
            f"{name} looks like a photograph and no mask: {grey:.0%} of its pixels are neither black nor white; make "
            f"what is missing white, and all else black, {OTHER_MASKS}"
        )


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a blur kernel (h, w) from a picture, black being 0, or a .npy file of real numbers. Raises InputError."""
    data, name = read_bytes(Path(path)), Path(path).name
    photo = decode_photo(data, name, math.inf)
    if photo.missing is not None:
        raise InputError(f"{name}: a kernel must not have transparent or NaN pixels")
    kernel: np.ndarray = photo.pixels.mean(axis=0, dtype=np.float64)
    return kernel if name.lower().endswith(".npy") else (kernel + 1) / 2


def read_matrix(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a matrix from a .npy file, with at most MAX_VALUES entries and no pickle. Raises InputError."""
    try:
        with Path(path).open("rb") as file:
            return load_npy(file, Path(path).name, MAX_VALUES)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}") from None
    except OSError as error:
        raise UnreadableError(f"cannot read {path}: {error.strerror or error}") from error


def fit_photo(photo: Photo, size: tuple[int, int], how: str) -> Photo:
    """Bring `photo` to (width, height): "crop" scales it and crops the middle, "resize" stretches it.

    "mean" stretches it by a box filter, which keeps white noise white where the picture shrinks.
    """
    bilinear = Image.Resampling.BILINEAR
    stretching = Image.Resampling.BOX if how == "mean" else bilinear

    def fitted(channel: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.asarray(channel, np.float32))
        return np.asarray(ImageOps.fit(image, size, bilinear) if how == "crop" else image.resize(size, stretching))

    masks = {name: mask for name in ("missing", "outside") if (mask := getattr(photo, name)) is not None}
    channels = []
    for channel in photo.pixels:  # one by one, so that a large picture is not in memory twice
        for mask in masks.values():
            channel = np.where(mask, np.float32(0), channel)
        channels.append(fitted(channel))
    # A pixel is missing if any missing pixel contributes to it.
    masks = {name: fitted(mask) > 0 for name, mask in masks.items()}
    return replace(photo, pixels=np.stack(channels), missing=masks.get("missing"), outside=masks.get("outside"))


def turned(images: np.ndarray, turn: int) -> np.ndarray:
    """Turn images (..., H, W) upright by EXIF's orientation."""
    if turn in (5, 7):
        images = np.swapaxes(images, -1, -2)
    quarters = {3: 2, 6: 3, 7: 2, 8: 1}.get(turn, 0)
    images = np.rot90(images, quarters, (-2, -1))
    return images[..., ::-1] if turn == 2 else images[..., ::-1, :] if turn == 4 else images


def pad_photo(photo: Photo, size: tuple[int, int]) -> Photo:
    """Pad `photo` to (width, height), which it must not exceed; the padding is marked `outside`."""
    (width, height), (full_width, full_height) = photo.size, size
    top, left = (full_height - height) // 2, (full_width - width) // 2
    around = (top, full_height - height - top), (left, full_width - width - left)
    return replace(
        photo,
        pixels=np.pad(photo.pixels, ((0, 0), *around)),
        missing=None if photo.missing is None else np.pad(photo.missing, around),
        outside=np.pad(np.zeros((height, width), bool), around, constant_values=True),
    )


def resized(channel: np.ndarray, size: tuple[int, int], by: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Resize a channel (h, w) to (width, height), float32, by a filter scaled to the coarser grid."""
    image = Image.fromarray(np.asarray(channel, np.float32))
    return np.asarray(image if image.size == size else image.resize(size, by))


def to_picture(image: np.ndarray, missing: np.ndarray | None = None) -> Image.Image:
    """Convert (C, H, W) on [-1, 1] to an 8-bit picture, clipped and never stretched; `missing` pixels transparent."""
    levels = np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
    if missing is None:
        return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    levels = np.where(missing, 0, np.broadcast_to(levels, (3, *levels.shape[1:])))
    alpha = np.where(missing, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([levels.transpose(1, 2, 0).astype(np.uint8), alpha]))


def check_output(path: str | os.PathLike[str], force: bool, suffixes: Sequence[str] = (".png",)) -> Path:
    """Return the path if it may be written. Raises InputError for an unknown suffix, a missing folder, or without
    `force` an existing file."""
    target = Path(path)
    if is_name_too_long(target):
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


def is_name_too_long(path: Path) -> bool:
    """Return whether a file's name has more bytes than common file systems allow."""
    return len(os.fsencode(path.name)) > LONGEST_NAME


def write_png(
    path: str | os.PathLike[str],
    picture: Image.Image,
    settings: Mapping[str, Any] | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write a PNG, whole or not at all, with its settings as JSON in a text chunk. Raises FrugalError."""
    data = encode_png(picture, settings, metadata)
    with atomic_write(path) as file:
        file.write(data)


def encode_png(
    picture: Image.Image, settings: Mapping[str, Any] | None = None, metadata: Metadata | None = None
) -> bytes:
    """Encode a PNG as `write_png` writes it."""
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
