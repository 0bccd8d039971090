"""Sets of clean pictures, read from a folder or a .tar."""

import hashlib
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engines import InputError, UnreadableError
from ..operators import Shape
from ..pictures.decoding import Photo, decode_photo
from ..pictures.images import MAX_BYTES, SUFFIXES, fit_photo, read_photo


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size, in the order of their names."""

    names: tuple[str, ...]
    images: np.ndarray
    """(N, C, H, W) float32 on [-1, 1]."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels; the files' format does not matter."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()


def read_pictures(
    path: str | os.PathLike[str],
    shape: Shape,
    count: int | None = None,
    fit: str | None = None,
    any_size: bool = False,
) -> PictureSet:
    """Read the first `count` pictures, by name, of a folder or an uncompressed .tar, for images of `shape` (C, H, W).

    Other files are skipped. A tar's members are read one at a time and not unpacked to disk. any_size: the prior takes
    images of any size, and all pictures get the size of the first. fit: "crop" or "resize" pictures of other sizes.
    Raises InputError.
    """
    source = Path(path)
    try:
        readers = _in_folder(source) if source.is_dir() else _in_tar(source)
    except FileNotFoundError:
        raise InputError(f"there is no folder or .tar {source}") from None
    except tarfile.TarError as error:
        raise InputError(f"{source.name} is neither a folder of pictures nor an uncompressed .tar of them") from error
    except OSError as error:
        raise UnreadableError(f"cannot read {source}: {error.strerror or error}") from error
    names = sorted(readers)[:count]
    if not names:
        raise InputError(f"there are no pictures in {source} ({', '.join(SUFFIXES)})")
    if any_size:
        shape = (shape[0], *readers[names[0]]().size[::-1])
    images = [_whole(readers[name](), Path(name).name, shape, fit) for name in names]
    return PictureSet(tuple(names), np.stack(images))


Readers = dict[str, Callable[[], Photo]]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not Path(name).name.startswith(".")


def _in_folder(folder: Path) -> Readers:
    files = [file for file in folder.iterdir() if _is_picture(file.name) and file.is_file()]
    return {file.name: lambda file=file: read_photo(file) for file in files}  # type: ignore[misc]


def _in_tar(path: Path) -> Readers:
    """Return a reader for each picture in an uncompressed archive; links and devices are skipped."""
    with tarfile.open(path, "r:") as tar:
        members = [member for member in tar.getmembers() if member.isfile() and _is_picture(member.name)]

    def read(member: tarfile.TarInfo) -> Photo:
        name = Path(member.name).name
        if member.size > MAX_BYTES:
            raise InputError(f"{name} has {member.size >> 20} MiB; pictures of up to {MAX_BYTES >> 20} MiB are read")
        try:
            with path.open("rb") as file:
                file.seek(member.offset_data)
                return decode_photo(file.read(member.size), name)
        except OSError as error:
            raise UnreadableError(f"cannot read {path}: {error.strerror or error}") from error

    return {member.name: lambda member=member: read(member) for member in members}  # type: ignore[misc]


def _whole(photo: Photo, name: str, shape: Shape, fit: str | None) -> np.ndarray:
    """Return a photo's pixels in the prior's shape. Raises InputError for a picture that is not whole and clean."""
    channels, height, width = shape
    if photo.missing is not None:
        raise InputError(f"{name} has transparent pixels; what is evaluated starts from whole pictures")
    if np.abs(photo.pixels).max() > 1:
        raise InputError(f"{name} goes beyond [-1, 1]; what is evaluated starts from clean pictures")
    if photo.size != (width, height):
        if fit is None:
            raise InputError(
                f"{name} is {photo.size[0]}x{photo.size[1]}, and the images evaluated are {width}x{height}; "
                "give pictures of that size, or --fit crop or --fit resize"
            )
        photo = fit_photo(photo, (width, height), fit)
    pixels = photo.colour().pixels if channels == 3 and len(photo.pixels) == 1 else photo.pixels
    return np.asarray(pixels if len(pixels) == channels else pixels.mean(axis=0, keepdims=True), np.float32)
