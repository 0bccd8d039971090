"""Plain methods do what their names say."""

import sys

import numpy as np
import pytest

from frugal_rt import MissingExtra
from frugal_rt.runtime.evaluation import demo, plain


@pytest.fixture
def ramp() -> np.ndarray:
    rows, columns = np.mgrid[:48, :48] / 24 - 1
    return np.stack([rows, columns, rows * columns]).astype(np.float32)


def test_noise_shrinks(ramp):
    noisy = ramp + 0.2 * np.random.default_rng(0).standard_normal(ramp.shape, dtype=np.float32)
    found = plain.non_local_means(noisy, 0.2)
    assert np.abs(found - ramp).mean() < 0.6 * np.abs(noisy - ramp).mean()


def test_missing_pixels_are_filled_in_smoothly_and_the_others_kept(ramp):
    missing = np.zeros((48, 48), bool)
    missing[20:26, 10:30] = True
    found = plain.biharmonic(np.where(missing, np.float32(7), ramp), missing)
    np.testing.assert_allclose(found, ramp, atol=0.02)
    np.testing.assert_array_equal(found[:, ~missing], ramp[:, ~missing])


def test_a_mean_over_blocks_is_enlarged(ramp):
    small = ramp.reshape(3, 24, 2, 24, 2).mean((2, 4))
    found = plain.lanczos(small, 2)
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], ramp[:, 4:-4, 4:-4], atol=0.02)


def test_the_extra_is_named(monkeypatch, ramp):
    for name in ("skimage.restoration", "skimage.data"):
        monkeypatch.setitem(sys.modules, name, None)
    for asked in (lambda: plain.non_local_means(ramp, 0.2), demo.photograph):
        with pytest.raises(MissingExtra, match="eval"):
            asked()


def test_scratches_cross_the_image_and_leave_most_of_it():
    mask = demo.scratches((3, 100, 200))
    assert mask.shape == (100, 200)
    assert 0.05 < mask.mean() < 0.5
