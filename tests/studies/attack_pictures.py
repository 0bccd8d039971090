"""Pictures made to cost whoever decodes or keeps them: for attacks.py, and for the tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def large_png(width: int, height: int) -> bytes:
    """A black PNG of RGB pixels: a thousandth of what it takes decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, row = zlib.compressobj(9), bytes(1 + 3 * width)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


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
