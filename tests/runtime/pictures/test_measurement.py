"""What a user means, from the picture and a few words."""

import numpy as np
import pytest
import pywt

from frugal_rt import InputError
from frugal_rt.runtime.operators import Iterative, Matrix, dense
from frugal_rt.runtime.operators.masks import border_mask, box_mask
from frugal_rt.runtime.pictures.damage import Damage, parse_sigma, parse_size
from frugal_rt.runtime.pictures.images import Photo
from frugal_rt.runtime.pictures.measurement import prepare, whole_operator, without
from frugal_rt.runtime.pictures.noise_level import estimate_sigma
from frugal_rt.runtime.pictures.simulate import simulate

SHAPE = (3, 16, 16)
RANDOM = np.random.default_rng(0)


def photo(width=16, height=16, channels=3, missing=None) -> Photo:
    return Photo(RANDOM.uniform(-1, 1, (channels, height, width)).astype(np.float32), missing)


HOLE = box_mask(SHAPE, 4, 6)


@pytest.mark.parametrize(
    ("picture", "task", "because"),
    [
        (photo(4, 4), "sr", "4x4 is 1/4 of 16x16"),
        (photo(missing=HOLE), "inpaint", "9% of the pixels are missing"),
        (photo(channels=1), "colorize", "one channel"),
        (photo(), "denoise", "estimated"),
        (photo(4, 4, channels=1), "sr", "4x4 is 1/4"),
    ],
)
def test_the_task_is_read_off_the_picture(picture, task, because):
    job = prepare(picture, SHAPE, Damage())
    assert job.task == task
    assert because in job.because
    assert job.y.shape == job.operator.measurement_shape


@pytest.mark.parametrize(
    ("damage", "task"),
    [
        (Damage(mask=HOLE), "inpaint"),
        (Damage(hole=(4, 4)), "inpaint"),
        (Damage(keep=(8, 8)), "outpaint"),
        (Damage(kernel="gaussian:1.5"), "deblur"),
        (Damage(kernel="uniform:3"), "deblur"),
        (Damage(kernel="motion:5,20"), "deblur"),
        (Damage(kernel=np.ones((2, 3)), border="circular"), "deblur"),
        (Damage(task="colorize"), "colorize"),
    ],
)
def test_an_option_implies_its_task(damage, task):
    assert prepare(photo(), SHAPE, damage).task == task


def test_a_blur_takes_the_border_that_its_kernel_allows():
    borders = {
        "gaussian:1": "mirror",
        "uniform:3": "mirror",
        "gaussian:1,0.5": "mirror",
        "motion:5": "mirror",
        "motion:5,30": "circular",
        "gaussian:1,0.5,20": "circular",
    }
    for kernel, border in borders.items():
        assert prepare(photo(), SHAPE, Damage(kernel=kernel)).operator.settings["border"] == border
        circular = prepare(photo(), SHAPE, Damage(kernel=kernel, border="circular")).operator
        assert circular.settings["border"] == "circular"
    decimated = prepare(photo(4, 4), SHAPE, Damage(scale=4, kernel="gaussian:1.5"))
    assert (decimated.task, decimated.operator.settings["kernel"]) == ("sr", "13x13")


@pytest.mark.parametrize("columns", [256, 768])
def test_a_matrix_measures_each_channel_or_the_whole(columns):
    matrix = np.random.default_rng(0).normal(size=(10, columns))
    y, _, operator = simulate(photo(), Damage(task="matrix", matrix=matrix, sigma=0.0))
    assert y.shape == operator.measurement_shape == (3 if columns == 256 else 1, 1, 10)
    damage = Damage(matrix=matrix)
    assert not damage.is_picture
    job = prepare(Photo(y), SHAPE, damage)
    assert job.task == "matrix"
    assert np.array_equal(job.y, y)


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
        (photo(), Damage(task="deblur", kernel="motion:5,30", mask=HOLE)),
        (photo(missing=HOLE), Damage(kernel="gaussian:1")),
        (photo(4, 4), Damage(scale=4, filter="bicubic", mask=np.eye(4, dtype=bool))),
    ):
        job = prepare(picture, SHAPE, damage)
        assert np.array_equal(job.operator.missing, HOLE if job.task == "deblur" else np.eye(4, dtype=bool))
        assert (job.y[:, job.operator.missing] == 0).all()


