"""A user's meaning, from the picture and a few words."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from frugal_rt import InputError
from frugal_rt.runtime.operators import MaskedJpeg
from frugal_rt.runtime.operators.masks import border_mask, box_mask
from frugal_rt.runtime.pictures import measurement
from frugal_rt.runtime.pictures.damage import JPEG_SIGMA, Damage
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.jpeg import COARSE
from frugal_rt.runtime.pictures.measurement import (
    Measurement,
    own_size,
    prepare,
    told_by_file,
    whole_operator,
    without,
)
from frugal_rt.runtime.pictures.simulate import compress, simulate

from .photos import HOLE, SHAPE, photo, scene


@pytest.mark.parametrize(
    ("picture", "task", "because"),
    [
        (photo(4, 4), "sr", "4x4 is 1/4 of 16x16"),
        (photo(missing=HOLE), "inpaint", "9% of the pixels are missing"),
        (photo(channels=1), "denoise", "of 255; grey stays grey: --task colorize colours it"),
        (photo(), "denoise", "estimated"),
        (photo(4, 4, channels=1), "sr", "4x4 is 1/4"),
    ],
)
def test_the_task_is_read_off_the_picture(picture, task, because):
    job = prepare(picture, SHAPE, Damage())
    assert job.task == task
    assert because in job.because
    assert job.y.shape == job.operator.measurement_shape


def test_masks_and_transparency_add_up():
    other = border_mask(SHAPE, 14, 14)
    job = prepare(photo(missing=HOLE), SHAPE, Damage(mask=other))
    assert np.array_equal(job.operator.missing, HOLE | other)
    assert (job.y[:, HOLE | other] == 0).all()


def test_missing_pixels_of_a_small_or_a_grey_picture():
    spots = np.eye(4, dtype=bool)
    for picture, damage in ((photo(4, 4, missing=spots), Damage()), (photo(4, 4), Damage(scale=4, mask=spots))):
        job = prepare(picture, SHAPE, damage)
        assert (job.task, job.operator.settings["scale"], job.operator.settings["missing"]) == ("sr", 4, 4)
        assert "25% of the pixels are missing" in job.because
        assert (job.y[:, spots] == 0).all()
    job = prepare(photo(channels=1, missing=HOLE), SHAPE, Damage(task="colorize"))
    assert job.operator.name == "colorize"
    assert (job.y[:, HOLE] == 0).all()


def test_pixels_missing_after_a_blur_or_a_bicubic():
    for picture, damage in (
        (photo(), Damage(task="deblur", kernel="motion:5,30", border="circular", mask=HOLE)),
        (photo(missing=HOLE), Damage(kernel="gaussian:1")),
        (photo(4, 4), Damage(scale=4, filter="bicubic", mask=np.eye(4, dtype=bool))),
    ):
        job = prepare(picture, SHAPE, damage)
        assert np.array_equal(job.operator.missing, HOLE if job.task == "deblur" else np.eye(4, dtype=bool))
        assert (job.y[:, job.operator.missing] == 0).all()


def test_pictures_of_one_size_share_an_operator_and_what_is_missing_tells_them_apart(monkeypatch):
    damage, made = Damage(kernel="motion:5,30", border="circular"), {}
    first, again = (prepare(photo(), SHAPE, damage, made=made).operator for _ in range(2))
    assert first is again
    holed, other = (prepare(photo(missing=hole), SHAPE, damage, made=made).operator for hole in (HOLE, ~HOLE))
    assert np.array_equal(holed.missing, HOLE)
    assert np.array_equal(other.missing, ~HOLE)
    assert prepare(photo(missing=HOLE), SHAPE, damage, made=made).operator is holed
    assert prepare(photo(), SHAPE, damage).operator is not first
    alone = prepare(photo(4, 4), SHAPE, Damage(), made=made).operator
    assert alone.name == "sr"
    assert prepare(photo(), SHAPE, Damage(), made=made).operator.name == "denoise"
    for i in range(9):
        prepare(photo(missing=np.eye(16, k=i, dtype=bool)), SHAPE, Damage(), made=made)
    assert len(made) <= 4  # a picture each its own mask, and no more are kept


def test_what_the_operators_kept_for_the_next_picture_hold_is_bounded_in_bytes(monkeypatch):
    """Each is decomposed after it is made, as a restoration would; the last one stays whatever it holds."""
    monkeypatch.setattr(measurement, "KEPT_BYTES", 1 << 20)
    damage, made = Damage(kernel="motion:5,30"), {}
    for i in range(3):
        lost = photo(missing=np.eye(16, k=i, dtype=bool))
        operator = prepare(lost, SHAPE, damage, made=made).operator
        operator.prepare()
        assert operator.nbytes > 1 << 20
        assert any(one is operator for one in made.values())
        assert sum(one.nbytes for one in made.values() if one is not operator) <= 1 << 20


def test_a_tapered_photo_differs_at_its_edges_only():
    whole = photo()
    job = prepare(whole, SHAPE, Damage(kernel="motion:3", border="taper"))
    assert job.operator.settings["border"] == "taper"
    changed = np.abs(job.y - whole.pixels).max(axis=0) > 1e-6
    assert changed[:, [0, 1, 15]].any(axis=0).all()
    assert not changed[:, 3:-3].any()


def test_a_smaller_picture_is_outpainted_from_the_middle():
    small = photo(8, 6)
    job = prepare(small, SHAPE, Damage(task="outpaint"))
    assert np.array_equal(job.operator.missing, border_mask(SHAPE, 8, 6))
    np.testing.assert_array_equal(job.y[:, 5:11, 4:12], small.pixels)


def test_grey_and_colour_are_brought_to_what_the_task_measures():
    colour = photo()
    y = prepare(colour, SHAPE, Damage(task="colorize", grey="mean")).y
    np.testing.assert_allclose(y, colour.pixels.mean(0, keepdims=True), atol=1e-6)
    assert prepare(photo(channels=1), SHAPE, Damage(task="denoise")).y.shape == SHAPE
    assert prepare(photo(), (1, 16, 16), Damage(task="denoise")).y.shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("picture", "damage", "sentence"),
    [
        (photo(12, 13), Damage(), "12x13, and denoise as it is asked for starts from 16x16; .* --fit crop"),
        (photo(20, 30), Damage(), "20x30, and denoise as it is asked for starts from 16x16"),
        (photo(), Damage(task="sr", scale=4), "16x16, and sr as it is asked for starts from 4x4"),
        (photo(), Damage(task="sr"), "--scale"),
        (photo(), Damage(task="sr", scale=5), "x5 does not divide"),
        (photo(), Damage(task="inpaint"), "--mask"),
        (photo(), Damage(task="outpaint"), "smaller than 16x16, or .* --keep WIDTHxHEIGHT"),
        (photo(), Damage(task="deblur"), "--kernel gaussian:STD"),
        (photo(), Damage(kernel="disk:3"), "a kernel is gaussian:STD or gaussian:SX,SY"),
        (photo(), Damage(kernel="gaussian:wide"), "a kernel is gaussian:STD"),
        (photo(), Damage(kernel="motion:30"), "the kernel is 31x1, larger than the image, 16x16"),
        (photo(), Damage(kernel="motion:3,30", border="mirror"), "its own mirror image"),
        (photo(), Damage(kernel="motion:3", border="wall"), "no border 'wall'"),
        (photo(), Damage(task="matrix"), "--matrix A.npy"),
        (photo(), Damage(matrix=np.ones((5, 256))), "16x16, and matrix .* a .npy array of 5 values a channel, 1 x 5"),
        (photo(5, 1), Damage(matrix=np.ones((5, 9))), "the matrix is 5 x 9; for images of 16x16 it needs 256"),
        (photo(), Damage(border="mirror"), "--border does not go with denoise; it goes with deblur"),
        (
            photo(),
            Damage(kernel="motion:3", border="taper", mask=HOLE, task="deblur"),
            "tapered where pixels are missing",
        ),
        (photo(4, 4), Damage(scale=4, kernel="motion:3", filter="box"), "--filter and --kernel"),
        (photo(), Damage(mask=np.ones((3, 3), bool)), "the mask is 3x3 but the picture is 16x16"),
        (photo(), Damage(mask=np.zeros((16, 16), bool)), "marks nothing"),
        (photo(), Damage(hole=(16, 16)), "does not leave anything"),
        (photo(missing=np.ones((16, 16), bool)), Damage(), "every pixel is marked missing"),
        (photo(), Damage(kernel="gaussian:1", hole=(8, 8)), "--hole does not go with deblur; mark .* by --mask"),
        (
            photo(),
            Damage(task="colorize", kernel="gaussian:1"),
            "--kernel does not go with colorize; one damage at a time: run it for one, then on the result",
        ),
        (photo(), Damage(task="jpeg", scale=2), "restore the JPEG first, then its result with --scale 2"),
        (photo(4, 4), Damage(filter="lanczos"), "no filter 'lanczos'; choose one of box, bicubic"),
        (photo(), Damage(filter="bicubic"), "--filter does not go with denoise"),
        (photo(), Damage(task="denoise", scale=4), "--scale does not go with denoise; leave the task out: --noise"),
        (photo(), Damage(mask=HOLE, scale=4), "16x16, and sr as it is asked for starts from 4x4"),
        (photo(4, 4), Damage(mask=HOLE, scale=4), "the mask is 16x16 but the picture is 4x4"),
        (photo(), Damage(task="sense"), "--keep-fraction"),
        (photo(), Damage(fraction=0.5), "16x16, and sense .* a .npy array of 128 values a channel, 1 x 128"),
        (photo(), Damage(fraction=0.5, matrix=np.eye(256)), "--matrix does not go with sense; leave one"),
        (photo(), Damage(task="denoise", fraction=0.5), "--keep-fraction does not go with denoise"),
        (photo(missing=HOLE), Damage(task="denoise"), "transparent pixels, which denoise cannot use"),
    ],
)
def test_what_does_not_fit_is_refused(picture, damage, sentence):
    with pytest.raises(InputError, match=sentence):
        prepare(picture, SHAPE, damage)


@pytest.mark.parametrize("how", ["crop", "resize"])
def test_fit_brings_any_size_to_the_one_wanted(how):
    assert prepare(photo(40, 30), SHAPE, Damage(), how).y.shape == SHAPE
    assert prepare(photo(40, 30), SHAPE, Damage(task="sr", scale=4), how).y.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("picture", "damage"),
    [
        (photo(11, 13), Damage(sigma=0.2)),
        (photo(11, 13), Damage(hole=(4, 5))),
        (photo(11, 13), Damage(keep=(4, 5))),
        (photo(11, 13), Damage(task="colorize")),
        (photo(11, 13), Damage(kernel="gaussian:1")),
        (photo(11, 13), Damage(kernel="motion:3")),
        (photo(2, 3), Damage(scale=4)),
        (photo(2, 3), Damage(scale=4, filter="bicubic")),
    ],
)
def test_a_padded_picture_s_surroundings_are_not_measured(picture, damage):
    """The operator of the canvas is that of the whole, seen in the picture only, whatever the surroundings hold."""
    job = prepare(picture, SHAPE, damage, "pad")
    rows, columns = job.inside
    scale = damage.scale or 1
    assert (columns.stop - columns.start, rows.stop - rows.start) == tuple(scale * side for side in picture.size)
    seen = ~job.operator.missing
    if damage.hole or damage.keep:
        box = box_mask((3, *picture.pixels.shape[1:]), *(damage.hole or damage.keep))
        np.testing.assert_array_equal(seen[rows, columns], box if damage.keep else ~box)
    else:
        assert seen.sum() == picture.size[0] * picture.size[1]
        measured = slice(rows.start // scale, rows.stop // scale), slice(columns.start // scale, columns.stop // scale)
        assert seen[measured].all()
        if damage.task != "colorize":
            np.testing.assert_array_equal(job.y[(..., *measured)], picture.pixels)
    image = np.random.default_rng(0).uniform(-1, 1, (1, *SHAPE))
    task = "inpaint" if job.task == "denoise" else job.task
    expected = without(whole_operator(task, SHAPE, damage), task, damage, [~seen])
    np.testing.assert_allclose(job.operator.A(image), expected.A(image), atol=1e-6)
    assert not job.operator.A(image)[..., ~seen].any()


@pytest.mark.parametrize(
    ("picture", "damage", "sentence"),
    [
        (photo(20, 12), Damage(), "starts from 16x16; .*--fit crop"),
        (photo(12, 12), Damage(task="outpaint"), "leave --fit pad out"),
        (photo(12, 12), Damage(kernel="gaussian:1", border="valid"), "--border valid has no part in it"),
        (photo(12, 12, missing=HOLE[:12, :12]), Damage(task="denoise"), "transparent pixels, which denoise cannot use"),
        (photo(12, 12), Damage(matrix=np.ones((5, 256))), "a .npy array of 5 values"),
        (photo(12, 12), Damage(task="denoise", hole=(4, 4)), "--hole does not go with denoise"),
    ],
)
def test_what_cannot_be_padded_is_refused(picture, damage, sentence):
    with pytest.raises(InputError, match=sentence):
        prepare(picture, SHAPE, damage, "pad")


@pytest.mark.parametrize(
    ("picture", "damage", "fit", "shape", "brought"),
    [
        (photo(16, 16), Damage(), None, (16, 16), None),
        (photo(20, 30), Damage(), None, (30, 20), None),
        (photo(20, 30), Damage(), "crop", (16, 16), "crop"),
        (photo(12, 30), Damage(), None, (30, 16), "pad"),
        (photo(12, 13), Damage(), "pad", (16, 16), "pad"),
        (photo(4, 4), Damage(), None, (16, 16), None),
        (photo(4, 4), Damage(task="denoise"), None, (16, 16), "pad"),
        (photo(4, 4), Damage(task="sr"), None, (16, 16), None),
        (photo(5, 5), Damage(scale=3), None, (18, 18), "pad"),
        (photo(9, 5), Damage(scale=4), None, (20, 36), None),
        (photo(12, 12), Damage(task="outpaint"), None, (16, 16), None),
        (photo(8, 8), Damage(kernel="gaussian:1", border="valid"), None, (16, 16), None),
        (photo(20, 20), Damage(kernel="gaussian:1", border="valid"), None, (20, 20), None),
        (photo(16, 16), Damage(fraction=0.5), None, (16, 16), None),
    ],
)
def test_the_size_of_a_picture_for_a_prior_of_one_size(picture, damage, fit, shape, brought):
    """By hand: its own, padded or in tiles, unless the damage is about the prior's whole image."""
    sizing = own_size(picture, damage, SHAPE, False, fit)
    assert sizing[:2] == ((3, *shape), brought)
    if damage.is_picture:
        assert prepare(picture, sizing.image_shape, damage, sizing.fit).operator.image_shape == (3, *shape)


