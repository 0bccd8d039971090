"""The noise of a picture, estimated."""

import io

import numpy as np
import pytest
import pywt

from frugal_rt import InputError
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.images import read_photo, to_picture
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.pictures.noise_level import estimate_sigma

from .photos import RANDOM, SHAPE, photo


def test_sigma_is_as_told_else_assumed_else_estimated():
    assert prepare(photo(), SHAPE, Damage(hole=(4, 4), sigma=0.3)).sigma == 0.3
    assert prepare(photo(), SHAPE, Damage(hole=(4, 4))).sigma == 0.01
    flat = Photo(np.zeros(SHAPE, np.float32) + 0.2 * RANDOM.standard_normal(SHAPE).astype(np.float32))
    assert prepare(flat, SHAPE, Damage()).sigma == pytest.approx(0.2, rel=0.2)
    assert prepare(Photo(np.zeros(SHAPE, np.float32)), SHAPE, Damage()).sigma == 0.01


LEVELS = (5, 10, 25, 50)
"""Grey levels of 255."""


def textured(channels=3, side=96):
    """A photograph of the kind that misleads: grass, a wall and a face's edges, alike in all channels as light is."""
    random = np.random.default_rng(4)
    spectrum = np.fft.rfft2(random.standard_normal((side, side)))
    falls = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    light = np.fft.irfft2(spectrum / falls, (side, side))
    light += 2 * light.std() * (np.indices((side, side)).sum(0) // 12 % 2)
    light = 0.35 * (light - light.mean()) / light.std()
    light[: side // 3] *= 0.05  # the sky
    tint = np.array([1.0, 0.9, 0.7])[:channels, None, None]
    return tint * light + 0.02 * random.standard_normal((channels, 1, 1))


def eight_bits(pixels):
    return np.clip(np.round((pixels + 1) * 127.5), 0, 255) / 127.5 - 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_found_in_texture(channels, level):
    clean = textured(channels)
    noisy = eight_bits(clean + level / 127.5 * np.random.default_rng(1).standard_normal(clean.shape))
    assert 127.5 * estimate_sigma(noisy) == pytest.approx(level, rel=0.1)
    details = pywt.dwtn(clean + 0 * noisy, "db2", axes=(1, 2))["dd"]
    assert 127.5 * np.median(np.abs(details)) / 0.6745 > 3, "the texture must mislead an estimate by wavelets"


@pytest.mark.parametrize("channels", [1, 3])
def test_next_to_none_is_found_where_there_is_none(channels):
    assert 127.5 * estimate_sigma(eight_bits(textured(channels))) < 1.5


@pytest.mark.parametrize("shape", [(3, 9, 11), (1, 16, 16), (3, 4, 4), (3, 8, 200)])
def test_tiny_pictures_have_an_estimate_of_the_right_size(shape):
    noise = 0.2 * np.random.default_rng(2).standard_normal(shape)
    assert estimate_sigma(noise) == pytest.approx(0.2, rel=0.5)
    assert estimate_sigma(np.zeros(shape)) == 0


def test_large_pictures_are_read_by_some_of_their_patches():
    noise = 0.1 * np.random.default_rng(2).standard_normal((3, 900, 1100))
    assert estimate_sigma(noise.astype(np.float32)) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("level", [0, *LEVELS])
def test_the_bias_on_photographs_is_small(data, level):
    """Over report-20 at 8 bits: under a tenth from 5 grey levels on, under 1.5 levels on clean pictures."""
    folder = data / "photos" / "report-20"
    if not folder.is_dir():
        pytest.skip("the photographs are absent")
    clean = [read_photo(path).pixels for path in sorted(folder.glob("*.png"))]
    assert len(clean) == 20
    random = np.random.default_rng(0)
    found = [estimate_sigma(eight_bits(one + level / 127.5 * random.standard_normal(one.shape))) for one in clean]
    assert abs(127.5 * np.mean(found) - level) < (1.5 if level == 0 else 0.1 * level)


@pytest.mark.parametrize("quality", [95, 85])
@pytest.mark.parametrize("level", [10, 25, 50])
def test_noise_in_a_jpeg_is_found_in_its_lightness(quality, level):
    """Its colours are kept at half the resolution, so that they hold next to none of it."""
    random = np.random.default_rng(0)
    noisy = to_picture(textured(3) + np.float32(level / 127.5) * random.standard_normal((3, *textured(3).shape[1:])))
    file = io.BytesIO()
    noisy.save(file, "JPEG", quality=quality)
    pixels = decode_photo(file.getvalue(), "noisy.jpg").pixels
    assert 127.5 * estimate_sigma(pixels) == pytest.approx(level, rel=0.25)


def test_grey_stored_as_colour_is_read_as_grey():
    noisy = eight_bits(textured(1) + 0.1 * np.random.default_rng(0).standard_normal(textured(1).shape))
    assert estimate_sigma(np.repeat(noisy, 3, axis=0)) == estimate_sigma(noisy)


def test_a_padded_picture_s_noise_is_estimated_in_the_picture():
    noisy = Photo(np.float32(0.2 * np.random.default_rng(0).standard_normal((3, 40, 48))))
    job = prepare(noisy, (3, 64, 64), Damage(), "pad")
    assert job.sigma == pytest.approx(0.2, rel=0.1)
    assert "missing" not in job.because.replace("nothing is missing", "")


def test_noise_is_not_estimated_in_a_few_pixels():
    few = photo(9, 3)
    with pytest.raises(InputError, match="9x3 cannot be estimated; say --noise"):
        prepare(few, (3, 16, 16), Damage(task="denoise"), fit="pad")
    assert prepare(few, (3, 16, 16), Damage(task="denoise", sigma=0.1), fit="pad").sigma == 0.1
