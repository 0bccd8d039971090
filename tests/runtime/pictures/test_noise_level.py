"""The noise of a picture, estimated."""

import numpy as np
import pytest
import pywt

from frugal_rt import InputError
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.images import Photo
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.pictures.noise_level import estimate_sigma

from .photos import RANDOM, SHAPE, photo


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


def test_a_padded_picture_s_noise_is_estimated_in_the_picture():
    noisy = Photo(np.float32(0.2 * np.random.default_rng(0).standard_normal((3, 40, 48))))
    job = prepare(noisy, (3, 64, 64), Damage(), "pad")
    assert job.sigma == pytest.approx(0.2, rel=0.1)
    assert "missing" not in job.because.replace("nothing is missing", "")


def test_noise_is_not_estimated_in_a_few_pixels():
    few = Photo(np.zeros((3, 3, 9), np.float32))
    with pytest.raises(InputError, match="9x3 cannot be estimated; say --sigma"):
        prepare(few, (3, 16, 16), Damage(task="denoise"), fit="pad")
    assert prepare(few, (3, 16, 16), Damage(task="denoise", sigma=0.1), fit="pad").sigma == 0.1
