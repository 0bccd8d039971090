"""Blurs by cosines, against scipy; noisy deblurring, against singular values in a wrong order."""

import numpy as np
import pytest
import scipy.ndimage

from frugal_rt import Restorer, operators
from frugal_rt.runtime.operators import mirrored
from frugal_rt.runtime.pictures.images import PORTRAIT, fit_photo, read_photo

from .cases import normal


def test_a_mirrored_blur_is_scipy_s_with_a_mirrored_border(array):
    x, kernel = normal((2, 3, 9, 12)), operators.gaussian_kernel(1.2, 0.5)
    expected = scipy.ndimage.convolve(x, kernel[None, None], mode="reflect")
    np.testing.assert_allclose(operators.Mirrored((3, 9, 12), kernel).A(array(x)), expected, atol=1e-12)
    assert operators.is_mirrored(kernel)
    assert not operators.is_mirrored(operators.gaussian_kernel(0.5, 1.3, 30))
    assert not operators.is_mirrored(np.ones((4, 4)))


@pytest.mark.parametrize("shape", [(3, 9, 16), (1, 31, 7)])
def test_blurs_are_scipy_s_with_a_mirrored_border(shape):
    x = normal((1, *shape))
    gaussian = operators.Deblur.gaussian(shape, 1.5)
    expected = scipy.ndimage.gaussian_filter(x, (0, 0, 1.5, 1.5), mode="reflect", radius=(0, 0, 6, 6))
    np.testing.assert_allclose(gaussian.A(x), expected, atol=1e-10)
    expected = scipy.ndimage.uniform_filter(x, (0, 0, 5, 5), mode="reflect")
    np.testing.assert_allclose(operators.Deblur.uniform(shape, 5).A(x), expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 9, 16), (1, 31, 7), (3, 1, 2)])
def test_a_long_side_s_cosine_transform_by_fourier_is_the_matrix_s(shape, array, monkeypatch):
    x = normal((2, *shape))
    by_matrix = operators.Deblur.gaussian(shape, 0.8)
    expected = by_matrix.Vt(x), by_matrix.V(x), by_matrix.A(x)
    monkeypatch.setattr(mirrored, "MAX_SIDE", 0)
    monkeypatch.setattr(mirrored, "_cosines", None)
    by_fourier = operators.Deblur.gaussian(shape, 0.8)
    for ours, theirs in zip((by_fourier.Vt, by_fourier.V, by_fourier.A), expected, strict=True):
        np.testing.assert_allclose(ours(array(x)), theirs, atol=1e-12)


class Copied(operators.Deblur):
    """The blur as DDRM's SVD file has it: singular values repeated for each channel, coefficients interleaved."""

    def spectrum(self, like):
        values = self._s.reshape(-1)
        order = np.argsort(-values, kind="stable")
        copied = np.empty((len(values), 3))
        copied[order] = np.tile(values[order], 3).reshape(-1, 3)
        return self.place("copied", copied.T.reshape(1, 3, *self.image_shape[1:]), like)


def test_noisy_deblurring_works_where_the_copied_singular_values_fail(celeba_plan):
    def psnr(image: np.ndarray) -> float:
        return float(-20 * np.log10(np.sqrt(((image.clip(-1, 1) - clean) ** 2).mean()) / 2))

    restorer = Restorer.load(celeba_plan)
    clean = fit_photo(read_photo(PORTRAIT), (64, 64), "crop").pixels
    ours, copied = (kind.gaussian(clean.shape, 2.0) for kind in (operators.Deblur, Copied))
    there = copied.U(copied.spectrum(clean[None]) * copied.Vt(clean[None]))
    assert np.linalg.norm(there - ours.A(clean[None])) > 0.2 * np.linalg.norm(there)
    y = ours.A(clean[None])[0] + 0.05 * normal(clean.shape)
    ours, copied = (
        psnr(restorer.restore(y, o, sigma=0.05, steps=20, method="closed-form").image) for o in (ours, copied)
    )
    assert ours > psnr(y) + 2
    assert copied < psnr(y) - 2
