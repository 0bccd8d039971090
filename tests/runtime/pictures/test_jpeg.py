"""A JPEG's own coefficients, against Pillow, which writes and decodes the files, and jpeglib where it is installed."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import scipy.fft
from PIL import Image

from frugal_rt import InputError
from frugal_rt.runtime.pictures.images import PORTRAIT
from frugal_rt.runtime.pictures.jpeg import ZIGZAG, JpegFile, read_jpeg

MOST = 1 << 20
SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
SIZES = [(64, 64), (45, 27), (17, 33), (1, 1)]


def picture(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    with Image.open(PORTRAIT) as portrait:
        return portrait.convert(mode).resize(size)


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def padded(image: Image.Image, file: JpegFile) -> np.ndarray:
    """(1, C, H, W) on [-1, 1], to whole units as libjpeg does: by its last row and column."""
    x = np.atleast_3d(np.asarray(image, np.float64)).transpose(2, 0, 1) / 127.5 - 1
    _, height, width = file.operator(len(x)).image_shape
    return np.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2])), "edge")[None]


def same(left: JpegFile, right: JpegFile) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left.blocks, right.blocks, strict=True))


@pytest.mark.parametrize("sampling", SUBSAMPLING)
@pytest.mark.parametrize("quality", [10, 30, 75])
def test_coefficients_are_the_operator_s_of_the_picture_rounded(sampling, quality):
    """libjpeg rounds levels, means and cosines on the way: a few in a hundred fall to the other side of a half."""
    image = picture()
    file = read_jpeg(encoded(image, quality=quality, subsampling=SUBSAMPLING[sampling]), "a.jpg", MOST)
    operator = file.operator()
    apart = np.abs(operator.A(padded(image, file))[0] - file.measurement(operator))
    assert apart.max() < 0.7
    assert np.mean(apart > 0.5) < 0.02
    assert not np.allclose(file.measurement(operator), 0, atol=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("sampling", SUBSAMPLING)
def test_pictures_of_any_size_fill_whole_units_with_their_border(sampling, size):
    image = picture(size)
    file = read_jpeg(encoded(image, quality=30, subsampling=SUBSAMPLING[sampling]), "a.jpg", MOST)
    assert file.size == size
    operator = file.operator()
    found, expected = (operator.blocks(y) for y in (file.measurement(operator), operator.A(padded(image, file))[0]))
    for ours, theirs, one in zip(found, expected, file.components, strict=True):
        rows, columns = -(-size[1] * one.down // operator.unit[0]), -(-size[0] * one.across // operator.unit[1])
        assert np.abs(ours - theirs)[:rows, :columns].max() < 0.7  # blocks beyond are DC alone


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("sampling", SUBSAMPLING)
def test_a_file_of_scans_and_restarts_holds_the_coefficients_of_a_plain_one(sampling, size):
    image, how = picture(size), {"quality": 85, "subsampling": SUBSAMPLING[sampling]}
    plain = read_jpeg(encoded(image, **how), "a.jpg", MOST)
    for more in ({"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}):
        assert same(read_jpeg(encoded(image, **how, **more), "b.jpg", MOST), plain)
    both = encoded(image, **how, progressive=True, restart_marker_rows=1)
    assert same(read_jpeg(both, "b.jpg", MOST), plain)


@pytest.mark.parametrize("kind", ["RGB", "L"])
def test_blocks_transformed_back_are_what_pillow_decodes(kind):
    data = encoded(picture(mode=kind), quality=50, subsampling=0)
    file = read_jpeg(data, "a.jpg", MOST)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("YCbCr" if kind == "RGB" else "L", image.size)
        decoded = np.atleast_3d(np.asarray(image, np.float64))
    for number, (blocks, one) in enumerate(zip(file.blocks, file.components, strict=True)):
        levels = scipy.fft.idctn(blocks * one.table.astype(np.float64), axes=(2, 3), norm="ortho") + 128
        levels = levels.transpose(0, 2, 1, 3).reshape(64, 64).clip(0, 255)
        assert np.abs(levels - decoded[:, :, number]).max() <= 1


def test_tables_are_the_file_s_in_pillow_s_order():
    data = encoded(picture(), quality=37)
    with Image.open(io.BytesIO(data)) as image:
        tables = image.quantization
    file = read_jpeg(data, "a.jpg", MOST)
    assert [one.table.reshape(-1).tolist() for one in file.components] == [[*tables[i]] for i in (0, 1, 1)]
    assert ZIGZAG[:10].tolist() == [0, 1, 5, 6, 14, 15, 27, 28, 2, 4]


def test_colour_is_told_as_libjpeg_tells_it():
    assert read_jpeg(encoded(picture()), "a.jpg", MOST).colour == "ycbcr"
    image = picture()
    file = read_jpeg(encoded(image, keep_rgb=True, quality=60), "a.jpg", MOST)
    assert file.colour == "plain"
    apart = file.operator().A(padded(image, file))[0] - file.measurement(file.operator())
    assert np.abs(apart).max() < 0.7


def test_a_grey_file_is_lightness_and_its_colours_are_0():
    image = picture(mode="L")
    file = read_jpeg(encoded(image, quality=20), "a.jpg", MOST)
    assert file.operator(1).measurement_shape == (64, 8, 8)
    y = file.measurement(file.operator(3))
    assert np.array_equal(y[:64], file.measurement(file.operator(1)))
    assert not y[64:].any()
    grey = np.repeat(padded(image, file), 3, axis=1)
    assert np.abs(file.operator(3).A(grey)[0] - y).max() < 0.7
    assert np.abs(file.operator(1).A(padded(image, file))[0] - y[:64]).max() < 0.7


def test_a_grey_file_s_sampling_factors_mean_nothing():
    data = encoded(picture((40, 24), mode="L"))
    frame = data.index(b"\xff\xc0") + 11
    twice = data[:frame] + b"\x22" + data[frame + 1 :]
    assert same(read_jpeg(twice, "a.jpg", MOST), read_jpeg(data, "a.jpg", MOST))


def with_frame(data: bytes, marker: int, bits: int = 8) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 1] + bytes([marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(picture(mode="CMYK")), "is CMYK"),
        (with_frame(encoded(picture()), 0xC9), "arithmetic-coded"),
        (with_frame(encoded(picture()), 0xC3), "lossless"),
        (with_frame(encoded(picture()), 0xC1, 12), "12 bits"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no JPEG file"),
        (encoded(picture())[:900], "broken"),
        (encoded(picture())[:-40], "broken"),
        (b"\xff\xd8\xff", "broken"),
    ],
    ids=["CMYK", "arithmetic", "lossless", "12 bits", "PNG", "cut", "cut at its end", "head"],
)
def test_what_is_not_read_is_said_in_a_sentence(data, said):
    with pytest.raises(InputError, match=said):
        read_jpeg(data, "a.jpg", MOST)


def test_a_limit_holds_before_anything_is_decoded():
    with pytest.raises(InputError, match="4096 pixels; up to 4095"):
        read_jpeg(encoded(picture()), "a.jpg", max_pixels=4095)


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_blocks": 1}], ids=str)
def test_a_damaged_file_is_read_or_refused(how):
    data, rng = encoded(picture((24, 24)), **how), np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(2, len(data), 3):
            broken[at] = rng.integers(256)
        with contextlib.suppress(InputError):  # anything else fails the test
            read_jpeg(bytes(broken), "a.jpg", max_pixels=1 << 16)


def test_coefficients_are_jpeglib_s(tmp_path):
    jpeglib = pytest.importorskip("jpeglib", reason="the reader of the Independent JPEG Group's library")
    for progressive in (False, True):
        path = tmp_path / f"{progressive}.jpg"
        path.write_bytes(encoded(picture((45, 27)), quality=80, progressive=progressive))
        theirs, ours = jpeglib.read_dct(str(path)), read_jpeg(path.read_bytes(), path.name, MOST)
        for component, blocks in zip((theirs.Y, theirs.Cb, theirs.Cr), ours.blocks, strict=True):
            rows, columns = component.shape[:2]
            assert np.array_equal(blocks[:rows, :columns], component)
