"""Kernels have their moments."""

import numpy as np
import pytest

from frugal_rt import operators


def test_gaussian_kernels_have_their_moments():
    """Covariance: sx^2 along the angle, anticlockwise from the right, rows running down; sy^2 across it."""
    for sx, sy, angle in ((2.0, 1.0, 0.0), (3.0, 1.5, 30.0), (1.0, 2.5, -70.0)):
        kernel = operators.gaussian_kernel(sx, sy, angle)
        y, x = (np.arange(n) - n // 2 for n in kernel.shape)
        turn = np.radians(angle)
        along, across = np.array([np.cos(turn), -np.sin(turn)]), np.array([np.sin(turn), np.cos(turn)])
        expected = sx**2 * np.outer(along, along) + sy**2 * np.outer(across, across)
        ours = [[kernel.sum(0) @ x**2, y @ kernel @ x], [y @ kernel @ x, kernel.sum(1) @ y**2]]
        np.testing.assert_allclose(ours, expected, rtol=0.02, atol=0.02)


def test_motion_kernels_weigh_the_line_in_each_pixel():
    np.testing.assert_allclose(operators.motion_kernel(5), np.full((1, 5), 0.2))
    np.testing.assert_allclose(operators.motion_kernel(4, 90).ravel(), [0.125, 0.25, 0.25, 0.25, 0.125], atol=1e-12)
    diagonal = operators.motion_kernel(5, 45)  # anticlockwise: up to the right
    np.testing.assert_allclose(diagonal, np.fliplr(np.diag(np.diag(np.fliplr(diagonal)))), atol=1e-12)
    for angle in (10, 100, -35):
        kernel = operators.motion_kernel(9, angle)
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
