"""Measurements of a clean picture."""

import numpy as np
import pytest

from frugal_rt import InputError
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.pictures.simulate import simulate

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
