"""Measurements of a clean picture."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from frugal_rt import InputError
from frugal_rt.runtime.pictures.damage import JPEG_SIGMA, Damage
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.measurement import own_size, prepare
from frugal_rt.runtime.pictures.simulate import compress, simulate

from .photos import HOLE, SHAPE, photo


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


@pytest.mark.parametrize("kernel", ["motion:5,30", "gaussian:1"])
def test_a_whole_photo_is_cut_to_what_a_valid_blur_measured(kernel):
    damage = Damage(task="deblur", kernel=kernel, border="valid", sigma=0.0)
    whole = photo()
    y, _, operator = simulate(whole, damage)
    assert y.shape == operator.measurement_shape < SHAPE
    assert np.array_equal(prepare(Photo(y), SHAPE, damage).y, y)
    blurred = simulate(whole, Damage(task="deblur", kernel=kernel, border="circular", sigma=0.0))[0]
    np.testing.assert_allclose(prepare(Photo(blurred), SHAPE, damage).y, y, atol=1e-5)


def test_sensing_measures_a_share_of_the_coefficients():
    y, _, operator = simulate(photo(), Damage(task="sense", fraction=0.25, sigma=0.0))
    assert y.shape == (3, 1, 64)
    job = prepare(Photo(y), SHAPE, Damage(fraction=0.25))
    assert (job.task, job.operator.settings) == ("sense", operator.settings)


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
        (Damage(task="denoise"), "--noise"),
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


@pytest.mark.parametrize("size", [(48, 32), (45, 27)])
@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_jpeg_is_measured_as_it_is_stored_and_shown_upright(turn, size):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).resize(size, 2)
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=60, exif=exif)
    upright = decode_photo(file.getvalue(), "a.jpg")
    sizing = own_size(upright, Damage(task="jpeg"), SHAPE, any_size=True)
    assert sizing.image_shape == (3, 32, 48)
    job = prepare(upright, sizing.image_shape, Damage(task="jpeg"))
    assert (job.task, job.sigma) == ("jpeg", JPEG_SIGMA)
    found = job.shown(np.clip(job.operator.decoded(job.y), -1, 1)[None])[0]
    assert found.shape == upright.pixels.shape
    assert np.abs(found - upright.pixels).mean() < 0.02


def test_a_grey_jpeg_is_restored_grey():
    grey = Photo(photo(32, 32).pixels[:1])
    file = decode_photo(compress(grey, Damage(task="jpeg", quality=50)), "a.jpg")
    job = prepare(file, (3, 32, 32), Damage(task="jpeg"))
    assert job.operator.measurement_shape == (192, 4, 4)
    assert job.shown(np.zeros((1, 3, 32, 32))).shape == (1, 1, 32, 32)


def test_a_compressed_photo_is_a_measurement_of_it():
    clean = photo(32, 32)
    file = decode_photo(compress(clean, Damage(task="jpeg", quality=20)), "a.jpg")
    job = prepare(file, (3, 32, 32), Damage(task="jpeg"))
    apart = job.operator.A(np.rint(127.5 * clean.pixels + 127.5)[None] / 127.5 - 1)[0] - job.y
    assert np.mean(np.abs(apart) > 0.5) < 0.01
    assert job.shown(np.zeros((3, 32, 32))).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Damage(task="jpeg"), "--quality, 1 to 100; got None"),
        (Damage(task="jpeg", quality=0), "got 0"),
        (Damage(task="jpeg", quality=50, sigma=0.1), "only noise is its rounding"),
        (Damage(task="jpeg", quality=50, scale=2), "--scale does not go with jpeg; one damage at a time: run it"),
    ],
)
def test_what_cannot_be_compressed_is_said(damage, said):
    with pytest.raises(InputError, match=said):
        compress(photo(32, 32), damage)


def test_what_is_no_jpeg_of_its_own_size_is_refused():
    damage = Damage(task="jpeg")
    with pytest.raises(InputError, match="this picture is none"):
        own_size(photo(32, 32), damage, SHAPE, any_size=True)
    file = decode_photo(compress(photo(32, 32), Damage(task="jpeg", quality=50)), "a.jpg")
    with pytest.raises(InputError, match="leave --fit out"):
        prepare(file, (3, 32, 32), damage, "crop")
    with pytest.raises(InputError, match="prior of any size"):
        own_size(file, damage, (3, 64, 64), any_size=False)
    with pytest.raises(InputError, match="at its own size"):
        prepare(file, (3, 64, 64), damage)
    with pytest.raises(InputError, match=r"must end in \.jpg"):
        simulate(photo(32, 32), Damage(task="jpeg", quality=50))
    with pytest.raises(InputError, match="loses no pixels"):
        prepare(replace(file, missing=np.eye(32) > 0), (3, 32, 32), damage)
