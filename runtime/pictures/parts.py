"""Bounds on the parts of a picture's file, which are counted before a decoder goes over them one by one.

Limits of bytes and pixels do not bound the time that a decoder takes: a part may be of four bytes, and a scan of ten go
over all pixels.
"""

import re
import struct

from PIL.JpegImagePlugin import MARKER

from ...engines import InputError

EACH = 512
SPARE = 10_000
"""A file may have SPARE parts, and one more for each EACH bytes. Parts are a PNG's chunks, the segments of a JPEG's
head, and a GIF's blocks; a screencast of 900 frames has 1,800 blocks of 40 bytes."""
PIECE = 16
"""The blocks of a GIF may consist of SPARE pieces, of up to 255 bytes each, and one more for each PIECE bytes."""
MOST_SCANS = 100
"""Scans of a JPEG; progressive ones have some ten."""
MOST_PAGES = 4096
MOST_FIELDS = 1 << 16
MOST_STRIPS = 1 << 15
"""Directories of a TIFF, the fields of all of them, and the strips or tiles of each."""
TIFFS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
"""Heads of what Pillow takes for a TIFF."""
BIG = ord("+")
"""The third byte of a head after which Pillow reads directories of 64 bits; after the others it reads those of 32."""
STRIPS = (273, 324)
"""TIFF's tags of where the strips or tiles of a page lie."""
SCAN, END, FILL = 0xDA, 0xD9, b"\xff\xff"
ANY, NEXT = re.compile(rb"\xff[^\0\xff]"), re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker in the head of a JPEG, as Pillow takes them one by one, and one that ends a scan."""


def check_parts(data: bytes, name: str, max_scans: int = MOST_SCANS) -> None:
    """Raise InputError for a picture's file of more parts than any program writes; broken ones are left to decoders."""
    most = SPARE + len(data) // EACH
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check(_count_chunks(data, most), most, f"{name} holds over {most} chunks; save it anew as a PNG")
    elif data.startswith(b"\xff\xd8\xff"):
        parts, scans = _count_segments(data, most, max_scans)
        _check(parts, most, f"{name} holds over {most} segments; save it anew as a JPEG")
        _check(scans, max_scans, f"{name} holds over {max_scans} scans; save it anew as a plain JPEG")
    elif data.startswith((b"GIF87a", b"GIF89a")):
        pieces = SPARE + len(data) // PIECE
        if not _is_short_gif(data, most, pieces):
            raise InputError(f"{name} holds over {most} blocks, or {pieces} pieces of them; save it anew as a PNG")
    elif data[:4] in TIFFS:
        _check_directories(data, name, big=data[2] == BIG)


def _check(count: int, most: int, sentence: str) -> None:
    if count > most:
        raise InputError(sentence)


def _count_chunks(data: bytes, most: int) -> int:
    """Count the chunks of a PNG, to one above `most`."""
    count, at = 0, 8
    while at + 8 <= len(data) and count <= most:
        count += 1
        if data[at + 4 : at + 8] == b"IEND":
            break
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return count


def _count_segments(data: bytes, most: int, max_scans: int) -> tuple[int, int]:
    """Count a JPEG's segments and scans, to one above `most` and `max_scans`.

    Bytes that belong to none count too, and within scans those that only fill: Pillow goes over them one by one before
    the first scan, and libjpeg again over all of them, piece by piece, after it.
    """
    parts, scans, at = 0, 0, 2
    while parts <= most and scans <= max_scans:
        found = (NEXT if scans else ANY).search(data, at)
        if found is None:
            parts += 0 if scans else len(data) - at
            break
        end = found.end()
        marker = data[end - 1]
        parts += (marker != SCAN) + data.count(FILL, at, end) if scans else end - at - 1
        at = end
        if scans and marker == END:
            break
        scans += marker == SCAN
        if MARKER.get(0xFF00 | marker, (None,))[-1] is not None:  # it has a length
            at += int.from_bytes(data[at : at + 2], "big")
    return parts, scans


def _is_short_gif(data: bytes, most: int, most_pieces: int) -> bool:
    """Whether a GIF has up to so many blocks, and pieces of them."""
    blocks, pieces = 0, 0
    at = 13 + _colours(data[10:11])
    while at < len(data) and blocks <= most:
        kind = data[at]
        blocks += 1
        if kind == 0x21:  # an extension
            at += 2
        elif kind == 0x2C:  # a frame
            at += 11 + _colours(data[at + 9 : at + 10])
        elif kind == 0x3B:  # the end
            break
        else:
            at += 1
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
            pieces += 1
            if pieces > most_pieces:
                return False
        at += 1
    return blocks <= most


def _colours(flags: bytes) -> int:
    """Bytes of the colours that follow, by the flags of a GIF or a frame."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _check_directories(data: bytes, name: str, big: bool) -> None:
    """Follow a TIFF's directories; big: whether they are of 64 bits. Raises InputError."""
    number, entry, place = ("Q", "HHQ8x", "Q") if big else ("H", "HHI4x", "I")
    order = "<" if data.startswith(b"II") else ">"
    count_of, entry_of, place_of = (struct.Struct(order + one) for one in (number, entry, place))
    seen: set[int] = set()
    fields, at = 0, 8 if big else 4
    while at + place_of.size <= len(data):
        (at,) = place_of.unpack_from(data, at)
        if at in seen or not 0 < at <= len(data) - count_of.size:
            return
        seen.add(at)
        (count,) = count_of.unpack_from(data, at)
        fields += count
        _check(len(seen), MOST_PAGES, f"{name} holds over {MOST_PAGES} pages; split it")
        _check(fields, MOST_FIELDS, f"{name} holds over {MOST_FIELDS} fields; save it anew as a TIFF")
        at += count_of.size
        held = min(count, (len(data) - at) // entry_of.size)
        for tag, _, values in entry_of.iter_unpack(data[at : at + held * entry_of.size]):
            if tag in STRIPS:
                _check(values, MOST_STRIPS, f"{name} holds a page in over {MOST_STRIPS} strips or tiles; save it anew")
        at += count * entry_of.size
