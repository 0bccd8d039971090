"""Decoding of picture files, within limits that are checked before pixels are decoded."""

import contextlib
import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError, features
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, MAX_TEXT_MEMORY
from PIL.TiffImagePlugin import TiffImageFile

from ...engines import InputError
from .jpeg import COARSE, JpegFile, read_jpeg
from .parts import MOST_SCANS, check_parts
from .saved_again import SavedJpeg, find_jpeg

MAX_PIXELS = 64_000_000
FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
if "avif" in features.get_supported():  # it came with Pillow 11.3, which may be built without
    FORMATS += ("AVIF",)
FRAMES = 64
"""Frames of as many pixels as a picture may have that are decoded for one that lies over them."""
LARGEST = 10.0
"""Magnitude beyond which an array is taken not to be on the [-1, 1] scale, whatever its noise."""
MASK_LEVEL = 128
"""Mask values from here up, and alpha values below it, mark a pixel as missing."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions that turn a picture upright, by EXIF's orientation; 1 is upright."""
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_EXTRAS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"pHYs")
"""PNG chunks that do not affect the pixels."""
JPEG_HEAD, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
BASELINE = (b"\xff\xc0", b"\xff\xc1")
"""Markers of sequential frames. A truncated progressive file does not show how many scans it lacks."""
SAME_COLOURS = 3
"""The largest difference in levels of a profile's colours from sRGB's with which it is taken for sRGB."""
WHITE_IS_ZERO, UNCOMPRESSED, PLANES, SIGNED = 0, 1, 2, 2
"""Values of TIFF's tags: a photometric interpretation, a compression, a planar configuration, and a sample format."""
SPACES: dict[str | None, bytes] = {"L": b"GRAY", "RGB": b"RGB "}
"""The colour space that an ICC profile of a picture of a mode names."""


@dataclass(frozen=True)
class Limits:
    """Limits of the pictures that are decoded."""

    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS
    compiled: bool = False
    """Whether formats that Pillow decodes byte by byte in Python (BMP's run lengths, PPM of odd depths) are refused."""
    max_scans: int = MOST_SCANS
    """Scans of a JPEG."""
    max_metadata: int | None = None
    """The most bytes of EXIF, and of an ICC profile; a larger one is left out."""


WIDE = Limits()
"""The limits of the command line, whose pictures are its user's own."""


@dataclass(frozen=True)
class Metadata:
    """A file's colour profile, EXIF and other data beside the pixels, which the result's file gets too."""

    icc_profile: bytes | None = None
    exif: bytes | None = None

    @classmethod
    def of(cls, image: Image.Image, exif: bytes | None = None, most: int | None = None) -> "Metadata":
        """Take a picture's metadata.

        A profile is left out where the pixels are converted from its colour space (CMYK, Lab), or it has more than
        `most` bytes.
        """
        profile = image.info.get("icc_profile") or b""
        kept = profile[16:20] == SPACES.get(kept_mode(image)) and (most is None or len(profile) <= most)
        return cls(profile if kept else None, exif)

    def for_picture(self, picture: Image.Image) -> dict[str, bytes]:
        """Return Pillow's options to save `picture` with the metadata; a profile for another number of channels is
        left out."""
        fits = self.icc_profile is not None and self.icc_profile[16:20] == SPACES.get(kept_mode(picture))
        profile = self.icc_profile if fits else None
        return {name: data for name, data in (("icc_profile", profile), ("exif", self.exif)) if data is not None}


COARSER = 1.5
"""The least factor by which an earlier JPEG's quantisation steps exceed those of the file, to tell them apart."""


@dataclass(frozen=True)
class JpegSource:
    """The JPEG file that a photo was decoded from."""

    data: bytes
    name: str
    turn: int
    """EXIF's orientation, by which the photo was turned upright; the file's blocks are not turned."""
    pixels: int

    @cached_property
    def file(self) -> JpegFile:
        """The file's coefficients, read once. Raises InputError."""
        return read_jpeg(self.data, self.name, self.pixels)

    @cached_property
    def step(self) -> float:
        """The mean step in levels of the first quantisation table, which is of lightness."""
        with Image.open(io.BytesIO(self.data)) as picture:
            return float(np.mean(getattr(picture, "quantization", {}).get(0, [1])))


