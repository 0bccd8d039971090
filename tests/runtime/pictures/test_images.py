"""Pictures as users have them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from frugal_rt import InputError
from frugal_rt.runtime.evaluation.suite import scratches
from frugal_rt.runtime.pictures import decoding, images
from frugal_rt.runtime.pictures.images import (
    PORTRAIT,
    check_output,
    fit_photo,
    read_mask,
    read_photo,
    to_picture,
    write_png,
)

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def expected(levels: np.ndarray) -> np.ndarray:
    return (levels.transpose(2, 0, 1) if levels.ndim == 3 else levels[None]) / 127.5 - 1


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_colour_pictures(tmp_path, suffix):
    Image.fromarray(LEVELS).save(tmp_path / f"a.{suffix}", lossless=True)
    photo = read_photo(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(photo.pixels, expected(LEVELS), atol=1e-6)
    assert photo.missing is None
    assert photo.size == (8, 6)


@pytest.mark.skipif("AVIF" not in decoding.FORMATS, reason="this Pillow reads no AVIF")
def test_avif_is_read_by_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6), (200, 100, 50)).save(tmp_path / "a.avif", quality=100, exif=exif)
    photo = read_photo(tmp_path / "a.avif")
    assert photo.size == (6, 8)
    np.testing.assert_allclose(photo.pixels[:, 4, 3], np.array([200, 100, 50]) / 127.5 - 1, atol=0.05)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to view
    Image.fromarray(LEVELS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_photo(tmp_path / "a.png").pixels, expected(np.rot90(LEVELS, 3)), atol=1e-6)


def test_jpeg_with_exif_turns_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(LEVELS).save(tmp_path / "a.jpg", exif=exif)
    assert read_photo(tmp_path / "a.jpg").size == (6, 8)


def odd_exif(tag: int, kind: int, value: bytes) -> bytes:
    """An EXIF block of one little-endian field, of any type."""
    entry = struct.pack("<HHL", tag, kind, 1) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)


@pytest.mark.parametrize(
    ("exif", "note"),
    [
        (odd_exif(0x0112, 1, b"\x06"), "EXIF orientation"),
        (odd_exif(0x011A, 2, b"9\0"), "left out: XResolution"),
        (b"Exif\0\0hello, I am a sentence", "EXIF data"),
    ],
)
def test_odd_exif_is_left_out_of_a_sound_picture_and_told(tmp_path, exif, note):
    Image.fromarray(LEVELS).save(tmp_path / "plain.jpg")
    Image.fromarray(LEVELS).save(tmp_path / "a.jpg", exif=exif)
    photo = read_photo(tmp_path / "a.jpg")
    np.testing.assert_array_equal(photo.pixels, read_photo(tmp_path / "plain.jpg").pixels)
    assert photo.metadata.exif is None
    (said,) = photo.notes
    assert said.startswith("a.jpg")
    assert note in said


def test_sound_fields_of_odd_exif_are_kept(tmp_path):
    odd = odd_exif(0x011A, 2, b"9\0")
    two = odd[:14] + struct.pack("<H", 2) + struct.pack("<HHL4s", 0x0112, 3, 1, b"\x06") + odd[16:]
    Image.fromarray(LEVELS).save(tmp_path / "a.jpg", exif=two)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.size == (6, 8)
    assert "XResolution" in photo.notes[0]


@pytest.mark.parametrize("where", ["before", "after"])
def test_text_over_a_limit_is_left_out_of_a_sound_picture_and_told(tmp_path, where):
    info = PngInfo()
    info.add(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2 << 20)), after_idat=where == "after")
    info.add_text("Author", "me")
    Image.fromarray(LEVELS).save(tmp_path / "a.png", pnginfo=info)
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_allclose(photo.pixels, expected(LEVELS), atol=1e-6)
    assert photo.notes == ("a.png: text or a profile beside its pixels is too large or damaged, so it is left out",)


def test_a_damaged_chunk_of_text_is_left_out_and_one_of_pixels_is_not(tmp_path):
    info = PngInfo()
    info.add_text("Author", "me and you")
    Image.fromarray(LEVELS).save(tmp_path / "a.png", pnginfo=info)
    sound = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(sound.replace(b"me and you", b"me and now"))
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_allclose(photo.pixels, expected(LEVELS), atol=1e-6)
    assert "damaged" in photo.notes[0]
    at = sound.index(b"IDAT")
    (tmp_path / "a.png").write_bytes(sound[: at + 9] + bytes(3) + sound[at + 12 :])
    with pytest.raises(InputError, match="broken picture"):
        read_photo(tmp_path / "a.png")


def test_text_that_is_small_gives_no_note(tmp_path):
    write_png(tmp_path / "a.png", to_picture(expected(LEVELS)), {"seed": 1})
    assert read_photo(tmp_path / "a.png").notes == ()


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_frames_and_pages_behind_the_first_are_told(tmp_path, suffix):
    first, *more = (Image.fromarray(np.roll(LEVELS, shift, 0)) for shift in range(3))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=more, lossless=True)
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert photo.notes == (f"a.{suffix} holds 3 pictures (frames or pages); only the first is read",)
    if suffix != "gif":  # its palette rounds
        np.testing.assert_allclose(photo.pixels[:3], expected(LEVELS), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "F"])
def test_one_channel_pictures_stay_one_channel(tmp_path, mode):
    grey = LEVELS[:, :, 0]
    if mode == "1":
        grey = np.where(grey > 127, 255, 0).astype(np.uint8)
        Image.fromarray(grey).convert("1").save(tmp_path / "a.png")
    elif mode == "L":
        Image.fromarray(grey).save(tmp_path / "a.png")
    elif mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    else:
        Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "a.tiff")
    photo = read_photo(next(tmp_path.glob("a.*")))
    np.testing.assert_allclose(photo.pixels, expected(grey), atol=1e-5)


def test_palette_and_its_transparency(tmp_path):
    picture = Image.fromarray(LEVELS).quantize(7)
    picture.save(tmp_path / "a.gif", transparency=picture.getpixel((2, 1)))
    photo = read_photo(tmp_path / "a.gif")
    assert photo.pixels.shape == (3, 6, 8)
    assert photo.missing is not None
    assert photo.missing[1, 2]


def test_cmyk_becomes_colour(tmp_path):
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    pixels = read_photo(tmp_path / "a.jpg").pixels
    assert pixels[0].min() > 0.8
    assert pixels[1:].max() < -0.6


def inks_profile(cyan: float) -> bytes:
    """An ICC profile of CMYK by which paper is white, cyan is a grey of lightness L* = `cyan`, the rest black."""
    corners = np.zeros((16, 3))
    corners[:, 1:] = 128  # a* = b* = 0
    corners[0, 0], corners[8, 0] = 255, cyan * 2.55
    straight = struct.pack(">2H", 0, 65535)
    identity = struct.pack(">9l", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    table = b"mft2" + bytes(4) + bytes((4, 3, 2, 0)) + identity + struct.pack(">2H", 2, 2)
    table += 4 * straight + (corners * 256).astype(">u2").tobytes() + 3 * straight
    tags = struct.pack(">L4sLL", 1, b"A2B0", 144, len(table))
    head = struct.pack(">L4xL4s4s4s12x4s", 144 + len(table), 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp").ljust(
        68, b"\0"
    )
    white = struct.pack(">3L", 0xF6D6, 0x10000, 0xD32D)
    return (head + white).ljust(128, b"\0") + tags + table


@pytest.mark.parametrize(("lightness", "level"), [(50, 119), (80, 198)])  # sRGB of a grey of that L*, by CIE's formula
def test_inks_are_seen_by_their_profile(tmp_path, lightness, level):
    picture = Image.new("CMYK", (8, 6), (255, 0, 0, 0))
    picture.save(tmp_path / "a.tif", icc_profile=inks_profile(lightness))
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_allclose((photo.pixels + 1) * 127.5, level, atol=2)
    assert photo.notes == ()
    assert photo.metadata.icc_profile is None


def test_a_profile_of_inks_that_cannot_be_used_is_told(tmp_path):
    Image.new("CMYK", (8, 6), (255, 0, 0, 0)).save(tmp_path / "a.tif", icc_profile=inks_profile(50)[:150])
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels[:, 0, 0], [-1, 1, 1])
    assert photo.notes[0].startswith("a.tif: its colour profile cannot be used")


D50 = np.array([0.9642, 1.0, 0.8249])
PRIMARIES = {
    "sRGB": [[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.7141]],
    "Display P3": [[0.51512, 0.2412, -0.00105], [0.29198, 0.69225, 0.04189], [0.1571, 0.06657, 0.78407]],
    "Adobe RGB": [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]],
}
"""X, Y, Z of red, green and blue, adapted to D50."""


def rgb_profile(name: str) -> bytes:
    """An ICC profile of colours by three primaries and a gamma of 2.2."""
    text = name.encode() + b"\0"
    parts = {b"desc": b"desc" + bytes(4) + struct.pack(">L", len(text)) + text + bytes(78)}
    fixed = lambda xyz: struct.pack(">3l", *(round(65536 * value) for value in xyz))  # noqa: E731
    parts[b"wtpt"] = b"XYZ " + bytes(4) + fixed(D50)
    for letter, xyz in zip("rgb", PRIMARIES[name], strict=True):
        parts[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(xyz)
        parts[f"{letter}TRC".encode()] = b"curv" + bytes(4) + struct.pack(">LH", 1, 0x0233) + bytes(2)
    at, table, body = 128 + 4 + 12 * len(parts), struct.pack(">L", len(parts)), b""
    for tag, part in parts.items():
        table += tag + struct.pack(">LL", at + len(body), len(part))
        body += part.ljust(-(-len(part) // 4) * 4, b"\0")
    head = struct.pack(">L4xL4s4s4s12x4s", at + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp").ljust(
        68, b"\0"
    )
    return (head + fixed(D50)).ljust(128, b"\0") + table + body


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
def test_colours_of_a_wider_gamut_are_converted(tmp_path, name, mode):
    """By the matrices of the two spaces, and sRGB's own curve."""
    levels = np.random.default_rng(0).integers(60, 200, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(np.where(levels[:, :, 0] < 90, 0, 255).astype(np.uint8)))
    picture = picture.quantize(256) if mode == "P" else picture
    picture.save(tmp_path / "a.png", icc_profile=rgb_profile(name))
    photo = read_photo(tmp_path / "a.png")
    given = np.asarray(picture.convert("RGB")).reshape(-1, 3) / 255
    linear = given**2.19921875 @ np.array(PRIMARIES[name]) @ np.linalg.inv(PRIMARIES["sRGB"])
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055)
    known = np.ones((6, 8), bool) if photo.missing is None else ~photo.missing
    ours = (photo.pixels.transpose(1, 2, 0)[known] + 1) * 127.5
    np.testing.assert_allclose(ours, curved.clip(0, 1).reshape(6, 8, 3)[known] * 255, atol=2.5)
    assert np.abs(ours - given.reshape(6, 8, 3)[known] * 255).max() > 8
    assert photo.notes == (f"a.png: its colours are of the profile {name!r}, and are converted to sRGB",)
    assert photo.metadata.icc_profile is None
    assert (photo.missing is not None) == (mode == "RGBA")