@pytest.mark.parametrize(
    ("picture", "damage"),
    [(photo(4, 4), Damage()), (photo(21, 3), Damage()), (photo(12, 12), Damage(kernel="gaussian:1", border="taper"))],
)
def test_the_size_of_a_picture_for_a_prior_of_any_size_is_its_own(picture, damage):
    for fit in (None, "pad"):
        assert own_size(picture, damage, SHAPE, True, fit) == ((3, *picture.size[::-1]), None, "")


def file_of(picture: Image.Image, **how) -> bytes:
    written = io.BytesIO()
    picture.save(written, "JPEG", **how)
    return written.getvalue()


UNTOLD = Damage()


def told(data: bytes, damage: Damage = UNTOLD, any_size: bool = True, fit: str | None = None) -> str | None:
    return told_by_file(decode_photo(data, "y.jpg"), damage, SHAPE, any_size, fit).task


@pytest.mark.parametrize(("quality", "task"), [(5, "jpeg"), (30, "jpeg"), (75, "jpeg"), (82, None), (95, None)])
def test_a_coarse_jpeg_tells_its_task(quality, task):
    data = file_of(scene(), quality=quality)
    assert told(data) == task
    photo = decode_photo(data, "y.jpg")
    assert (photo.jpeg.step >= COARSE) == (task == "jpeg")
    damage = told_by_file(photo, UNTOLD, SHAPE, any_size=True)
    job = prepare(photo, own_size(photo, damage, SHAPE, any_size=True).image_shape, damage)
    assert job.task == (task or "denoise")
    assert ("it was saved as a coarse JPEG; its tables have steps of" in job.because) == (task == "jpeg")
    assert job.is_clean == (task is None)