@dataclass(frozen=True)
class Photo:
    """A picture on [-1, 1]."""

    pixels: np.ndarray
    """(C, H, W) float32, C = 1 for one-channel pictures, else 3."""
    missing: np.ndarray | None = None
    """(H, W) bool, True where a pixel is transparent (or NaN in a .npy); None where none is."""
    metadata: Metadata = Metadata()
    outside: np.ndarray | None = None
    """(H, W) bool, True where the picture was padded, which no task measures; None without padding."""
    notes: tuple[str, ...] = ()
    """Sentences about contents of the file that were left out."""
    jpeg: JpegSource | None = None
    """The JPEG file that the picture was decoded from, even if its pixels were changed since."""

    @cached_property
    def earlier(self) -> SavedJpeg | None:
        """The JPEG that the picture was before it was saved again, found in its pixels; None without a sign of one.

        None also where the file is itself a JPEG, too coarse to tell an earlier one from it.
        """
        if len(self.pixels) != 3 or self.missing is not None or self.outside is not None:
            return None
        if self.jpeg is not None and (self.jpeg.turn != 1 or self.jpeg.step >= COARSE):
            return None
        found = find_jpeg(self.pixels)
        if found is None or (self.jpeg is not None and found.step <= COARSER * self.jpeg.step):
            return None
        return found

    @property
    def coding(self) -> JpegSource | SavedJpeg | None:
        """The JPEG to restore from: `earlier`, or the picture's file; None for neither."""
        return self.earlier or self.jpeg

    @cached_property
    def is_grey(self) -> bool:
        """Whether all channels are equal, where pixels are not missing."""
        return is_grey(self.pixels, self.missing)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def colour(self) -> "Photo":
        """The same picture with three channels."""
        return replace(self, pixels=np.broadcast_to(self.pixels, (3, *self.pixels.shape[1:])))


def is_grey(pixels: np.ndarray, missing: np.ndarray | None = None) -> bool:
    """Return whether all channels of a picture (C, H, W) are equal, where its pixels are not missing (H, W)."""
    equal = (pixels[1:] == pixels[:1]).all(axis=0)
    return bool((equal if missing is None else equal | missing).all())


def decode_photo(
    data: bytes,
    name: str,
    largest: float = LARGEST,
    limits: Limits | None = None,
    frame: int | None = None,
    counted: bool = False,
) -> Photo:
    """Decode a picture, or a .npy array (C, H, W) or (H, W) on [-1, 1], from its file's bytes. Raises InputError.

    name: the name in errors; its suffix .npy means an array. largest: a .npy array with a value beyond it is taken to
    be on another scale. limits: WIDE by default; checked before anything is decoded. frame: the frame or page, from 1;
    None: the first, with a note if there are others. counted: whether `count_pixels` has counted the parts.
    """
    limits = limits or WIDE
    if name.lower().endswith(".npy"):
        if frame not in (None, 1):
            raise InputError(f"{name} is one array, and has no frame {frame}; leave --frame out")
        return _from_npy(data, name, largest, limits)
    if not counted:
        check_parts(data, name, limits.max_scans)
    data, notes = _without_odd_extras(data, name)
    if _lacks_end(data):
        data = _with_end(data, name, limits, notes)
    frames = _count_frames(data, limits)
    if frame is not None and not 1 <= frame <= frames:
        raise InputError(f"{name} holds {frames} picture{'s' * (frames != 1)}, not {frame}: --frame 1..{frames}")
    if frames > 1 and frame is None:
        notes.append(f"{name} holds {frames} pictures (frames or pages); only the first is read")
    with _opened(data, name, limits) as picture:
        if frame not in (None, 1):
            _check_way(picture, name, frame, limits)
            picture.seek(frame - 1)
            _check_size(picture, name, limits)
        size = math.prod(picture.size)
        image, metadata, turn = _upright(_load(picture, name, notes), name, notes, limits)
        picture.close()  # the decoded pixels too
    photo = _from_image(image, name, metadata, tuple(notes))
    is_jpeg = data.startswith(JPEG_HEAD) and frame in (None, 1)
    return replace(photo, jpeg=JpegSource(data, name, turn, size)) if is_jpeg else photo


