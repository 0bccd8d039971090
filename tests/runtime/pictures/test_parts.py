"""Pictures whose bytes are many small parts: the parts are counted, and no decoder goes over more than so many."""

import contextlib
import io
import struct

import attack_pictures as attack
import numpy as np
import pytest
from PIL import Image

from frugal_rt import InputError
from frugal_rt.runtime.pictures import parts
from frugal_rt.runtime.pictures.decoding import FRAMES, Limits, count_pixels, decode_photo
from frugal_rt.runtime.pictures.jpeg import MOST_OF_A_PART, read_jpeg
from frugal_rt.runtime.pictures.parts import check_parts

ENDLESS = [
    name
    for name in attack.HOSTILE
    if any(word in name for word in ("without end", "million", "40,000 scans", "1,000", "without an end", "fill bytes"))
    and not any(word in name for word in ("WebP", "2^31"))
]


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_refused_before_it_is_decoded(name):
    data = attack.HOSTILE[name]()
    for refuse in (check_parts, count_pixels, decode_photo):
        with pytest.raises(InputError, match=r"^x holds (a page in )?over \d+ [\w, ]+; [\w ]+$"):
            refuse(data, "x")


def few(monkeypatch, **most: int) -> None:
    for name, number in most.items():
        monkeypatch.setattr(parts, name, number)


def refused(data: bytes) -> bool:
    try:
        check_parts(data, "x")
    except InputError:
        return True
    return False


@pytest.mark.parametrize(
    "with_so_many",
    [
        lambda n: attack.png(1, 1, b"", before=attack.chunk(b"tEXt", b"k\0") * (n - 3)),
        lambda n: jpeg_with(b"\xff\xfe\0\x02" * (n - 9)),
        lambda n: jpeg_with(b"\xff" * (n - 9)),
        lambda n: jpeg_with(b"\0" * (n - 9)),
        lambda n: jpeg_with(b"\xff\xf0" + b"\0" * (n - 10)),  # without a length
        lambda n: attack.gif(16, b"!\xfe\x01x\0" * (n - 2)),
    ],
    ids=["chunks", "segments", "fill", "between", "bare", "blocks"],
)
def test_a_file_may_have_so_many_parts(monkeypatch, with_so_many):
    few(monkeypatch, SPARE=60, EACH=1 << 20)
    assert [refused(with_so_many(n)) for n in (59, 60, 61, 90)] == [False, False, True, True]


def jpeg_with(segments: bytes) -> bytes:
    """A JPEG of nine parts more than these: JFIF, two tables, a frame, four codes and the end, without a scan."""
    whole = attack.saved("JPEG")
    at = whole.index(b"\xff\xda")
    assert sum(whole[:at].count(bytes([0xFF, kind])) for kind in (0xE0, 0xDB, 0xC0, 0xC4)) == 8
    return whole[:at] + segments + b"\xff\xd9"


def test_long_files_may_have_more_parts():
    text = attack.chunk(b"tEXt", b"k\0" + b"x" * parts.EACH)
    assert not refused(attack.png(1, 1, b"", before=text * (2 * parts.SPARE)))


def test_a_block_of_a_gif_may_have_so_many_pieces(monkeypatch):
    few(monkeypatch, SPARE=60, EACH=1 << 20, PIECE=1 << 20)
    pieces = [attack.gif(16, b"!\xfe" + b"\x01x" * (n - 1) + b"\0") for n in (60, 61)]  # the frame has one
    assert [refused(one) for one in pieces] == [False, True]


def test_a_jpeg_may_have_so_many_scans():
    scans = attack.slow_jpeg(16, 0).count(b"\xff\xda")
    for more in (0, 3, 4):
        data = attack.slow_jpeg(16, more)
        last = data.rindex(b"\xff\xda")
        for one in (data, data[:last] + b"\xff\xfe\0\x04\xff\xd9" + data[last:]):  # an end within a comment is none
            with pytest.raises(InputError, match="x holds over") if more > 3 else contextlib.nullcontext():
                decode_photo(one, "x", limits=Limits(max_scans=scans + 3))


@pytest.mark.parametrize("more", [b"\xff\xda\xff\xff,!" * 99_999, bytes(1 << 20)], ids=["film", "zeros"])
@pytest.mark.parametrize("kind", ["JPEG", "GIF", "PNG"])
def test_what_follows_a_picture_counts_for_nothing(kind, more):
    """As the film behind a phone's photograph, or the rest of a cluster behind a file that was recovered."""
    decode_photo(attack.saved(kind) + more, "x")