def test_what_is_said_or_seen_of_a_coarse_jpeg_goes_before_what_its_file_tells():
    data = file_of(scene(), quality=30)
    for damage in (Damage(task="denoise"), Damage(sigma=0.1), Damage(scale=2), Damage(hole=(3, 3))):
        assert told(data, damage) == damage.task
    assert told(data, fit="crop") is None
    assert told(data, any_size=False) is None
    assert told(file_of(scene().convert("L"), quality=30)) == "jpeg"
    assert told(file_of(scene().convert("CMYK"), quality=30)) is None
    noisy = np.asarray(scene()) + 25 * np.random.default_rng(0).standard_normal((150, 200, 3))
    assert told(file_of(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), quality=70)) is None


def job_of(data: bytes, damage: Damage, name: str = "y.jpg") -> Measurement:
    """The measurement of a picture by whoever takes pictures of any size."""
    picture = decode_photo(data, name)
    damage = told_by_file(picture, damage, SHAPE, any_size=True)
    return prepare(picture, own_size(picture, damage, SHAPE, any_size=True).image_shape, damage)


def corner(width: int, height: int) -> np.ndarray:
    """(H, W) bool: damage at the top right, to the picture's edge."""
    mask = np.zeros((height, width), bool)
    mask[2:9, -5:] = True
    return mask