def photo_of(picture: Image.Image, name: str = "the picture") -> Photo:
    """Convert a PIL image to a photo, as its file would be read; the image is not changed. Raises InputError."""
    if math.prod(picture.size) > WIDE.max_pixels:
        raise InputError(f"{name} has {math.prod(picture.size)} pixels; up to {WIDE.max_pixels} are read")
    notes: list[str] = []
    with as_input_error(lambda error: f"{name} is a broken picture: {error}"):
        image, metadata, _ = _upright(_load(picture, name, notes), name, notes, WIDE)
    return _from_image(image, name, metadata, tuple(notes))


def photo_of_array(array: np.ndarray, name: str, largest: float = LARGEST) -> Photo:
    """Convert an array (C, H, W) or (H, W) on [-1, 1], NaN where a pixel is missing, to a photo. Raises InputError.

    largest: an array with a value beyond it is taken to be on another scale.
    """
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] not in (1, 3)):
        raise InputError(
            f"{name} must be a real array of (H, W), (1, H, W) or (3, H, W); it is {array.dtype} {array.shape}"
        )
    pixels = np.array(array if array.ndim == 3 else array[None], np.float32)
    missing = np.asarray(np.isnan(pixels).any(axis=0))
    pixels[:, missing] = 0
    if not pixels.size or not max(-pixels.min(), pixels.max()) <= min(largest, np.finfo(np.float32).max):
        raise InputError(f"{name} must hold values on the [-1, 1] scale (noise may go beyond), NaN for missing pixels")
    return Photo(pixels, missing if missing.any() else None)


def looks_unsigned(pixels: np.ndarray) -> bool:
    """Return whether all values lie in [0, 1] and not all are 0: few pictures on [-1, 1] have no value below 0."""
    known = pixels[np.isfinite(pixels)]
    return bool(known.size and known.any() and known.min() >= 0 and known.max() <= 1)


def count_pixels(data: bytes, name: str, limits: Limits | None = None) -> int:
    """Return the number of pixels of a picture or .npy array, from its header. Raises InputError for too many, and for
    too many parts.
    """
    limits = limits or WIDE
    check_parts(data, name, limits.max_scans)
    data, _ = _without_odd_extras(data, name)
    if name.lower().endswith(".npy"):
        return math.prod(_npy_shape(io.BytesIO(data), name, 3 * limits.max_pixels))
    with _opened(data, name, limits) as picture:
        return math.prod(picture.size)


def load_npy(file: IO[bytes], name: str, most: int) -> np.ndarray:
    """Read the array in a .npy file, without pickles, if its header declares at most `most` values.

    Raises InputError.
    """
    _npy_shape(file, name, most)
    with as_input_error(lambda error: f"{name} is not a .npy array of numbers: {error}"):
        return np.asarray(np.load(file, allow_pickle=False))


def kept_mode(image: Image.Image) -> str | None:
    """Return the mode in which the values of `image` are kept, or None where they are converted."""
    if image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"):
        return "L"
    return "RGB" if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA") else None


@contextlib.contextmanager
def as_input_error(sentence: Callable[[Exception], str]) -> Iterator[None]:
    """Turn any exception of a decoder into an InputError; decoders raise many kinds over broken files."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(sentence(error)) from error


@contextlib.contextmanager
def _opened(data: bytes, name: str, limits: Limits) -> Iterator[Image.Image]:
    """Open a picture and check its header against the limits, without decoding pixels. Raises InputError."""

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
            _check_size(picture, name, limits)
            if limits.compiled and any(tile[0] in Image.DECODERS for tile in getattr(picture, "tile", ())):
                raise InputError(
                    f"{name} is a {picture.format} of a kind that is decoded byte by byte; send it as a PNG"
                )
            yield picture


def _check_size(picture: Image.Image, name: str, limits: Limits) -> None:
    """Raise InputError for a picture, or a frame of one, with too many pixels."""
    pixels = math.prod(picture.size)
    if pixels > limits.max_pixels:
        raise InputError(f"{name} has {pixels} pixels; up to {limits.max_pixels} are read")


def _check_way(picture: Image.Image, name: str, frame: int, limits: Limits) -> None:
    """Raise InputError for a frame that is painted over too many others; a TIFF's pages do not lie over one another."""
    before = (frame - 1) * math.prod(picture.size)
    if not isinstance(picture, TiffImageFile) and before > FRAMES * limits.max_pixels:
        most = FRAMES * limits.max_pixels
        raise InputError(f"{name}: {before} pixels of other frames lie under frame {frame}; up to {most} are read")


