"""Operators that are matrices: any matrix, a blur inside its border, a masked blur."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal

from frugal_rt import InputError, operators
from frugal_rt.runtime.operators import Decomposable, Partial
from frugal_rt.runtime.operators.dense import Dense
from frugal_rt.runtime.operators.kernels import valid_part
from frugal_rt.runtime.operators.separable import Valid

from .cases import cut_gaussian, lopsided, normal, random_rows, spots


def test_a_matrix_is_decomposed_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path))
    matrix, x = random_rows(64, 20), normal((1, 3, 8, 8))
    operator = operators.Matrix((3, 8, 8), matrix)
    first = operator.Vt(x)
    assert len(list(tmp_path.iterdir())) == 2  # the decomposition and its digest
    monkeypatch.setattr(np.linalg, "svd", None)
    np.testing.assert_array_equal(operators.Matrix((3, 8, 8), matrix).Vt(x), first)
    assert np.array_equal(operators.Matrix((3, 8, 8), 2 * matrix).A(x), 2 * operator.A(x))  # needs none
    with pytest.raises(TypeError):
        operators.Matrix((3, 8, 8), 2 * matrix).Vt(x)


def test_a_valid_blur_is_scipy_s_inside_the_image(array):
    x = normal((2, 3, 9, 12))
    for kernel in (lopsided(), operators.motion_kernel(5, 20), cut_gaussian(0.8), np.ones((1, 5))):
        expected = scipy.signal.convolve(x, kernel[None, None] / kernel.sum(), mode="valid", method="direct")
        np.testing.assert_allclose(operators.valid_blur((3, 9, 12), kernel).A(array(x)), expected, atol=1e-12)
    assert isinstance(operators.valid_blur((3, 256, 256), operators.gaussian_kernel(3)), Valid)


@pytest.mark.parametrize(
    ("kernel", "times"), [(operators.motion_kernel(7, 30), 5), (operators.gaussian_kernel(1.2), 1.4)]
)
def test_a_valid_blur_does_not_ring_on_a_photograph_that_goes_on_past_its_border(kernel, times):
    """The ridge estimate from the middle of a larger blurred scene, far from its border: a torus rings even there."""
    rng, shape = np.random.default_rng(0), (1, 28, 28)
    scene = np.linspace(-0.8, 0.8, 48) + 0.1 * scipy.ndimage.gaussian_filter(rng.normal(size=(48, 48)), 2) / 0.14
    blurred = scipy.ndimage.convolve(scene, kernel) + 0.01 * rng.normal(size=(48, 48))
    clean, photo, inside = scene[10:38, 10:38], blurred[10:38, 10:38], (slice(6, -6),) * 2

    def error(operator: Decomposable, y: np.ndarray) -> float:
        ridge = 0.25 * operator.AT(operator.resolvent(y[None, None], 0.01, 0.25))[0, 0]
        return float((ridge - clean)[inside].std())

    valid = error(operators.valid_blur(shape, kernel), photo[valid_part(kernel, shape)])
    assert valid < error(operators.Circular(shape, kernel), photo) / times
    tapered = operators.Tapered(shape, kernel)
    assert error(tapered, tapered.taper(photo[None])[0]) < 1.25 * valid
    if operators.is_mirrored(kernel):
        assert valid < error(operators.Mirrored(shape, kernel), photo)


def test_what_has_no_closed_form_is_a_matrix_of_a_bounded_size():
    kernel = operators.motion_kernel(5, 20)
    small, large = (operators.valid_blur((3, side, side), kernel) for side in (24, 128))
    assert isinstance(small, Dense)
    assert isinstance(large, Partial)
    assert large.settings == operators.valid_blur((3, 24, 24), kernel).settings
    with pytest.raises(InputError, match="too large for a matrix at 128x128"):
        operators.MaskedMatrix((3, 128, 128), operators.Circular((1, 128, 128), np.ones((3, 3))), spots((3, 128, 128)))


def test_a_mask_after_a_blur_loses_pixels_of_its_measurement(array):
    inner, x = operators.Circular((1, 8, 12), lopsided()), normal((2, 3, 8, 12))
    masked = operators.MaskedMatrix((3, 8, 12), inner, spots((3, 8, 12)))
    expected = np.where(masked.missing, 0, operators.Circular((3, 8, 12), lopsided()).A(x))
    np.testing.assert_allclose(masked.A(array(x)), expected, atol=1e-12)
    assert masked.settings == {**inner.settings, **operators.Inpaint((3, 8, 12), masked.missing).settings}


def test_rows_of_zeros_measure_nothing():
    matrix = random_rows(64, 20)
    matrix[3:6] = 0
    operator = operators.Matrix((3, 8, 8), matrix)
    assert operator.measured == 3 * 17
    y = operator.observed(np.full((3, 1, 20), np.nan))
    assert (y[:, :, 3:6] == 0).all()
    assert np.isnan(y[:, :, 6:]).all()