def test_a_large_tiff_may_have_its_directory_behind_the_pixels():
    """As libtiff writes it: what a directory of 32 bits would be, by the same head, are pixels."""
    whole = pages(1, big=True)
    pixels = bytes(6) + struct.pack("<HHII", 273, 4, 1 << 20, 0) * 5000
    moved = whole[:8] + struct.pack("<Q", 16 + len(pixels)) + pixels + whole[16:]
    (directory,) = struct.unpack_from("<I", moved, 4)
    assert struct.unpack_from("<H8xHHI", moved, directory)[0] > 1
    assert struct.unpack_from("<HHI", moved, directory + 14)[::2] == (273, 1 << 20)
    assert not refused(moved)


def test_a_screencast_is_no_attack():
    """900 frames of which each changes a few pixels, in 40 bytes."""
    file, still = io.BytesIO(), Image.new("P", (64, 64))
    still.putpalette(bytes(range(256)) * 3)
    frames = [still.copy() for _ in range(900)]
    for i, frame in enumerate(frames):
        frame.putpixel((i % 64, i // 64), 200)
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert len(file.getvalue()) < 900 * parts.EACH
    assert decode_photo(file.getvalue(), "x").size == (64, 64)


def pages(count: int, order: str = "<", big: bool = False, more: int = 0, strips: int = 1) -> bytes:
    """A TIFF of so many directories."""
    number, entry, place = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    fields = [(273, 4, strips, 8), *((40000 + n, 4, 1, 0) for n in range(more))]
    length = struct.calcsize(order + number) + len(fields) * struct.calcsize(order + entry) + struct.calcsize(place)
    mark = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    head = mark + (struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8))
    body = b""
    for n in range(count):
        following = len(head) + (n + 1) * length if n < count - 1 else 0
        body += struct.pack(order + number, len(fields)) + b"".join(struct.pack(order + entry, *one) for one in fields)
        body += struct.pack(order + place, following)
    return head + body


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # Pillow reads no other
def test_a_tiff_may_have_so_many_pages_fields_and_strips(monkeypatch, order, big):
    few(monkeypatch, MOST_PAGES=5, MOST_FIELDS=20, MOST_STRIPS=30)

    def found(count: int, more: int, strips: int) -> bool:
        return refused(pages(count, order, big, more, strips))

    assert [found(count, 0, 1) for count in (5, 6)] == [False, True]
    assert [found(2, more, 1) for more in (9, 10)] == [False, True]
    assert [found(2, 3, strips) for strips in (30, 31)] == [False, True]


@pytest.mark.parametrize("number", [1, 50])
def test_directories_in_a_circle_are_read_once(number):
    assert not refused(attack.looping_directories(number))


def animation(kind: str, frames: int) -> bytes:
    file = io.BytesIO()
    first, *others = [Image.new("RGB", (16, 16), (n, 255 - n, 9)) for n in range(frames)]
    first.save(file, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_a_frame_is_read_where_not_too_many_lie_under_it(kind):
    data, limits = animation(kind, FRAMES + 3), Limits(max_pixels=256)
    assert decode_photo(data, "x", limits=limits, frame=FRAMES + 1).size == (16, 16)
    with pytest.raises(InputError, match="pixels of other frames lie under frame 66; up to 16384 are read"):
        decode_photo(data, "x", limits=limits, frame=FRAMES + 2)


def test_pages_of_a_tiff_do_not_lie_over_one_another():
    limits = Limits(max_pixels=256)
    photo = decode_photo(animation("TIFF", FRAMES + 3), "x", limits=limits, frame=FRAMES + 3)
    assert round((photo.pixels[0, 0, 0] + 1) * 127.5) == FRAMES + 2


def test_coefficients_are_read_from_so_many_scans_of_a_colour():
    scans = read_jpeg(attack.slow_jpeg(16, MOST_OF_A_PART - 6), "x", 256)
    np.testing.assert_array_equal(scans.blocks[0], read_jpeg(attack.slow_jpeg(16, 0), "x", 256).blocks[0])
    with pytest.raises(InputError, match=f"x has more than 100 scans, or {MOST_OF_A_PART} of a colour"):
        read_jpeg(attack.slow_jpeg(16, MOST_OF_A_PART - 5), "x", 256)


def test_fill_bytes_are_looked_through_once():
    """A search that begins anew at each of them would not end while anybody waits."""
    whole = attack.saved("JPEG")
    with pytest.raises(InputError, match="broken"):
        read_jpeg(whole[:-9] + b"\xff" * (1 << 21) + b"\0" + whole[-9:-2], "x", 256)