def _unknown(data: bytes, name: str, limits: Limits) -> str:
    """Return the error for a file of an unsupported format; the command line may support it."""
    for kind in FORMATS:
        accepts = Image.OPEN[kind][1]
        if kind not in limits.formats and accepts is not None and accepts(data[:16]):
            return f"{name} is a {kind}, which only the command line reads; send it as a PNG"
    return f"{name} is not a picture this can read ({', '.join(limits.formats)}, .npy)"


def _upright(picture: Image.Image, name: str, notes: list[str], limits: Limits) -> tuple[Image.Image, Metadata, int]:
    """Return a copy of a picture, turned by its EXIF and converted from CMYK, its metadata, and EXIF's orientation.

    Raises InputError.
    """
    whites = _is_white_zero(picture, name)
    turn, exif = _read_exif(picture, name, notes, limits.max_metadata)
    metadata = Metadata.of(picture, exif, limits.max_metadata)
    image = picture.transpose(TURNS[turn]) if turn in TURNS else picture.copy()
    if whites:
        image = _negative(image)
    seen = _from_inks(image, name, notes) if image.mode == "CMYK" else _in_srgb(image, name, notes)
    return seen, metadata if seen is image else replace(metadata, icc_profile=None), turn


def _is_white_zero(picture: Image.Image, name: str) -> bool:
    """Return whether a TIFF's zeros are white and Pillow does not invert them, as beyond 8 bits.

    Raises InputError for a TIFF that Pillow reads wrongly: of signed integers, or with some planar layouts.
    """
    if not isinstance(picture, TiffImageFile):
        return False
    tags, base = picture.tag_v2, ExifTags.Base
    bits = tags.get(base.BitsPerSample, (1,))
    if SIGNED in tags.get(base.SampleFormat, ()) and max(bits) <= 16:
        raise InputError(f"{name} holds signed integers, whose scale is not known; save it as 8 or 16 bits unsigned")
    plain = tags.get(base.Compression) == UNCOMPRESSED
    if tags.get(base.PlanarConfiguration) == PLANES and (len(bits) == 2 or (plain and len(bits) > 1 and max(bits) > 8)):
        raise InputError(
            f"{name} stores its channels in separate planes, which are not read; save it with the channels interleaved"
        )
    return tags.get(base.PhotometricInterpretation) == WHITE_IS_ZERO and picture.mode not in ("1", "L")


def _negative(image: Image.Image) -> Image.Image:
    """Invert an image of more than 8 bits whose zeros are white."""
    values = np.asarray(image)
    whole = 1 if image.mode == "F" else 65535
    return Image.fromarray(np.asarray(whole - values.astype(np.float64), np.float32 if whole == 1 else np.int32))