@pytest.mark.parametrize(
    "damage",
    [
        Damage(task="deblur", kernel="motion:5,30", border="valid"),
        Damage(task="deblur", kernel="motion:5,30", border="valid", mask=HOLE),
        Damage(task="deblur", kernel="motion:5,30", mask=HOLE),
        Damage(task="deblur", kernel="gaussian:1", border="valid", mask=HOLE),
        Damage(task="sr", scale=4, filter="bicubic", mask=np.eye(4, dtype=bool)),
    ],
    ids=["valid", "valid, masked", "circular, masked", "separable valid, masked", "bicubic, masked"],
)
def test_what_is_too_large_for_a_matrix_is_the_same_operator_by_conjugate_gradients(damage, monkeypatch):
    picture = photo(4, 4) if damage.task == "sr" else photo()

    def made():
        return prepare(picture, SHAPE, damage)

    matrix = made()
    monkeypatch.setattr(dense, "MAX_DERIVED", 1000)
    iterated = made()
    assert isinstance(matrix.operator, Matrix)
    assert isinstance(iterated.operator, Iterative)
    np.testing.assert_array_equal(iterated.y, matrix.y)
    x = photo().pixels[None]
    np.testing.assert_allclose(iterated.operator.A(x), matrix.operator.A(x), atol=1e-6)
    assert iterated.operator.settings == matrix.operator.settings


def test_pictures_of_one_size_share_an_operator_and_what_is_missing_tells_them_apart(monkeypatch):
    damage, made = Damage(kernel="motion:5,30"), {}
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


@pytest.mark.parametrize("kernel", ["motion:5,30", "gaussian:1"])
def test_a_whole_photo_is_cut_to_what_a_valid_blur_measured(kernel):
    damage = Damage(task="deblur", kernel=kernel, border="valid", sigma=0.0)
    whole = photo()
    y, _, operator = simulate(whole, damage)
    assert y.shape == operator.measurement_shape < SHAPE
    assert np.array_equal(prepare(Photo(y), SHAPE, damage).y, y)
    blurred = simulate(whole, Damage(task="deblur", kernel=kernel, border="circular", sigma=0.0))[0]
    np.testing.assert_allclose(prepare(Photo(blurred), SHAPE, damage).y, y, atol=1e-5)


def test_a_tapered_photo_differs_at_its_edges_only():
    whole = photo()
    job = prepare(whole, SHAPE, Damage(kernel="motion:3", border="taper"))
    assert job.operator.settings["border"] == "taper"
    changed = np.abs(job.y - whole.pixels).max(axis=0) > 1e-6
    assert changed[:, [0, 1, 15]].any(axis=0).all()
    assert not changed[:, 3:-3].any()


def test_sensing_measures_a_share_of_the_coefficients():
    y, _, operator = simulate(photo(), Damage(task="sense", fraction=0.25, sigma=0.0))
    assert y.shape == (3, 1, 64)
    job = prepare(Photo(y), SHAPE, Damage(fraction=0.25))
    assert (job.task, job.operator.settings) == ("sense", operator.settings)


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


def test_sigma_is_as_told_else_assumed_else_estimated():
    assert prepare(photo(), SHAPE, Damage(hole=(4, 4), sigma=0.3)).sigma == 0.3
    assert prepare(photo(), SHAPE, Damage(hole=(4, 4))).sigma == 0.01
    flat = Photo(np.zeros(SHAPE, np.float32) + 0.2 * RANDOM.standard_normal(SHAPE).astype(np.float32))
    assert prepare(flat, SHAPE, Damage()).sigma == pytest.approx(0.2, rel=0.2)
    assert prepare(Photo(np.zeros(SHAPE, np.float32)), SHAPE, Damage()).sigma == 0.01


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_estimated_sigma_is_that_of_the_wavelet_details(sigma):
    smooth = np.outer(np.sin(np.linspace(0, 3, 64)), np.cos(np.linspace(0, 2, 64)))
    noisy = np.stack([smooth] * 3) + sigma * np.random.default_rng(1).standard_normal((3, 64, 64))
    details = pywt.dwtn(noisy, "db2", axes=(1, 2))["dd"]
    theirs = np.mean(np.median(np.abs(details), axis=(1, 2)) / 0.6745)
    assert estimate_sigma(noisy) == pytest.approx(theirs, rel=0.05)
    assert estimate_sigma(noisy) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize(("text", "sigma"), [("0.1", 0.1), ("13/255", 13 / 255), ("0", 0), ("2", 2), (" 1e-2 ", 0.01)])
def test_sigma_is_a_number_or_a_fraction(text, sigma):
    assert parse_sigma(text) == pytest.approx(sigma)


@pytest.mark.parametrize("text", ["3", "25", "-0.1", "nan", "inf", "1/0", "much", ""])
def test_other_sigmas_are_refused(text):
    with pytest.raises(InputError, match="sigma"):
        parse_sigma(text)


