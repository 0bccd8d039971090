"""Blurs and bicubic by rows and columns, against torch, Pillow and scipy."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch

from frugal_rt import Restorer, operators
from frugal_rt.runtime.pictures.images import PORTRAIT, fit_photo, read_photo

from .cases import normal


@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
def test_bicubic_is_torch_s_and_nearly_pillow_s(scale):
    from PIL import Image

    x = normal((2, 3, 48, 96))
    operator = operators.Bicubic(x.shape[1:], scale)
    size = operator.measurement_shape[1:]
    theirs = torch.nn.functional.interpolate(torch.tensor(x), size, mode="bicubic", antialias=True)
    np.testing.assert_allclose(operator.A(x), theirs, atol=1e-12)
    image = Image.fromarray(x[0, 0].astype(np.float32))
    theirs = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_allclose(operator.A(x)[0, 0], theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 9, 16), (1, 31, 7)])
def test_blurs_are_scipy_s_with_a_mirrored_border(shape):
    x = normal((1, *shape))
    gaussian = operators.Deblur.gaussian(shape, 1.5)
    expected = scipy.ndimage.gaussian_filter(x, (0, 0, 1.5, 1.5), mode="reflect", radius=(0, 0, 6, 6))
    np.testing.assert_allclose(gaussian.A(x), expected, atol=1e-10)
    expected = scipy.ndimage.uniform_filter(x, (0, 0, 5, 5), mode="reflect")
    np.testing.assert_allclose(operators.Deblur.uniform(shape, 5).A(x), expected, atol=1e-10)


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
    ours, copied = (psnr(restorer.restore(y, o, sigma=0.05, steps=20, switch="always").image) for o in (ours, copied))
    assert ours > psnr(y) + 2
    assert copied < psnr(y) - 2
