"""Corners of TIFF and PNG, each read as an independent reader reads it, or refused in a sentence."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from frugal_rt import InputError
from frugal_rt.runtime.pictures.decoding import decode_photo, photo_of

SIDES = (6, 5)
TYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
PHOTOMETRIC = {"minisblack": 1, "miniswhite": 1, "rgb": 3}
EXTRA = (None, "unassalpha", "assocalpha", "unspecified")
PACKED = ({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True})
LAYOUTS = [
    {"byteorder": order, "tile": tile, "planarconfig": planes, **packed}
    for order, tile, planes, packed in itertools.product("<>", (None, (16, 16)), ("contig", "separate"), PACKED)
]
"""How the same values may lie in a file."""


def random_values(dtype, shape, seed=0):
    random, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return random.random(shape).astype(kind)
    if dtype == "bool":
        return random.random(shape) < 0.5
    return random.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)


def in_units(values):
    """Values on [0, 1], 1 being the largest that their type holds."""
    return values.astype(float) / (np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1)


def check(photo, colours, alpha, tolerance):
    """A photo against colours (H, W, C) and alpha (H, W) on [0, 1]; alpha below a half is missing."""
    seen = alpha >= 0.5
    missing = np.zeros(seen.shape, bool) if photo.missing is None else photo.missing
    np.testing.assert_array_equal(missing, ~seen)
    assert photo.pixels.shape == (colours.shape[2], *seen.shape)
    np.testing.assert_allclose(photo.pixels[:, seen], 2 * colours.transpose(2, 0, 1)[:, seen] - 1, atol=tolerance)


def tiff(values, photometric, extra, layout):
    """A TIFF of values (H, W, samples) by tifffile; None where it writes no such file, or does not read it."""
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile (it comes with scikit-image)")
    samples = values.shape[2]
    how = {**layout, "photometric": photometric, "extrasamples": None if extra is None else [extra]}
    if samples == 1:
        how.pop("planarconfig")
        laid = values[:, :, 0]
    else:
        laid = values.transpose(2, 0, 1) if layout["planarconfig"] == "separate" else values
    file = io.BytesIO()
    try:
        tifffile.imwrite(file, laid, **how)
        again = tifffile.imread(io.BytesIO(file.getvalue()))
    except (ValueError, KeyError, TypeError):
        return None
    return file.getvalue() if again.shape == laid.shape and np.array_equal(again, laid) else None


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize("photometric", PHOTOMETRIC)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_tiff_is_read_as_tifffile_reads_it_or_refused(dtype, photometric, extra):
    channels, read = PHOTOMETRIC[photometric], 0
    values = random_values(dtype, (*SIDES, channels + (extra is not None)))
    colours, alpha = in_units(values[:, :, :channels]), np.ones(SIDES)
    colours = 1 - colours if photometric == "miniswhite" else colours
    if extra in ("unassalpha", "assocalpha"):
        alpha = in_units(values[:, :, -1])
    if extra == "assocalpha":
        colours = (colours / np.maximum(alpha, 1e-9)[:, :, None]).clip(0, 1)
    exact = {("uint16", "rgb"): 2.1 / 255, ("float32", "minisblack"): 1e-6}.get((dtype, photometric), 1e-6)
    tolerance = 6 / 255 if extra == "assocalpha" else exact  # 8 bits, multiplied and divided again
    for layout in LAYOUTS:
        data = tiff(values, photometric, extra, layout)
        if data is None:
            continue
        try:
            photo = decode_photo(data, "a.tif")
        except InputError:
            continue
        check(photo, colours, alpha, tolerance)
        read += 1
    if (extra is None and dtype in ("uint8", "uint16")) or (dtype, photometric, extra) == (
        "float32",
        "minisblack",
        None,
    ):
        assert read > 3


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_signed_integers_are_refused_however_small(dtype):
    data = tiff(np.full((*SIDES, 1), 9, dtype), "minisblack", None, LAYOUTS[0])
    with pytest.raises(InputError, match=r"a\.tif holds signed integers, whose scale is not known; save it as 8 or 16"):
        decode_photo(data, "a.tif")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values, depth, kind, more=b"", palette=b""):
    """A PNG of samples (H, W, n) of `depth` bits, without filters, of a colour type; by hand."""
    height, width, _ = values.shape
    rows = []
    for row in values.reshape(height, -1):
        if depth == 16:
            body = row.astype(">u2").tobytes()
        elif depth == 8:
            body = row.astype(np.uint8).tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).reshape(-1)
            body = np.packbits(bits).tobytes()
        rows.append(b"\0" + body)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    parts = [chunk(b"PLTE", palette)] if palette else []
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(parts)
        + more
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )


KINDS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
"""PNG's colour types: samples of a pixel, and their depths."""


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(("kind", "depth"), [(kind, depth) for kind, (_, depths) in KINDS.items() for depth in depths])
def test_a_png_is_read_by_its_specification(kind, depth, keyed):
    samples, _ = KINDS[kind]
    values = np.random.default_rng(depth).integers(0, 1 << depth, (*SIDES, samples))
    alpha, more, palette = np.ones(SIDES), b"", b""
    colours = values[:, :, : samples - (kind in (4, 6))] / ((1 << depth) - 1)
    if kind in (4, 6):
        alpha = values[:, :, -1] / ((1 << depth) - 1)
    elif kind == 3:
        table = np.random.default_rng(9).integers(0, 256, (1 << depth, 3), dtype=np.uint8)
        palette, colours = table.tobytes(), table[values[:, :, 0]] / 255
        if keyed:
            clear = np.random.default_rng(8).integers(0, 256, 1 << depth, dtype=np.uint8)
            more, alpha = chunk(b"tRNS", clear.tobytes()), clear[values[:, :, 0]] / 255
    elif keyed:
        key = values[2, 3]
        more = chunk(b"tRNS", struct.pack(f">{samples}H", *key))
        alpha = 1.0 - (values == key).all(axis=2)
    photo = decode_photo(png(values, depth, kind, more, palette), "a.png")
    check(photo, colours, alpha, 2.1 / 255 if depth == 16 and kind != 0 else 1e-6)
    reduced = [note for note in photo.notes if "16 bits" in note]
    assert len(reduced) == (depth == 16 and kind != 0)


def test_associated_alpha_of_grey_and_colour_in_memory_too():
    for mode, plain in (("La", "LA"), ("RGBa", "RGBA")):
        picture = Image.fromarray(random_values("uint8", (*SIDES, len(plain)))).convert(plain)
        photo, expected = photo_of(picture.convert(mode)), photo_of(picture)
        np.testing.assert_array_equal(photo.missing, expected.missing)
        seen = ~expected.missing
        np.testing.assert_allclose(photo.pixels[:, seen], expected.pixels[:, seen], atol=6 / 255)