def test_sizes():
    assert parse_size("24x32") == (24, 32)
    assert parse_size("24") == (24, 24)
    for text in ("", "x", "24x", "0x4", "2x3x4", "-4x4"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(text)


@pytest.mark.parametrize(
    ("picture", "damage", "sentence"),
    [
        (photo(12, 13), Damage(), "12x13, and denoise .* or --fit pad, which restores it at its own size"),
        (photo(12, 30), Damage(), "12x30, and denoise .* --tile --fit pad, or --align a face"),
        (photo(20, 30), Damage(), "20x30, and denoise with this prior starts from 16x16; .* --fit crop"),
        (photo(), Damage(task="sr", scale=4), "16x16, and sr with this prior starts from 4x4"),
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
        (photo(), Damage(border="mirror"), "--border does not go with denoise"),
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
        (photo(), Damage(kernel="gaussian:1", hole=(8, 8)), "--hole does not go with deblur"),
        (photo(4, 4), Damage(filter="lanczos"), "no filter 'lanczos'; choose one of box, bicubic"),
        (photo(), Damage(filter="bicubic"), "--filter does not go with denoise"),
        (photo(), Damage(task="denoise", scale=4), "--scale does not go with denoise"),
        (photo(), Damage(mask=HOLE, scale=4), "16x16, and sr with this prior starts from 4x4"),
        (photo(4, 4), Damage(mask=HOLE, scale=4), "the mask is 16x16 but the picture is 4x4"),
        (photo(), Damage(task="sense"), "--keep-fraction"),
        (photo(), Damage(fraction=0.5), "16x16, and sense .* a .npy array of 128 values a channel, 1 x 128"),
        (photo(), Damage(fraction=0.5, matrix=np.eye(256)), "--matrix does not go with sense"),
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


def test_a_padded_picture_s_noise_is_estimated_in_the_picture():
    noisy = Photo(np.float32(0.2 * np.random.default_rng(0).standard_normal((3, 40, 48))))
    job = prepare(noisy, (3, 64, 64), Damage(), "pad")
    assert job.sigma == pytest.approx(0.2, rel=0.1)
    assert "missing" not in job.because.replace("nothing is missing", "")


@pytest.mark.parametrize(
    ("picture", "damage", "sentence"),
    [
        (photo(20, 12), Damage(), "starts from 16x16; .*--tile"),
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


def test_simulated_measurements_are_the_operator_s_with_keyed_noise():
    clean = photo(20, 12)
    y, missing, operator = simulate(clean, Damage(task="sr", scale=4, sigma=0.1), seed=5)
    assert y.shape == (3, 3, 5)
    assert missing is None
    noise = (y - operator.A(clean.pixels[None])[0]) / 0.1
    assert 0.5 < noise.std() < 1.5
    assert np.array_equal(y, simulate(clean, Damage(task="sr", scale=4, sigma=0.1), seed=5)[0])
    assert not np.array_equal(y, simulate(clean, Damage(task="sr", scale=4, sigma=0.1), seed=6)[0])


def test_random_masks_lose_their_share():
    for damage, size in ((Damage(task="inpaint", share=0.7), 64), (Damage(task="sr", scale=2, share=0.7), 32)):
        _, missing, _ = simulate(photo(64, 64), damage, seed=1)
        assert missing.shape == (size, size)
        assert missing.mean() == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Damage(), "--task"),
        (Damage(task="denoise"), "--sigma"),
        (Damage(task="deblur", kernel="motion:3", border="taper"), "--border taper is for restoring"),
        (Damage(task="inpaint", share=1.5), "between 0 and 1"),
        (Damage(task="denoise", sigma=0.1, share=0.5), "--random does not go with denoise"),
        (Damage(task="sharpen"), "no task 'sharpen'; choose one of denoise, inpaint"),
        (Damage(task="inpaint"), "--mask MASK.png"),
        (Damage(task="outpaint"), "--keep WIDTHxHEIGHT"),
        (Damage(task="sr", scale=4, mask=HOLE), "the mask is 16x16 but the image is 4x4; make them equal"),
        (Damage(task="sr", scale=4, mask=HOLE, share=0.5), "the mask is 16x16 but the image is 4x4; make them equal"),
    ],
)
def test_simulating_needs_to_know_what(damage, sentence):
    with pytest.raises(InputError, match=sentence):
        simulate(photo(), damage)


def test_noise_is_not_estimated_in_a_few_pixels():
    few = Photo(np.zeros((3, 3, 9), np.float32))
    with pytest.raises(InputError, match="9x3 cannot be estimated; say --sigma"):
        prepare(few, (3, 16, 16), Damage(task="denoise"), fit="pad")
    assert prepare(few, (3, 16, 16), Damage(task="denoise", sigma=0.1), fit="pad").sigma == 0.1
