"""Plain methods do what their names say."""

import sys
import types

import numpy as np
import pytest

from frugal_rt import MissingExtra
from frugal_rt.runtime.evaluation import demo, plain
from frugal_rt.runtime.operators import Circular, Deblur, Mirrored, gaussian_kernel, motion_kernel


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


@pytest.mark.parametrize(
    "operator",
    [
        Deblur.gaussian((3, 48, 48), 1.5),
        Mirrored((3, 48, 48), gaussian_kernel(1.5)),
        Circular((3, 48, 48), motion_kernel(7, 30)),
    ],
    ids=["deblur", "mirrored", "circular"],
)
def test_a_blur_shrinks_up_to_the_border(operator):
    """The margin holds what the operator takes to lie past the border: without, the first row has twice its error."""
    rows, columns = np.mgrid[:48, :48]
    sharp = np.where((rows // 12 + columns // 12) % 2, np.float32(0.6), np.float32(-0.6))
    clean = np.stack([sharp, -sharp, sharp.T]).astype(np.float32)
    y = operator.A(clean[None])[0] + 0.01 * np.random.default_rng(0).standard_normal(clean.shape)
    error = np.abs(y - clean).mean()
    for found in (plain.wiener(y, operator, 0.01), plain.richardson_lucy(y, operator)):
        assert found.shape == clean.shape
        assert np.abs(found - clean).mean() < 0.8 * error
        assert np.abs(found - clean)[:, 0].mean() < np.abs(y - clean)[:, 0].mean()


def test_wieners_filter_is_that_of_the_books_on_a_torus():
    """conj(H) / (|H|^2 + b |L|^2), with L the Laplacian."""
    tile = np.random.default_rng(0).uniform(-1, 1, (1, 36, 36))
    operator = Circular((1, 36, 36), motion_kernel(9, 30))
    y = np.asarray(operator.A(tile[None])[0])
    laplacian, transfer = np.zeros((36, 36)), np.fft.fft2(np.roll(_placed(operator.kernel), (-2, -4), (0, 1)))
    laplacian[[0, 0, 0, 1, -1], [0, 1, -1, 0, 0]] = 4, -1, -1, -1, -1
    filtered = np.conj(transfer) / (np.abs(transfer) ** 2 + 0.1**2 * np.abs(np.fft.fft2(laplacian)) ** 2)
    expected = np.fft.ifft2(filtered * np.fft.fft2(y)).real
    np.testing.assert_allclose(plain.wiener(y, operator, 0.1, balance=1), expected, atol=1e-5)


def _placed(kernel: np.ndarray) -> np.ndarray:
    assert kernel.shape == (5, 9)
    return np.pad(kernel, ((0, 36 - 5), (0, 36 - 9)))


def test_bm3d_is_given_the_colours_last_and_the_noise(monkeypatch, ramp):
    """The package is not for everyone, so its place is taken here."""
    given = []

    def restore(z, sigma):
        given.append((z.shape, sigma))
        return z + 1

    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace(bm3d=restore, bm3d_rgb=restore))
    np.testing.assert_allclose(plain.bm3d(ramp, 0.2, believed=1.5), ramp + 1, rtol=1e-6)
    np.testing.assert_allclose(plain.bm3d(ramp[:1], 0.2), ramp[:1] + 1, rtol=1e-6)
    assert given == [((48, 48, 3), pytest.approx(0.3)), ((48, 48), pytest.approx(plain.BELIEVED * 0.2))]
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(MissingExtra, match=r"non-commercial use only, needs bm3d, .* 'frugal-rt\[bm3d\]'"):
        plain.bm3d(ramp, 0.2)
