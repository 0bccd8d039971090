"""Restored pictures in every format: their pixels, what they carry, and what a format has no room for."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin

from frugal_rt.engines import InputError
from frugal_rt.runtime.pictures.decoding import Metadata
from frugal_rt.runtime.pictures.formats import MAX_PACKET, PACKET, encode_picture, read_settings, write_picture

SETTINGS = {"steps": 50, "text": 'a <b> & "c" \u00e9\u2028', "sigma": 0.1}
EXIF_DIRECTORY, GPS, USER_COMMENT, DESCRIPTION = 0x8769, 0x8825, 0x9286, 0x010E
LOSSLESS = ("x.png", "x.webp", "x.tif", "x.TIFF")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def photographed() -> bytes:
    """EXIF as a camera writes it, with directories for its settings and for the place."""
    exif = Image.Exif()
    exif[DESCRIPTION], exif[0x010F] = "the view", "Camera & Co"
    exif.get_ifd(EXIF_DIRECTORY)[USER_COMMENT] = b"ASCII\0\0\0mine"
    exif.get_ifd(EXIF_DIRECTORY)[0x829A] = 0.008
    exif.get_ifd(GPS)[1] = "N"
    return exif.tobytes()


@pytest.mark.parametrize("name", [*LOSSLESS, "x.jpg", "x.jpeg"])
@pytest.mark.parametrize("shape", [(33, 1300, 3), (40, 21), (9, 7, 4)])
def test_a_picture_keeps_its_pixels_and_carries_its_settings(tmp_path, name, shape):
    given = picture(*shape)
    write_picture(tmp_path / name, given, SETTINGS)
    with Image.open(tmp_path / name) as written:
        grey = written.mode == "L"
        pixels = np.asarray(written)
    assert grey == (len(shape) == 2 and name != "x.webp")
    if name in LOSSLESS:
        expected = np.asarray(given.convert("RGB") if len(shape) == 2 and name == "x.webp" else given)
        np.testing.assert_array_equal(pixels, expected)
    assert read_settings(tmp_path / name) == SETTINGS
    write_picture(tmp_path / name, given)
    assert read_settings(tmp_path / name) is None


def test_a_jpeg_is_near_its_picture_in_colour_too():
    smooth = picture(6, 6, 3).resize((48, 48), Image.Resampling.BICUBIC)
    with Image.open(io.BytesIO(encode_picture("x.jpg", smooth))) as written:
        assert JpegImagePlugin.get_sampling(written) == 0  # 4:4:4
        assert np.abs(np.asarray(written, float) - np.asarray(smooth)).mean() < 2


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tif"])
def test_the_photograph_s_exif_and_profile_stay_beside_the_settings(tmp_path, name):
    metadata = Metadata(icc_profile=SRGB, exif=photographed())
    write_picture(tmp_path / name, picture(20, 30, 3), SETTINGS, metadata)
    with Image.open(tmp_path / name) as written:
        exif = written.getexif()
        assert (exif[DESCRIPTION], exif[0x010F]) == ("the view", "Camera & Co")
        assert exif.get_ifd(EXIF_DIRECTORY)[USER_COMMENT] == b"ASCII\0\0\0mine"
        assert float(exif.get_ifd(EXIF_DIRECTORY)[0x829A]) == pytest.approx(0.008)
        assert exif.get_ifd(GPS)[1] == "N"
        assert written.info["icc_profile"] == SRGB
    assert read_settings(tmp_path / name) == SETTINGS
    write_picture(tmp_path / name, picture(20, 30), SETTINGS, metadata)
    with Image.open(tmp_path / name) as written:
        assert ("icc_profile" in written.info) == (name == "x.webp")  # three channels, which it has no other of


def test_exif_that_says_how_pixels_lay_is_not_taken_over(tmp_path):
    exif = Image.Exif()
    exif[0x0131] = "an editor"
    exif[0x0100], exif[0x0103], exif[0x0106], exif[0x013D], exif[0x0142] = 99, 5, 5, 1, 64
    given = picture(8, 9, 3)
    write_picture(tmp_path / "x.tif", given, SETTINGS, Metadata(exif=exif.tobytes()))
    with Image.open(tmp_path / "x.tif") as written:
        np.testing.assert_array_equal(np.asarray(written), np.asarray(given))
        assert written.getexif()[0x0131] == "an editor"


def test_what_a_format_has_no_room_for():
    with pytest.raises(InputError, match=r"x\.webp: a WEBP has sides of up to 16383 pixels; write a \.png or \.tif"):
        encode_picture("x.webp", Image.new("L", (16384, 1)))
    with pytest.raises(InputError, match=r"x\.jpg: XMP data is too long; write a \.png or \.tif"):
        encode_picture("x.jpg", picture(8, 8, 3), {"text": "x" * 70_000})
    exif = Image.Exif()
    exif[DESCRIPTION] = "x" * 70_000
    with Image.open(io.BytesIO(encode_picture("x.jpg", picture(8, 8), None, Metadata(exif=exif.tobytes())))) as written:
        assert not written.getexif()


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.tif"])
def test_settings_are_read_within_bounds_and_without_trust(tmp_path, name):
    write_picture(tmp_path / name, picture(8, 8, 3), [1, 2])
    assert read_settings(tmp_path / name) is None
    if name != "x.jpg":  # whose packets are small
        write_picture(tmp_path / name, picture(8, 8, 3), {"text": "x" * (MAX_PACKET - len(PACKET))})
        assert read_settings(tmp_path / name) is None
    for data in (encode_picture("x.png", picture(8, 8, 3), SETTINGS), b"", encode_picture(name, picture(8, 8))[:20]):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="holds no options of a restoration"):
            read_settings(tmp_path / name)


def test_a_picture_that_says_it_is_huge_and_settings_nested_without_end_are_one_sentence(tmp_path):
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "TIFF")
    huge = bytearray(file.getvalue())
    for tag in (256, 257):
        entry = huge.index(tag.to_bytes(2, "little") + b"\x04\0\x01\0\0\0")
        huge[entry + 8 : entry + 12] = (60_000).to_bytes(4, "little")
    (tmp_path / "x.tif").write_bytes(huge)
    with pytest.raises(InputError, match="decompression bomb"):
        read_settings(tmp_path / "x.tif")
    text = '{"text": "' + "@" * 40_000 + '"}'
    nested = encode_picture("x.tif", picture(8, 8), {"text": "@" * 40_000})
    (tmp_path / "x.tif").write_bytes(nested.replace(text.encode(), b"[" * len(text)))
    with pytest.raises(InputError, match="recursion"):
        read_settings(tmp_path / "x.tif")
