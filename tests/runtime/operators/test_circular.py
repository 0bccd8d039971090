"""Blurs by FFT, against scipy."""

import numpy as np
import scipy.linalg
import scipy.ndimage
import scipy.signal

from frugal_rt import operators

from .cases import lopsided, normal


def test_a_circular_blur_is_scipy_s_on_a_torus(array):
    x = normal((2, 3, 9, 12))
    for kernel in (lopsided(), operators.motion_kernel(7, 20), operators.gaussian_kernel(1, 0.6, 45)):
        expected = scipy.ndimage.convolve(x, kernel[None, None] / kernel.sum(), mode="wrap")
        np.testing.assert_allclose(operators.Circular((3, 9, 12), kernel).A(array(x)), expected, atol=1e-12)
        kept = operators.Circular((3, 9, 12), kernel, 3).A(array(x))
        np.testing.assert_allclose(kept, expected[:, :, ::3, ::3], atol=1e-12)


def test_a_taper_leaves_the_middle_as_it_is_and_closes_the_seam():
    ramp = np.linspace(-1, 1, 32) + np.zeros((3, 32, 1))
    tapered = operators.Tapered((3, 32, 32), operators.motion_kernel(7, 30)).taper(ramp)
    np.testing.assert_allclose(tapered[:, 7:-7, 7:-7], ramp[:, 7:-7, 7:-7], atol=1e-12)
    steps = np.abs(np.diff(tapered, axis=2, append=tapered[:, :, :1]))
    assert steps.max() < 0.5
    assert tapered.dtype == ramp.dtype


def test_a_taper_goes_by_the_side_that_it_is_at():
    """A picture that is wider than high: what is blurred along its rows is blended at their ends alone."""
    ramp = np.linspace(-1, 1, 40) * np.linspace(1, 2, 12)[:, None] + np.zeros((3, 1, 1))
    tapered = operators.Tapered((3, 12, 40), operators.motion_kernel(7)).taper(ramp)
    np.testing.assert_allclose(tapered[:, :, 7:-7], ramp[:, :, 7:-7], atol=1e-12)
    assert np.abs(tapered - ramp)[:, :, [0, -1]].min() > 0.1