@pytest.mark.parametrize("task", ["jpeg", None])
def test_a_mask_of_a_coarse_jpeg_is_filled_in_with_it(task):
    data, mask = file_of(scene(), quality=30), corner(200, 150)
    job = job_of(data, Damage(task=task, mask=mask))
    assert (job.task, job.sigma) == ("jpeg", JPEG_SIGMA)
    assert job.because.endswith("; 0% of the pixels are missing")
    assert ("as asked" in job.because) == (task == "jpeg")
    whole = job_of(data, Damage(task="jpeg"))
    assert isinstance(job.operator, MaskedJpeg)
    assert job.operator.inner.settings == whole.operator.settings
    np.testing.assert_array_equal(job.y, job.operator.undamaged(whole.y))
    hidden = job.operator.hidden
    assert hidden.shape == (160, 208)  # whole units, of which the picture's last pixels are repeated
    np.testing.assert_array_equal(hidden[job.inside], mask)
    assert hidden[2:9, 200:].all()
    assert hidden.sum() == 7 * 13
    # Where it is fine, or of a prior of one size, only what is missing is filled in.
    assert job_of(file_of(scene(), quality=95), Damage(mask=mask)).task == "inpaint"


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_mask_is_of_the_picture_as_it_is_seen_upright(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = file_of(scene(), quality=30, exif=exif)
    picture = decode_photo(data, "y.jpg")
    mask = corner(*picture.size)
    job = job_of(data, Damage(task="jpeg", mask=mask))
    hidden = job.operator.hidden[None].astype(np.float32)
    np.testing.assert_array_equal(job.shown(hidden)[0] > 0, mask)
    as_seen, as_stored = picture.pixels[:, mask].mean(), job_of(data, Damage(task="jpeg"))
    decoded = as_stored.operator.decoded(as_stored.y)[:, job.operator.hidden & _within(job)]
    assert decoded.mean() == pytest.approx(as_seen, abs=0.02)


def _within(job: Measurement) -> np.ndarray:
    """(H, W) bool of the units: the picture's own pixels."""
    own = np.zeros(job.operator.image_shape[1:], bool)
    own[job.inside] = True
    return own


def test_a_mask_goes_with_a_jpeg_that_was_saved_again():
    first, mask = file_of(scene(), quality=20), corner(200, 150)
    again = io.BytesIO()
    Image.open(io.BytesIO(first)).save(again, "PNG")
    jobs = [job_of(first, Damage(mask=mask)), job_of(again.getvalue(), Damage(mask=mask), "y.png")]
    assert [job.task for job in jobs] == ["jpeg", "jpeg"]
    assert jobs[0].operator.settings == jobs[1].operator.settings
    assert "of before it was saved again" in jobs[1].because
    assert np.mean(np.abs(jobs[0].y - jobs[1].y) > 0.5) < 0.005


def test_a_mask_that_does_not_fit_a_jpeg_is_refused():
    data = file_of(scene(), quality=30)
    for mask, said in (
        (np.eye(5) > 0, "the mask is 5x5 but the picture is 200x150"),
        (np.zeros((150, 200), bool), "the mask marks nothing"),
        (np.ones((150, 200), bool), "every pixel is marked missing"),
    ):
        for task in ("jpeg", None):
            with pytest.raises(InputError, match=said):
                job_of(data, Damage(task=task, mask=mask))
    with pytest.raises(InputError, match="--hole does not go with jpeg"):
        job_of(data, Damage(task="jpeg", hole=(4, 4)))
    with pytest.raises(InputError, match="none can be lost by --mask"):
        compress(photo(32, 32), Damage(task="jpeg", quality=50, mask=np.eye(32) > 0))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_picture_is_measured_in_colour_with_white_noise_and_given_back_grey(channels):
    """Its channels share their noise; of the measurement each has noise of its own, with the same sum."""
    noise = 0.2 * np.random.default_rng(1).standard_normal((1, 64, 64)).astype(np.float32)
    job = prepare(Photo(np.repeat(noise, channels, axis=0)), (3, 64, 64), Damage(task="denoise", sigma=0.2))
    assert job.sigma == pytest.approx(0.2 * 3**0.5)
    assert np.cov(job.y.reshape(3, -1)) == pytest.approx(0.12 * np.eye(3), abs=0.01)
    np.testing.assert_allclose(job.y.mean(axis=0), noise[0], atol=1e-6)
    images = np.random.default_rng(2).standard_normal((2, 3, 64, 64))
    shown = job.shown(images)
    assert shown.shape == (2, channels, 64, 64)
    np.testing.assert_allclose(shown[:, 0], images.mean(axis=1))
    np.testing.assert_array_equal(shown, np.repeat(shown[:, :1], channels, axis=1))


def test_a_grey_picture_is_as_it_was_where_nothing_is_known_of_its_noise_or_nothing_is_wrong():
    flat = Photo(np.full((1, 16, 16), 0.5, np.float32), np.eye(16, dtype=bool))
    filled = prepare(flat, SHAPE, Damage())
    assert (filled.task, filled.sigma, filled.grey.channels) == ("inpaint", 0.01, 1)
    assert set(np.unique(filled.y)) == {0, 0.5}
    clean = prepare(Photo(flat.pixels), SHAPE, Damage())
    assert clean.is_clean
    np.testing.assert_array_equal(clean.picture, flat.pixels)
    for coloured in (Damage(task="colorize"), Damage(grey="mean")):
        assert prepare(flat, SHAPE, coloured).grey is None


def test_what_is_erased_in_a_grey_picture_may_have_any_colour():
    pixels = np.full((3, 16, 16), 0.5, np.float32)
    pixels[0, HOLE] = 1
    assert Photo(pixels, HOLE).is_grey
    assert not Photo(pixels).is_grey


@pytest.mark.parametrize("task", ["inpaint", "deblur"])
def test_noise_that_would_stay_is_told_with_the_option_against_it(task):
    random = np.random.default_rng(3)
    noisy = Photo((0.118 * random.standard_normal((3, 64, 64))).astype(np.float32))
    hole = box_mask((3, 64, 64), 20, 20)
    damage = Damage(mask=hole) if task == "inpaint" else Damage(kernel="gaussian:1", mask=hole)
    said = prepare(noisy, (3, 64, 64), damage).because
    told = re.search(
        r"; sigma 0.010 assumed, while its noise seems to be (\d+) grey levels of 255: --noise \1 removes", said
    )
    assert int(told[1]) == pytest.approx(15, abs=1)
    clean = Photo(np.zeros((3, 64, 64), np.float32))
    assert "--noise" not in prepare(clean, (3, 64, 64), damage).because
    assert "--noise" not in prepare(noisy, (3, 64, 64), replace(damage, sigma=0.1)).because
    few = replace(damage, mask=np.arange(64)[:, None] % 2 == np.zeros(64))
    assert "--noise" not in prepare(noisy, (3, 64, 64), few).because


def test_a_photograph_that_is_padded_wraps_around_for_a_lopsided_kernel():
    damage = Damage(kernel="motion:5,30")
    for picture, fit, border in ((photo(), None, "valid"), (photo(12, 12), "pad", "circular")):
        assert prepare(picture, SHAPE, damage, fit).operator.settings["border"] == border


@pytest.mark.parametrize("kernel", ["gaussian:1", "motion:5,30", "uniform:5", np.ones((2, 3))])
def test_a_blurred_photograph_is_restored_with_its_surroundings_which_are_cut_off(kernel):
    """By a prior of any size: the middle of a blurred scene is what the scene measures, wherever the kernel's is."""
    scene, damage = photo(40, 36), Damage(kernel=kernel)
    blurred, _, whole = simulate(scene, replace(damage, border="valid", sigma=0.0))
    middle = Photo(blurred)
    for border in (None, "valid"):
        asked = replace(damage, border=border)
        sizing = own_size(middle, asked, SHAPE, any_size=True)
        job = prepare(middle, sizing.image_shape, asked, sizing.fit)
        assert (job.operator.image_shape, job.operator.settings["border"]) == (whole.image_shape, "valid")
        np.testing.assert_allclose(job.operator.A(scene.pixels[None])[0], job.y, atol=1e-5)
        assert job.shown(scene.pixels).shape == middle.pixels.shape
        seen = prepare(scene, scene.pixels.shape, Damage(kernel=kernel, border="circular")).operator
        np.testing.assert_allclose(job.shown(np.asarray(seen.A(scene.pixels[None])[0])), job.y, atol=1e-5)
    assert own_size(middle, replace(damage, border="circular"), SHAPE, any_size=True).image_shape == middle.pixels.shape


@pytest.mark.parametrize("scale", [2, 3])
def test_pixels_around_a_photograph_that_was_blurred_and_made_smaller_are_unmeasured(scale):
    scene, damage = photo(48, 48), Damage(kernel="motion:7,30", scale=scale)
    whole = whole_operator("sr", (3, 48, 48), damage)
    side, cut = 48 // scale, 5
    middle = Photo(np.asarray(whole.A(scene.pixels[None])[0])[:, cut : side - cut, cut : side - cut])
    sizing = own_size(middle, damage, SHAPE, any_size=True)
    job = prepare(middle, sizing.image_shape, damage, sizing.fit)
    top, left = ((48 - side) // 2 for side in sizing.image_shape[1:])
    around = scene.pixels[:, top : 48 - top, left : 48 - left]
    np.testing.assert_allclose(job.operator.A(around[None])[0], job.y, atol=1e-5)
    np.testing.assert_array_equal(
        job.shown(around), scene.pixels[:, cut * scale : 48 - cut * scale, cut * scale : -cut * scale]
    )
