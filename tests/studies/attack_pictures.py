"""Pictures made to cost whoever decodes or keeps them: for attacks.py and hostile_pictures.py, and for the tests."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image

MOST = 16 << 20
"""Bytes that a service takes: those that are to be many fill as much."""
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, data: bytes, before: bytes = b"", after: bytes = b"", kind: bytes = b"\x08\x02\0\0\0"
) -> bytes:
    """A PNG of packed rows. before, after: chunks around them. kind: depth, colour type, and interlacing last."""
    head = struct.pack(">II", width, height) + kind
    return PNG_HEAD + chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def large_png(width: int, height: int) -> bytes:
    """A black PNG of RGB pixels: a thousandth of what it takes decoded."""
    rows, row = zlib.compressobj(9), bytes(1 + 3 * width)
    return png(width, height, b"".join(rows.compress(row) for _ in range(height)) + rows.flush())


def odd_ppm(width: int, height: int) -> bytes:
    """A binary PPM whose levels end at 254, which Pillow decodes byte by byte in Python."""
    return f"P6 {width} {height} 254\n".encode() + bytes(3 * width * height)


def run_length_bmp(side: int) -> bytes:
    """A BMP of 256 colours in run lengths, which Pillow decodes in Python."""
    rows = (b"\xff\x01" * (side // 255) + bytes((side % 255, 1)) + b"\0\0") * side + b"\0\1"
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    palette = bytes(4 * 256)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def slow_jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes `scans` times more: a dozen bytes each, which go over all pixels."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (120, 30, 60)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * scans + b"\xff\xd9"


def laden_png(side: int, size: int) -> bytes:
    """A PNG with so many bytes of EXIF, which do not compress."""
    exif = Image.Exif()
    exif[0x927C] = np.random.default_rng(0).bytes(size)  # a maker's note
    file = io.BytesIO()
    Image.new("RGB", (side, side), (120, 30, 60)).save(file, "PNG", exif=exif)
    return file.getvalue()


def laden_jpeg(side: int, size: int) -> bytes:
    """A JPEG with an ICC profile of so many bytes, up to 16 MB, which do not compress."""
    profile = b"\0" * 16 + b"RGB " + np.random.default_rng(0).bytes(size - 20)
    file = io.BytesIO()
    Image.new("RGB", (side, side), (120, 30, 60)).save(file, "JPEG", icc_profile=profile)
    return file.getvalue()


def saved(kind: str, size: tuple[int, int] = (16, 16), mode: str = "RGB", noise: bool = False, **how: Any) -> bytes:
    """A picture of one colour, or of noise, as Pillow saves it."""
    file = io.BytesIO()
    image = Image.new("RGB", size, (120, 30, 60))
    if noise:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    image.convert(mode).save(file, kind, **how)
    return file.getvalue()


@cache
def zeros(size: int) -> bytes:
    """So many zeros, packed: about a thousandth."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def with_chunks(one: bytes, size: int = MOST) -> bytes:
    """A small PNG in which a chunk comes before its pixels as often as there is room for."""
    return png(1, 1, zlib.compress(bytes(4)), before=one * ((size - 200) // len(one)))


def with_segments(one: bytes, size: int = MOST) -> bytes:
    """A small JPEG in whose head a segment comes as often as there is room for."""
    whole = saved("JPEG")
    return whole[:2] + one * ((size - len(whole)) // len(one)) + whole[2:]


def first_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose first scan, of all pixels, comes so many times more."""
    whole = saved("JPEG", (side, side), progressive=True)
    at = whole.index(b"\xff\xda")
    ends = min(whole.index(marker, at + 2) for marker in (b"\xff\xda", b"\xff\xc4") if marker in whole[at + 2 :])
    return whole[:ends] + whole[at:ends] * scans + whole[ends:]


def filled_scan(size: int = MOST) -> bytes:
    """A JPEG within whose scan as many fill bytes come as there is room for."""
    whole = saved("JPEG", (SIDE, SIDE))
    return whole[:-9] + b"\xff" * (size - len(whole)) + whole[-9:]


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose head says another size."""
    whole = bytearray(saved("JPEG"))
    at = whole.index(b"\xff\xc0")
    whole[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def gif(side: int, blocks: bytes) -> bytes:
    """A GIF of one grey frame, and then blocks."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame + blocks + b";"


def many_frames(side: int, size: int = MOST) -> bytes:
    """A GIF of one-pixel frames on a large canvas, each of which is undone."""
    undo = b"!\xf9\x04\x08\0\0\0\0"
    frame = undo + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return gif(side, frame * (size // len(frame) - 9))


def many_frames_png(side: int, size: int = MOST) -> bytes:
    """An animated PNG of one-pixel frames on a large canvas."""
    pixel, frames, number = zlib.compress(bytes(4)), [], 1
    while len(frames) < size // 87 - 99:
        control = struct.pack(">IIIIIHHBB", number, 1, 1, 0, 0, 1, 1, 1, 1)
        frames.append(chunk(b"fcTL", control) + chunk(b"fdAT", struct.pack(">I", number + 1) + pixel))
        number += 2
    first = chunk(b"acTL", struct.pack(">II", len(frames) + 1, 0))
    first += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 0, 0))
    return png(side, side, zeros((side * 3 + 1) * side + (1 << 20)), before=first, after=b"".join(frames))


Field = tuple[int, int, int, int | bytes]
"""A TIFF's tag, type (3 short, 4 long), count, and value or offset."""


def directory(fields: list[Field], following: int) -> bytes:
    entries = (
        struct.pack("<HHI", tag, kind, count) + (value if isinstance(value, bytes) else struct.pack("<I", value))
        for tag, kind, count, value in sorted(fields)
    )
    return struct.pack("<H", len(fields)) + b"".join(entries) + struct.pack("<I", following)


def tiff(fields: list[Field], following: int = 0, more: bytes = b"", at: int = 8) -> bytes:
    """A little-endian TIFF of one directory; what follows it."""
    return b"II*\0" + struct.pack("<I", at) + directory(fields, following) + more


def grey(width: int, height: int, rows: int, offsets: int, count: int, compression: int = 1) -> list[Field]:
    """Fields of a grey TIFF in `count` strips of so many rows, whose offsets and lengths lie at `offsets`."""
    return [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 4, count, offsets), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, offsets),
    ]  # fmt: skip


def laden_tiff(fields: int = 20_000) -> bytes:
    """A TIFF with so many fields, each of which says that it has more values than there are bytes."""
    return tiff(grey(1, 1, 1, 8, 1) + [(999 + number, 4, 2**32 - 1, 8) for number in range(fields)])


def many_strips(count: int, compression: int = 1) -> bytes:
    """A TIFF of one pixel a strip, all of which lie at the same place."""
    at = 8 + 2 + 9 * 12 + 4
    return tiff(grey(1, count, 1, at, count, compression), more=struct.pack("<I", 8) * count)


def many_directories(fields: int = 0, size: int = MOST) -> bytes:
    """A TIFF of as many pages of one pixel as there is room for, with so many fields more each."""
    one = [*grey(1, 1, 1, 8, 1), *((40000 + number, 4, 1, 0) for number in range(fields))]
    length = 2 + 12 * len(one) + 4
    count = (size - 8) // length
    pages = (directory(one, 8 + length * (n + 1) if n < count - 1 else 0) for n in range(count))
    return b"II*\0\x08\0\0\0" + b"".join(pages)


def looping_directories(number: int = 2) -> bytes:
    """A TIFF whose directories lead back to the first."""
    fields = grey(1, 1, 1, 8, 1)
    length = 2 + 12 * len(fields) + 4
    places = [8 + length * n for n in range(number)]
    return b"II*\0\x08\0\0\0" + b"".join(directory(fields, place) for place in [*places[1:], places[0]])


def laden_exif(entries: int) -> bytes:
    """A JPEG with so many fields of EXIF in as many segments as they take, which leads into itself."""
    fields: list[Field] = [(number, 4, 1, 1) for number in range(1, entries)]
    data = b"Exif\0\0" + tiff([*fields, (0x8769, 4, 1, 8)])
    whole = saved("JPEG")
    pieces = [data[at : at + 65000] for at in range(0, len(data), 65000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(one) + 2) + one for one in pieces)
    return whole[:2] + segments + whole[2:]


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP of one colour, which has a few bytes whatever its size."""
    whole = bytearray(saved("WEBP", lossless=True))
    at = whole.index(b"VP8L") + 9
    sizes = int.from_bytes(whole[at : at + 4], "little") >> 28 << 28 | height - 1 << 14 | width - 1
    whole[at : at + 4] = sizes.to_bytes(4, "little")
    return bytes(whole)


def many_frames_webp(side: int, frames: int) -> bytes:
    """An animated WebP of frames of one colour."""
    still = webp_of(side, side)[12:]

    def riff(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    size = (side - 1).to_bytes(3, "little") * 2
    frame = riff(b"ANMF", bytes(6) + size + b"\x0a\0\0\0" + still)
    head = riff(b"VP8X", b"\x02\0\0\0" + size) + riff(b"ANIM", bytes(6))
    return riff(b"RIFF", b"WEBP" + head + frame * frames)


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"", colours: int = 0) -> bytes:
    """A BMP whose head says this."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, colours, 0)
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + data


def npy(header: str, data: bytes = b"") -> bytes:
    head = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(head)) + head + data


def npy_of(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}", data)


def packed(kind: bytes, size: int) -> bytes:
    """A chunk of a PNG that unpacks to so many zeros."""
    start = {b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"iTXt": b"k\0\1\0\0\0"}[kind]
    return chunk(kind, start + zeros(size))


SIDE = 2000
"""Side of pictures as large as a service takes: 4 megapixels."""
HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG, 4 megapixels of nothing": partial(large_png, SIDE, SIDE),
    "PNG, 900 megapixels of nothing": lambda: png(30000, 30000, zeros(1 << 30)),
    "PNG, 2^31 - 1 pixels across": lambda: png(2**31 - 1, 1, b""),
    "PNG, 2^31 - 1 pixels down": lambda: png(1, 2**31 - 1, b""),
    "PNG, one pixel and 1 GiB behind it": lambda: png(1, 1, zeros(1 << 30)),
    "PNG, interlaced, 16 bits, 4 channels": lambda: png(SIDE, SIDE, zeros(36 << 20), kind=b"\x10\x06\0\0\x01"),
    "PNG, a profile of 1 GiB": lambda: with_chunks(packed(b"iCCP", 1 << 30), 2 << 20),
    "PNG, text of 1 GiB": lambda: with_chunks(packed(b"zTXt", 1 << 30), 2 << 20),
    "PNG, text of 1 MiB as often as it goes": lambda: with_chunks(packed(b"zTXt", 1 << 20)),
    "PNG, international text of 1 MiB likewise": lambda: with_chunks(packed(b"iTXt", 1 << 20)),
    "PNG, chunks of text without end": lambda: with_chunks(chunk(b"tEXt", b"k\0")),
    "PNG, unknown chunks without end": lambda: with_chunks(chunk(b"abCd", b"")),
    "PNG, empty chunks of pixels without end": lambda: with_chunks(chunk(b"IDAT", b"")),
    "PNG, damaged text without end": lambda: with_chunks(chunk(b"zTXt", b"k\0\0x")[:-1] + b"x"),
    "PNG, cut off": lambda: large_png(SIDE, SIDE)[:-2000],
    "PNG, noise of 4 megapixels": lambda: saved("PNG", (SIDE, SIDE), noise=True, compress_level=1),
    "APNG, frames without end": partial(many_frames_png, SIDE),
    "APNG, 2^31 frames, by its word": lambda: with_chunks(chunk(b"acTL", struct.pack(">II", 2**31, 0)), 300),
    "JPEG, 40,000 scans of 1 megapixel": partial(slow_jpeg, 1000, 40_000),
    "JPEG, 40,000 scans of 4 megapixels": partial(slow_jpeg, SIDE, 40_000),
    "JPEG, a million scans of 64x64": partial(slow_jpeg, 64, 1_000_000),
    "JPEG, 100 scans of 4 megapixels": partial(slow_jpeg, SIDE, 85),
    "JPEG, as many scans of 4 megapixels as are read": partial(slow_jpeg, SIDE, 4),
    "JPEG, 1,000 first scans of 4 megapixels": partial(first_scans, SIDE, 1_000),
    "JPEG, scans without an end": lambda: slow_jpeg(SIDE, 40_000)[:-2],
    "JPEG, a scan of fill bytes": filled_scan,
    "JPEG, 65,535 pixels both ways": partial(jpeg_of, 65535, 65535),
    "JPEG, 4 megapixels of 200 bytes": partial(jpeg_of, SIDE, SIDE),
    "JPEG, no pixel": partial(jpeg_of, 0, 0),
    "JPEG, comments without end": lambda: with_segments(b"\xff\xfe\0\x02"),
    "JPEG, fill bytes without end": lambda: with_segments(b"\xff"),
    "JPEG, bytes between its segments": lambda: with_segments(b"\0"),
    "JPEG, tables without end": lambda: with_segments(b"\xff\xdb\0\x43\0" + b"\1" * 64),
    "JPEG, EXIF without end": lambda: with_segments(b"\xff\xe1\0\x08Exif\0\0"),
    "JPEG, a profile's pieces without end": lambda: with_segments(b"\xff\xe2\0\x10ICC_PROFILE\0\1\xff"),
    "JPEG, 20,000 fields of EXIF": partial(laden_exif, 20_000),
    "JPEG, 60,000 fields of EXIF": partial(laden_exif, 60_000),
    "JPEG, coarse noise of 4 megapixels": lambda: saved("JPEG", (SIDE, SIDE), noise=True, quality=40),
    "JPEG, noise of 4 megapixels, cut off": lambda: saved("JPEG", (SIDE, SIDE), noise=True, quality=90)[:-4000],
    "TIFF, directories without end": many_directories,
    "TIFF, directories of 1,000 fields": partial(many_directories, 1000),
    "TIFF, a directory that leads to itself": partial(looping_directories, 1),
    "TIFF, 50 directories in a circle": partial(looping_directories, 50),
    "TIFF, a million strips": partial(many_strips, 1_000_000),
    "TIFF, 4 million strips": partial(many_strips, 4_000_000),
    "TIFF, a million packed strips": partial(many_strips, 1_000_000, 8),
    "TIFF, fields of 2^32 values": laden_tiff,
    "TIFF, 2^32 - 1 pixels both ways": lambda: tiff(grey(2**32 - 1, 2**32 - 1, 1, 8, 1)),
    "TIFF, 4 megapixels of nothing, packed": lambda: saved("TIFF", (SIDE, SIDE), compression="tiff_lzw"),
    "GIF, frames without end": partial(many_frames, 16),
    "GIF, frames of 4 megapixels without end": partial(many_frames, SIDE),
    "GIF, comments without end": lambda: gif(16, b"!\xfe\x01x\0" * (MOST // 5 - 99)),
    "GIF, a comment in pieces of one byte": lambda: gif(16, b"!\xfe" + b"\x01x" * (MOST // 2 - 99) + b"\0"),
    "GIF, 65,535 pixels both ways": partial(gif, 65535, b""),
    "WebP, 16,383 pixels both ways": partial(webp_of, 16383, 16383),
    "WebP, 4 megapixels of nothing": partial(webp_of, SIDE, SIDE),
    "WebP, cut off": lambda: saved("WEBP", (SIDE, SIDE), noise=True, lossless=True, method=0)[:-2000],
    "WebP, 100,000 frames of 4 megapixels": partial(many_frames_webp, SIDE, 100_000),
    "BMP, 2^31 - 1 pixels both ways": partial(bmp, 2**31 - 1, -(2**31 - 1)),
    "BMP, run lengths": partial(run_length_bmp, SIDE),
    "BMP, a palette of 2^32 colours": partial(bmp, 16, 16, 8, 0, bytes(2000), 2**32 - 1),
    "NPY, a header in brackets": lambda: npy("(" * 60000 + ")" * 60000),
    "NPY, 2^62 values": partial(npy_of, "(3, 2147483648, 2147483648)"),
    "NPY, pickled": partial(npy_of, "(1,)", "|O", b"cos\nsystem\n(S'true'\ntR."),
    "NPY, 4 megapixels of NaN": lambda: npy_of("(2000, 2000)", data=np.full(4_000_000, np.nan, "<f4").tobytes()),
}  # fmt: skip
"""Pictures by name, all of 16 MiB or less."""