def _load(picture: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """Decode a picture's pixels; where Pillow reduces a depth of more than 8 bits, correct it or add a note."""
    raw = {str(part) for tile in getattr(picture, "tile", ()) for part in np.atleast_1d(np.array(tile[3], object))}
    clear = picture.info.get("transparency")
    if picture.mode in ("RGB", "RGBA", "LA", "RGBX", "RGBa") and any(";16" in part for part in raw):
        notes.append(f"{name}: its colours of 16 bits are read as 8")
        if isinstance(clear, tuple):
            picture.info["transparency"] = tuple(value >> 8 for value in clear)
    for bits in (2, 4):
        if f"L;{bits}" in raw and isinstance(clear, int):
            picture.info["transparency"] = clear * 255 // (2**bits - 1)
    picture.load()
    return picture.convert("LA") if "LA;16B" in raw else picture  # Pillow decodes it as RGBA


def _from_inks(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """Convert a CMYK picture with a profile to sRGB; return any other as it is."""
    profile = image.info.get("icc_profile") or b""
    if not profile:
        return image
    try:
        inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        seen = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError) as error:
        notes.append(f"{name}: its colour profile cannot be used ({error}), so its inks are taken for plain ones")
        return image
    assert seen is not None  # it is where the picture is not converted in place
    image.close()
    return seen


def _in_srgb(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """Convert a picture with another profile than sRGB to sRGB, with a note; return any other as it is."""
    profile = image.info.get("icc_profile") or b""
    if image.mode not in ("RGB", "RGBA", "RGBX", "P") or profile[16:20] != SPACES["RGB"]:
        return image
    try:
        given, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        convert = ImageCms.buildTransform(given, srgb, "RGB", "RGB")
        steps = np.arange(0, 256, 17, dtype=np.uint8)
        lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
        seen = np.asarray(ImageCms.applyTransform(Image.fromarray(lattice), convert))
        if np.abs(seen.astype(int) - lattice).max() <= SAME_COLOURS:
            return image
        called = (ImageCms.getProfileDescription(given) or "").strip()
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError):
        return image  # it keeps its profile
    alpha = _alpha(image) if "A" in image.getbands() or "transparency" in image.info else None
    image.info.pop("transparency", None)
    colours = ImageCms.applyTransform(image.convert("RGB"), convert)
    assert colours is not None  # it is where the picture is not converted in place
    if alpha is not None:
        colours.putalpha(Image.fromarray(alpha))
    image.close()
    notes.append(f"{name}: its colours are of the profile {called[:60]!r}, and are converted to sRGB")
    return colours


def _read_exif(picture: Image.Image, name: str, notes: list[str], most: int | None = None) -> tuple[int, bytes | None]:
    """Return EXIF's orientation, 1 by default, and the rest of EXIF; add a note on what cannot be read or kept."""
    try:
        exif = picture.getexif()
        unread = bool(picture.info.get("exif")) and not len(exif)
        turn = exif.pop(ExifTags.Base.Orientation, 1)
    except Exception as error:  # noqa: BLE001 (a reader of EXIF raises many kinds, and pixels do not need it)
        notes.append(f"{name}: its EXIF data cannot be read ({error}), so it is left out")
        return 1, None
    if unread:
        notes.append(f"{name}: its EXIF data hold no field that can be read, so they are left out")
    if not isinstance(turn, int):
        notes.append(f"{name}: its EXIF orientation is {turn!r}, which is none, so it is left out")
        turn = 1
    size = len(picture.info.get("exif") or b"")
    if most is not None and size > most:
        notes.append(f"{name}: its {math.ceil(size / 1024)} KiB of EXIF data are left out; up to {most >> 10} are kept")
        return turn, None
    try:
        return turn, exif.tobytes() if len(exif) else None
    except Exception:  # noqa: BLE001 (a field of another type than the standard's, noted below)
        left_out = [tag for tag in exif if not _is_kept(exif, tag)]
    for tag in left_out:
        del exif[tag]
    fields = ", ".join(str(ExifTags.TAGS.get(tag, tag)) for tag in left_out)
    notes.append(f"{name}: fields of its EXIF data are of another type than the standard's and left out: {fields}")
    try:
        return turn, exif.tobytes() if len(exif) else None
    except Exception as error:  # noqa: BLE001 (as above)
        notes.append(f"{name}: its EXIF data cannot be kept ({error}), so it is left out")
        return turn, None


def _is_kept(exif: Image.Exif, tag: int) -> bool:
    """Return whether a field of EXIF can be written again."""
    alone = Image.Exif()
    try:
        alone[tag] = exif.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else exif[tag]
        alone.tobytes()
    except Exception:  # noqa: BLE001 (writing a field raises many kinds)
        return False
    return True


def _without_odd_extras(data: bytes, name: str) -> tuple[bytes, list[str]]:
    """Remove the chunks of a PNG for which Pillow would refuse it, and return a note of them.

    They do not affect the pixels, and are damaged or too large when unpacked. Any other file is returned as it is.
    """
    if not data.startswith(PNG_HEAD):
        return data, []
    kept, left_out, at, held = [PNG_HEAD], 0, len(PNG_HEAD), 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IEND":
            break  # bytes behind it are no chunks, and may be many
        chunk = data[at : at + 12 + length]
        size = 0
        if kind in PNG_EXTRAS and held <= MAX_TEXT_MEMORY:
            sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
            size = _unpacked_size(kind, chunk[8:-4]) if sound else MAX_TEXT_CHUNK + 1
            held += size
        if size > MAX_TEXT_CHUNK or (kind in PNG_EXTRAS and held > MAX_TEXT_MEMORY):
            left_out += 1
        else:
            kept.append(chunk)
        at += len(chunk)
    if not left_out:
        return data, []
    said = f"{name}: text or a profile beside its pixels is too large or damaged, so it is left out"
    return b"".join([*kept, data[at:]]), [said]


def _lacks_end(data: bytes) -> bool:
    """Return whether a baseline JPEG has no end marker behind its last scan."""
    if not data.startswith(JPEG_HEAD) or JPEG_END in data[data.rfind(JPEG_SCAN) :]:
        return False
    return any(kind in data for kind in BASELINE)


def _with_end(data: bytes, name: str, limits: Limits, notes: list[str]) -> bytes:
    """Append the end marker that a JPEG lacks, if it has all its pixels; otherwise return it as it is.

    Bytes after the last pixel do not affect pixels. So it is decoded with two endings, and where the results differ
    some pixels are lost.
    """
    endings = [data + filler * 64 + JPEG_END for filler in (b"\x00\x00", b"\x55\xaa")]
    seen = []
    for one in endings:
        with _opened(one, name, limits) as picture, contextlib.suppress(OSError, SyntaxError):
            picture.load()
            seen.append(picture.tobytes())
    if len(seen) < len(endings) or seen[0] != seen[1]:
        return data
    notes.append(f"{name} ends without an end marker; all its pixels are there")
    return data + JPEG_END


def _unpacked_size(kind: bytes, body: bytes) -> int:
    """Return the bytes of an unpacked chunk, or a number just above MAX_TEXT_CHUNK where there are more."""
    packed = None
    if kind in (b"zTXt", b"iCCP"):
        packed = body.partition(b"\0")[2][1:]
    elif kind == b"iTXt":
        said = body.partition(b"\0")[2]
        if said[:1] == b"\1":
            packed = said[2:].partition(b"\0")[2].partition(b"\0")[2]
    if packed is None:
        return len(body)
    with contextlib.suppress(zlib.error):  # the decoder reports a broken chunk
        return len(zlib.decompressobj().decompress(packed, MAX_TEXT_CHUNK + 1))
    return 0


def _count_frames(data: bytes, limits: Limits) -> int:
    """Return the number of frames or pages in a file, as far as they can be read."""
    try:
        with Image.open(io.BytesIO(data), formats=limits.formats) as picture:
            return int(getattr(picture, "n_frames", 1))
    except Exception:  # noqa: BLE001 (frames behind the first may be broken; the first is judged when it is decoded)
        return 1


def _from_image(image: Image.Image, name: str, metadata: Metadata, notes: tuple[str, ...]) -> Photo:
    """Convert a decoded picture to a photo, and close it. At most 16 bytes a pixel are held at once."""
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        given, image = image, image.convert(image.mode.upper())
        given.close()
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
        image.info.pop("transparency", None)  # applied above; Pillow would warn below
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
    return Photo(pixels, missing, metadata, notes=notes)


def _alpha(image: Image.Image) -> np.ndarray:
    """Return the alpha (H, W) uint8."""
    has = image.mode in ("LA", "PA", "RGBA")  # in Lab, A is a colour
    return np.asarray((image if has else image.convert("RGBA")).getchannel("A"))


def _from_npy(data: bytes, name: str, largest: float, limits: Limits) -> Photo:
    photo = photo_of_array(load_npy(io.BytesIO(data), name, 3 * limits.max_pixels), name, largest)
    if largest < math.inf and looks_unsigned(photo.pixels):
        said = f"{name}: all values lie in [0, 1], and are taken to be on [-1, 1]; if they are not, save 2 x - 1"
        return replace(photo, notes=(said,))
    return photo


def _npy_shape(file: IO[bytes], name: str, most: int) -> tuple[int, ...]:
    """Return the shape in a .npy file's header, of at most `most` values; rewind the file."""
    with as_input_error(lambda error: f"{name} is not a .npy array of numbers: {error}"):  # a header is Python's syntax
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, _ = read_header[np.lib.format.read_magic(file)](file)
        if math.prod(shape) > most:
            raise InputError(f"{name} has {math.prod(shape)} values; up to {most} are read")
        file.seek(0)
        return tuple(shape)
