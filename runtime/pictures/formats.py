"""The formats of restored pictures, and the place of the settings in each.

A PNG has them in a text chunk; JPEG, WebP and TIFF in an XMP packet, so that the photograph's EXIF is kept.
"""

import io
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape, unescape

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, TiffTags

from ...engines import InputError
from ...engines.files import atomic_write
from .decoding import Metadata, as_input_error
from .images import SETTINGS_KEY, encode_png, read_bytes

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Pillow's formats of restored pictures, by the suffix of their names."""
LONGEST = {"JPEG": 65_535, "WEBP": 16_383}
"""The most pixels of a side, where a format has a limit."""
MAX_SEGMENT = 65_533
"""The most bytes of a JPEG's segment; a larger EXIF block is left out."""
MAX_PACKET = 1 << 20
"""The most bytes of an XMP packet that is read; Pillow limits a PNG's text likewise."""
STRIP = 1 << 20
"""Approximate bytes of a TIFF's strip before compression."""
PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:{SETTINGS_KEY}="urn:{SETTINGS_KEY}">'
    f"<{SETTINGS_KEY}:settings>{{}}</{SETTINGS_KEY}:settings>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IN_PACKET = re.compile(rf"<{SETTINGS_KEY}:settings>([^<]*)</{SETTINGS_KEY}:settings>".encode())
DESCRIPTIVE = {
    *("ImageDescription", "Make", "Model", "Orientation", "XResolution", "YResolution", "ResolutionUnit"),
    *("Software", "DateTime", "Artist", "HostComputer", "Copyright", "ExifOffset", "GPSInfo"),
}
"""EXIF's tags that are copied into a TIFF; others may describe the pixel layout of another file."""


def encode_picture(
    name: str, picture: Image.Image, settings: Mapping[str, Any] | None = None, metadata: Metadata | None = None
) -> bytes:
    """Encode a picture in the format of the suffix of `name`.

    JPEG has quality 95 without chroma subsampling; the others are lossless. Grey stays a single channel, except in
    WebP, which has no grey. Transparent pixels become black in JPEG, which has no alpha. Raises InputError for a side
    or settings too large for the format.
    """
    kind = PICTURES[Path(name).suffix.lower()]
    metadata = metadata or Metadata()
    if kind == "PNG":
        return encode_png(picture, settings, metadata)
    most = LONGEST.get(kind)
    if most is not None and max(picture.size) > most:
        raise InputError(f"{name}: a {kind} has sides of up to {most} pixels; write a .png or .tif")
    packet = b"" if settings is None else PACKET.format(escape(json.dumps(settings))).encode()
    if kind == "TIFF":
        return _tiff(picture, packet, metadata)
    if kind == "JPEG":
        picture = picture.convert("RGB") if picture.mode == "RGBA" else picture
        how: dict[str, Any] = {"quality": 95, "subsampling": 0}
    else:
        picture = picture.convert("RGB") if picture.mode == "L" else picture
        how = {"lossless": True, "exact": True}
    how |= metadata.for_picture(picture)
    if packet:
        how["xmp"] = packet
    if kind == "JPEG" and len(how.get("exif", b"")) > MAX_SEGMENT:
        del how["exif"]
    file = io.BytesIO()
    try:
        picture.save(file, kind, **how)
    except ValueError as error:
        raise InputError(f"{name}: {error}; write a .png or .tif") from error
    return file.getvalue()


def write_picture(
    path: str | os.PathLike[str],
    picture: Image.Image,
    settings: Mapping[str, Any] | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write a picture, encoded by `encode_picture`, whole or not at all. Raises FrugalError."""
    data = encode_picture(Path(path).name, picture, settings, metadata)
    with atomic_write(path) as file:
        file.write(data)


def read_settings(path: Path) -> dict[str, Any] | None:
    """Read the settings in a restored picture's file, or None, without decoding pixels.

    Raises InputError for a file that cannot be read, is too large, or is broken.
    """
    kind, data = PICTURES[path.suffix.lower()], read_bytes(path)
    with as_input_error(lambda error: f"{path.name} holds no options of a restoration: {error}"):
        return _settings_in(io.BytesIO(data), kind)


def is_restored(path: Path) -> bool:
    """Return whether a picture's header says that this program made it; False for a file that cannot be read."""
    kind = PICTURES.get(path.suffix.lower())
    if kind is None:
        return False
    try:
        with path.open("rb") as file:
            return _settings_in(file, kind) is not None
    except Exception:  # noqa: BLE001 (decoding it later reports the error)
        return False


def _settings_in(file: IO[bytes], kind: str) -> dict[str, Any] | None:
    with Image.open(file, formats=[kind]) as picture:
        if kind == "PNG":
            text = picture.info.get(SETTINGS_KEY)
        else:
            packet = picture.info.get("xmp") or b""
            found = IN_PACKET.search(packet) if len(packet) <= MAX_PACKET else None
            text = None if found is None else unescape(found[1].decode())
    settings = None if text is None else json.loads(text)
    return settings if isinstance(settings, dict) else None


def _tiff(picture: Image.Image, packet: bytes, metadata: Metadata) -> bytes:
    """Encode a TIFF in strips, deflated with horizontal differences.

    It is written tag by tag, as Pillow's compressing writer (libtiff) loses a photograph's EXIF and GPS directories.
    """
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    if metadata.exif is not None:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag in exif:
            if ExifTags.TAGS.get(tag) in DESCRIPTIVE:
                ifd[tag] = exif.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else exif[tag]
    levels = np.atleast_3d(np.asarray(picture))
    height, width, channels = levels.shape
    differences = np.diff(levels, axis=1, prepend=levels[:, :1] * 0)  # uint8 wraps, as in TIFF
    rows = max(1, STRIP // (width * channels))
    strips = [zlib.compress(differences[top : top + rows].tobytes()) for top in range(0, height, rows)]
    base = ExifTags.Base
    ifd[base.ImageWidth], ifd[base.ImageLength] = width, height
    ifd[base.BitsPerSample] = (8,) * channels
    ifd[base.SamplesPerPixel] = channels
    ifd[base.PhotometricInterpretation] = 1 if channels == 1 else 2
    if channels == 4:
        ifd[base.ExtraSamples] = 2  # alpha is not premultiplied
    ifd[base.PlanarConfiguration] = 1
    ifd[base.Compression] = 8
    ifd[base.Predictor] = 2
    ifd[base.RowsPerStrip] = rows
    counts = tuple(map(len, strips))
    for tag in (base.StripByteCounts, base.StripOffsets):
        ifd.tagtype[tag] = TiffTags.LONG
    ifd[base.StripByteCounts] = counts
    ifd[base.StripOffsets] = tuple(sum(counts[:i]) for i in range(len(counts)))  # from the end of the directory
    if packet:
        ifd.tagtype[TiffImagePlugin.XMP] = TiffTags.BYTE
        ifd[TiffImagePlugin.XMP] = packet
    profile = metadata.for_picture(picture).get("icc_profile")
    if profile is not None:
        ifd[TiffImagePlugin.ICCPROFILE] = profile
    file = io.BytesIO()
    ifd.save(file)
    file.write(b"".join(strips))
    return file.getvalue()
