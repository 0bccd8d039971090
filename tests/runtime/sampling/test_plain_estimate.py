"""Restorations that start from a plain estimate: the estimate, and the steps from there against dense algebra."""

import numpy as np
import pytest

from frugal_rt import operators
from frugal_rt.runtime.operators import Matrix
from frugal_rt.runtime.sampling.guidance import MEASURED_STEPS, STARTS
from frugal_rt.runtime.sampling.noise import Use, normal
from frugal_rt.runtime.sampling.plain_estimate import RIDGE, filled, plain_estimate
from frugal_rt.runtime.sampling.schedule import Schedule

from .test_denoising import gaussian  # noqa: F401 (a fixture)

SHAPE = (1, 4, 4)
RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (32, 48)])
def test_a_constant_is_filled_with_itself_and_known_pixels_stay(size):
    y = RANDOM.uniform(-1, 1, (3, *size)).astype(np.float32)
    missing = RANDOM.uniform(size=size) < 0.4
    missing[0, 0] = False
    np.testing.assert_array_equal(filled(y, missing)[:, ~missing], y[:, ~missing])
    np.testing.assert_allclose(filled(np.full_like(y, 0.3), missing), 0.3, atol=1e-5)
    assert not filled(y, np.ones(size, bool)).any()


def test_a_hole_in_a_ramp_is_filled_by_about_the_ramp():
    rows, columns = np.mgrid[:64, :64].astype(np.float32) / 32 - 1
    y, missing = np.stack([rows, columns, rows + columns]), np.zeros((64, 64), bool)
    missing[20:30, 10:50] = True
    assert np.abs(filled(np.where(missing, np.float32(9), y), missing) - y).max() < 0.25


def test_each_operator_has_its_estimate():
    image = np.stack([np.outer(np.hanning(16), np.hanning(16))] * 3).astype(np.float32)
    for operator, close in (
        (operators.Denoise((3, 16, 16)), 1e-6),
        (operators.SuperResolution((3, 16, 16), 2), 0.05),
        (operators.Inpaint((3, 16, 16), np.eye(16) > 0), 0.05),
        (operators.Deblur.gaussian((3, 16, 16), 0.7), 0.05),
    ):
        found = plain_estimate(operator, np.asarray(operator.A(image[None])[0], np.float32), 0.0)
        assert found.shape == image.shape
        assert np.abs(found - image).mean() < close, operator.name
    dense = RANDOM.standard_normal((5, 16)) / 4
    y = RANDOM.standard_normal((1, 1, 5)).astype(np.float32)
    operator = Matrix(SHAPE, dense)
    right = dense.T @ np.linalg.solve(RIDGE**2 * np.eye(5) + dense @ dense.T, y.reshape(5))
    np.testing.assert_allclose(plain_estimate(operator, y, 0.0).reshape(16), right, atol=1e-5)


@pytest.mark.parametrize("aim", STARTS)
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_steps_are_those_of_dense_algebra(gaussian, aim, sigma):  # noqa: F811
    """x0hat + A^T (sigma^2 / s^2 + A A^T)^-1 (y - A x0hat) at each step of the flow, from the estimate and noise."""
    one = gaussian()
    operator = operators.SuperResolution(SHAPE, 2)
    A = np.asarray(operator.A(np.eye(16).reshape(16, *SHAPE))).reshape(16, -1).T
    y = np.asarray(operator.A(one.pictures(0)[0][:1])[0], np.float64)
    result = one.restorer.restore(y, operator, sigma=sigma, aim=aim, seed=4)
    schedule = Schedule.below({"prediction_type": "epsilon"}, STARTS[aim], MEASURED_STEPS)
    z = plain_estimate(operator, np.float32(y), sigma).astype(np.float64).reshape(16)
    z = z + STARTS[aim] * normal(SHAPE, 4, 0, Use.START).reshape(16)
    abars = schedule.abar[::-1]
    for t, abar, following in zip(schedule.timesteps[::-1], abars, [*abars[1:], 1.0], strict=True):
        s, s_next = ((1 - abar) / abar) ** 0.5, ((1 - following) / following) ** 0.5
        x = abar**0.5 * z.reshape(1, *SHAPE)
        eps = one.engine.predict(x, np.array([t])).out.reshape(16)
        x0hat = np.clip(z - s * eps, -1, 1)
        x0hat = x0hat + A.T @ np.linalg.pinv(sigma**2 / s**2 * np.eye(len(A)) + A @ A.T) @ (y.reshape(-1) - A @ x0hat)
        z = x0hat + s_next / s * (z - x0hat)
    np.testing.assert_allclose(result.image.reshape(16), np.clip(z, -1, 1), atol=1e-4)
    assert (result.forwards, result.gradients, result.k) == ((len(schedule),), (0,), (0,))
    assert result.settings["aim"] == aim