def test_colours_that_are_srgb_s_stay_with_their_profile(tmp_path):
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), rgb_profile("sRGB")[:300]):
        Image.fromarray(LEVELS).save(tmp_path / "a.png", icc_profile=profile)
        photo = read_photo(tmp_path / "a.png")
        np.testing.assert_allclose((photo.pixels.transpose(1, 2, 0) + 1) * 127.5, LEVELS, atol=1e-4)
        assert photo.notes == ()
        assert photo.metadata.icc_profile == profile


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_without_its_end_is_read_if_all_its_pixels_are_there(tmp_path, subsampling):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(
        tmp_path / "a.jpg", subsampling=subsampling
    )
    whole, data = read_photo(tmp_path / "a.jpg"), (tmp_path / "a.jpg").read_bytes()
    assert data.endswith(b"\xff\xd9")
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    photo = read_photo(tmp_path / "a.jpg")
    np.testing.assert_array_equal(photo.pixels, whole.pixels)
    assert photo.notes == ("a.jpg ends without an end marker; all its pixels are there",)
    for lost in (12, 40, 400, len(data) // 2):
        (tmp_path / "a.jpg").write_bytes(data[:-lost])
        with pytest.raises(InputError, match="truncated"):
            read_photo(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_a_frame_is_read_by_its_number(tmp_path, suffix):
    pages = [Image.fromarray(np.full((6, 8, 3), level, np.uint8)) for level in (0, 100, 200)]
    path = tmp_path / f"a.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], **({"lossless": True} if suffix == "webp" else {}))
    for frame, level in ((1, 0), (2, 100), (3, 200)):
        photo = read_photo(path, frame=frame)
        np.testing.assert_allclose((photo.pixels + 1) * 127.5, level, atol=1e-3)
        assert photo.notes == ()
    with pytest.raises(InputError, match=rf"a\.{suffix} holds 3 pictures, not 4: --frame 1\.\.3"):
        read_photo(path, frame=4)
    pages[0].save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png holds 1 picture, not 2"):
        read_photo(tmp_path / "b.png", frame=2)


def test_a_large_page_behind_a_small_one_is_refused(tmp_path):
    pages = [Image.new("L", (4, 4)), Image.new("L", (40, 40))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    data = (tmp_path / "a.tif").read_bytes()
    assert decoding.decode_photo(data, "a.tif", limits=decoding.Limits(100)).size == (4, 4)
    with pytest.raises(InputError, match="has 1600 pixels; up to 100 are read"):
        decoding.decode_photo(data, "a.tif", limits=decoding.Limits(100), frame=2)


def test_what_a_mask_s_file_holds_is_told(tmp_path):
    pages = [Image.new("L", (4, 4), 255) for _ in range(2)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    told = []
    assert read_mask(tmp_path / "m.tif", told.append).all()
    assert told == ["m.tif holds 2 pictures (frames or pages); only the first is read"]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_missing(tmp_path, mode):
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[2:4, 3:5] = 0
    alpha[0, 0] = 127
    picture = Image.fromarray(LEVELS).convert(mode)
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert np.array_equal(photo.missing, alpha < 128)
    assert len(photo.pixels) == {"RGBA": 3, "LA": 1}[mode]


def test_an_opaque_alpha_channel_means_nothing(tmp_path):
    Image.fromarray(LEVELS).convert("RGBA").save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png").missing is None


def test_npy_measurements_are_not_rounded_and_nan_is_missing(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    array[:, 1, 2] = np.nan
    np.save(tmp_path / "a.npy", array)
    photo = read_photo(tmp_path / "a.npy")
    assert np.argwhere(photo.missing).tolist() == [[1, 2]]
    np.testing.assert_array_equal(photo.pixels[:, ~photo.missing], array[:, ~photo.missing])


def test_masks_are_true_where_white(tmp_path):
    Image.fromarray(np.array([[0, 127], [128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, False], [True, True]]


def soft_brush(radius: int, hardness: float) -> Image.Image:
    """A dab in the middle of 96x96 whose edge falls to black from `hardness` of its radius on."""
    away = np.hypot(*(place - 47.5 for place in np.mgrid[:96, :96]))
    return Image.fromarray((255 * np.clip((radius - away) / (radius * (1 - hardness)), 0, 1)).astype(np.uint8))


def saved_as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("grey", [False, True])
def test_a_photograph_is_no_mask(tmp_path, grey):
    image = Image.open(PORTRAIT).convert("L" if grey else "RGB")
    for name, quality in (("photo.png", {}), ("photo.jpg", {"quality": 30})):
        image.save(tmp_path / name, **quality)
        said = r"^photo\.\w+ looks like a photograph and no mask: 9\d% of its pixels .* or erase .* page of frugal-rt"
        with pytest.raises(InputError, match=said):
            read_mask(tmp_path / name)


@pytest.mark.parametrize(
    "mask",
    [
        lambda: soft_brush(48, 0.0),
        lambda: soft_brush(47, 0.5),
        lambda: saved_as_jpeg(soft_brush(30, 0.8), 10),
        lambda: Image.fromarray(scratches((3, 96, 96))).resize((64, 64), Image.Resampling.LANCZOS),
        lambda: saved_as_jpeg(Image.fromarray(np.random.default_rng(0).random((64, 64)) < 0.5).convert("L"), 30),
        lambda: Image.fromarray(np.where(np.eye(64, dtype=bool), 190, 60).astype(np.uint8)),
    ],
    ids=["soft", "softer edge", "JPEG of a brush", "anti-aliased", "JPEG of random pixels", "two greys"],
)
def test_soft_and_compressed_masks_are_read(tmp_path, mask):
    mask().convert("RGB").save(tmp_path / "m.png")
    assert 0 < read_mask(tmp_path / "m.png").mean() < 1


def save_rgba(path, colours: np.ndarray, opaque: np.ndarray, **more):
    Image.fromarray(np.dstack([colours, np.where(opaque, 255, 0).astype(np.uint8)]).astype(np.uint8)).save(path, **more)


def test_what_is_transparent_in_a_mask_of_strokes_is_not_marked(tmp_path):
    opaque = np.zeros((6, 8), bool)
    opaque[1:3, 2:5] = True
    save_rgba(tmp_path / "strokes.png", np.full((6, 8, 3), 255), opaque)
    assert np.array_equal(read_mask(tmp_path / "strokes.png"), opaque)
    black = np.where(np.arange(8) < 4, 0, 255) * np.ones((6, 1))
    save_rgba(tmp_path / "both.png", np.dstack([black] * 3), opaque)
    assert np.array_equal(read_mask(tmp_path / "both.png"), opaque & (black == 255))
    save_rgba(tmp_path / "nothing.png", np.full((6, 8, 3), 255), np.zeros((6, 8), bool))
    assert not read_mask(tmp_path / "nothing.png").any()


def test_a_photograph_with_a_hole_erased_marks_the_hole(tmp_path):
    hole = np.zeros((6, 8), bool)
    hole[2:4, 3:6] = True
    save_rgba(tmp_path / "hole.png", LEVELS, ~hole)
    assert np.array_equal(read_mask(tmp_path / "hole.png"), hole)


def test_a_mask_that_may_mean_strokes_or_holes_is_refused(tmp_path):
    save_rgba(tmp_path / "red.png", np.full((6, 8, 3), (255, 0, 0)), np.arange(48).reshape(6, 8) < 10)
    with pytest.raises(InputError, match=r"^red\.png: .* paint white what is missing, or erase .* frugal-rt serve$"):
        read_mask(tmp_path / "red.png")


def test_a_mask_lies_as_its_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    marked = np.arange(48).reshape(6, 8) < 10
    Image.fromarray(marked).convert("L").save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "m.png"), np.rot90(marked, 3))


def npy_header(shape: str, kind: str = "<f4") -> bytes:
    """The beginning of a .npy, right or not."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def save_npy(path, array):
    np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("a.png", lambda p: p.write_text("not a picture"), "not a picture this can read"),
        ("a.png", lambda p: p.write_bytes(b""), "not a picture"),
        ("a.png", lambda p: (Image.fromarray(LEVELS).save(p), p.write_bytes(p.read_bytes()[:60])), "broken picture"),
        ("a.png", lambda p: p.mkdir(), "is a folder"),
        ("a.png", lambda p: None, "there is no file"),
        ("a.svg", lambda p: p.write_text("<svg/>"), "not a picture"),
        ("a.npy", lambda p: p.write_text("no"), "not a .npy array"),
        ("a.npy", lambda p: save_npy(p, np.array([{}])), "not a .npy array"),
        ("a.npy", lambda p: p.write_bytes(npy_header("(3, 16")), "not a .npy array"),
        ("a.npy", lambda p: p.write_bytes(npy_header("(1.0, 4, 4)") + bytes(64)), "not a .npy array"),
        ("a.npy", lambda p: p.write_bytes(npy_header("(4, 4)", "|V2000000000")), "not a .npy array"),
        ("a.npy", lambda p: save_npy(p, np.zeros((2, 2, 2, 2))), "must be a real array"),
        ("a.npy", lambda p: save_npy(p, np.zeros((4, 4)) * 1j), "must be a real array"),
        ("a.npy", lambda p: save_npy(p, np.full((4, 4), 200.0)), r"on the \[-1, 1\] scale"),
        ("a.npy", lambda p: save_npy(p, np.full((4, 4), np.inf)), r"on the \[-1, 1\] scale"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, name, write, sentence):
    write(tmp_path / name)
    with pytest.raises(InputError, match=sentence):
        read_photo(tmp_path / name)


def test_limits_hold_before_decoding(tmp_path, monkeypatch):
    Image.fromarray(LEVELS).save(tmp_path / "a.png")
    monkeypatch.setattr(decoding, "WIDE", decoding.Limits(max_pixels=47))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"^a\.png has 48 pixels; up to 47"):
        read_photo(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(InputError, match=r"^a\.png has .* are read"):
        read_photo(tmp_path / "a.png")


def test_pictures_are_clipped_never_stretched():
    ramp = np.linspace(-0.5, 0.25, 48).reshape(1, 6, 8)
    levels = np.asarray(to_picture(ramp))
    np.testing.assert_array_equal(levels, np.round((ramp[0] + 1) * 127.5))
    assert np.asarray(to_picture(ramp * 100)).min() == 0


def test_missing_pixels_survive_a_round_trip(tmp_path):
    missing = np.zeros((6, 8), bool)
    missing[2, 3] = True
    write_png(tmp_path / "a.png", to_picture(expected(LEVELS), missing), {"seed": 1})
    photo = read_photo(tmp_path / "a.png")
    assert np.array_equal(photo.missing, missing)
    assert Image.open(tmp_path / "a.png").text["frugal-rt"] == '{"seed": 1}'


@pytest.mark.parametrize(
    ("how", "row", "missing"),
    [("crop", [2, 3, 4, 5], [True, False, False, False]), ("resize", [0.5, 2.5, 4.5, 6.5], [True, True, False, False])],
)
def test_fit(how, row, missing):
    photo = decoding.Photo(np.tile(np.arange(8.0), (3, 4, 1)), np.tile(np.arange(8) == 2, (4, 1)))
    fitted = fit_photo(photo, (4, 4), how)
    assert fitted.size == (4, 4)
    assert fitted.missing[1].tolist() == missing
    np.testing.assert_allclose(fitted.pixels[0, ~fitted.missing], np.tile(row, (4, 1))[~fitted.missing], atol=0.3)


def test_no_value_of_a_missing_pixel_gets_into_a_known_one():
    missing = np.zeros((32, 32), bool)
    missing[10:15, 7:19] = True
    photo = decoding.Photo(np.where(missing, 1e6, 0.5 * np.ones((3, 32, 32))), missing)
    fitted = fit_photo(photo, (13, 13), "resize")
    assert 0 < fitted.missing.mean() < 0.5
    assert np.abs(fitted.pixels[:, ~fitted.missing] - 0.5).max() < 1e-6


def test_names_of_outputs_may_be_of_any_bytes_and_as_long_as_a_file_system_takes(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    assert check_output(odd, force=False) == odd
    for stem in ("x" * 251, "\N{GRINNING FACE}" * 62):
        path = check_output(tmp_path / f"{stem}.png", force=False)
        write_png(path, to_picture(expected(LEVELS)))
        assert path.is_file()
    with pytest.raises(InputError, match="too long for a file"):
        check_output(tmp_path / f"{'x' * 252}.png", force=False)


def test_outputs_are_checked_before_work_is_done(tmp_path):
    (tmp_path / "taken.png").touch()
    for name, sentence in (("a.jpg", "must end in .png"), ("taken.png", "--force"), ("no/a.png", "does not exist")):
        with pytest.raises(InputError, match=sentence):
            check_output(tmp_path / name, force=False)
    assert check_output(tmp_path / "taken.png", force=True).name == "taken.png"


def test_what_lies_behind_a_png_is_not_searched_for_chunks(monkeypatch):
    """Twelve megabytes of nothing would be a million of them."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    calls = []

    class Counted(bytes):
        def __getitem__(self, key):
            calls.append(key)
            return bytes.__getitem__(self, key)

    data = Counted(file.getvalue() + bytes(1 << 20))
    assert decoding._without_odd_extras(data, "padded.png") == (data, [])
    assert len(calls) < 20
