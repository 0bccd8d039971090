"""The hybrid's transitions by every operator, against dense decompositions."""

from collections.abc import Callable

import numpy as np
import pytest
from array_api_compat import array_namespace

from frugal_rt.runtime.operators import Operator
from frugal_rt.runtime.sampling import equations
from frugal_rt.runtime.sampling.equations import ddrm_transition, resolvent_transition
from frugal_rt.runtime.sampling.schedule import Schedule

from .cases import BUILDERS, dense, normal

WELL_POSED = [name for name in BUILDERS if name != "wide gaussian"]
"""Operators without singular values that rounding alone sets apart from 0."""
CASES = [(step, sigma) for step in (45, 10, 0) for sigma in (0.0, 0.05, 1.5)]
"""Steps of 50 and noises: sigma / s below the noise of the step and above it, and no step's noise at all."""


def spectral_case(operator: Operator, array: Callable[[np.ndarray], object] = np.asarray):
    """A row for each of CASES: y, x, x0hat, z, sigma and the coefficients, as `ddrm_transition` takes them."""
    schedule, rows = Schedule.respaced({}, 50), len(CASES)
    x, x0hat, z, truth = (normal((rows, *operator.image_shape), seed) for seed in range(4))
    sigma = np.array([sigma for _, sigma in CASES])[:, None, None, None]
    y = operator.A(truth) + sigma * normal((rows, *operator.measurement_shape), 4)
    x, x0hat, z, y, sigma = map(array, (x, x0hat, z, operator.observed(y), sigma))
    c = Schedule.gather([schedule] * rows, [step for step, _ in CASES], x, array_namespace(x))
    return y, x, x0hat, z, sigma, c


def closed_form(matrix, y, x, x0hat, z, sigma: float, abar: float, abar_prev: float, eta: float) -> np.ndarray:
    """x_{t-1} by eq. 7 and 8 of Kawar et al. (2022), but for a noisier y, direction by direction of a dense SVD.

    Theirs are x / sqrt(abar), of noise (1 - abar) / abar.
    """
    U, singular, Vt = np.linalg.svd(matrix)
    now, left = ((1 - a) ** 0.5 / a**0.5 for a in (abar, abar_prev))
    x, x0hat, z, y = Vt @ x / abar**0.5, Vt @ x0hat, Vt @ z, U.T @ y
    after = np.empty_like(x)
    for i in range(len(x)):
        s = singular[i] if i < len(singular) and singular[i] > 1e-9 else 0.0
        if s == 0:
            after[i] = x0hat[i] + (1 - eta**2) ** 0.5 * left / now * (x[i] - x0hat[i]) + eta * left * z[i]
        elif left < sigma / s:
            q, noise, now_noise = (left * s / sigma) ** 0.5, (y[i] - s * x0hat[i]) / sigma, (x[i] - x0hat[i]) / now
            old, new = q * noise + (1 - eta**2) ** 0.5 * (now_noise - q * noise), eta * (1 - q**2) ** 0.5 * z[i]
            after[i] = x0hat[i] + left * (old + new)
        else:
            after[i] = y[i] / s + (left**2 - sigma**2 / s**2) ** 0.5 * z[i]
    return abar_prev**0.5 * Vt.T @ after


@pytest.mark.parametrize("build", WELL_POSED, indirect=True)
def test_spectral_is_its_equation_by_a_dense_decomposition(decomposed, array):
    matrix = dense(decomposed)
    y, x, x0hat, z, sigma, c = spectral_case(decomposed)
    of_rows = (a.reshape(len(CASES), -1) for a in (y, x, x0hat, z))
    numbers = (np.ravel(a) for a in (sigma, c.abar, c.abar_prev, c.fresh))
    expected = [closed_form(matrix, *row) for row in zip(*of_rows, *numbers, strict=True)]
    ours = np.asarray(ddrm_transition(decomposed, *spectral_case(decomposed, array)))
    np.testing.assert_allclose(ours.reshape(len(CASES), -1), expected, rtol=1e-9, atol=1e-9)
    exact = CASES.index((0, 0.0))
    np.testing.assert_allclose(decomposed.A(ours[exact : exact + 1]), y[exact : exact + 1], atol=1e-10)


@pytest.mark.parametrize("build", WELL_POSED, indirect=True)
def test_spectral_leaves_the_noise_of_the_next_step_in_every_direction(decomposed):
    """x_t and y about one x0: x_{t-1} is N(sqrt(abar') x0, (1 - abar') I), exactly.

    Where y is the noisier, its noise and x_t's have the correlation q that the move keeps. It is affine in three
    standard normal noises, w of x_t's own, z and n: their images' Gram matrices add up.
    """
    _, _, x0, _, sigma, c = spectral_case(decomposed)
    size, measured = x0[0].size, int(np.prod(decomposed.measurement_shape))
    shapes = (decomposed.image_shape, decomposed.image_shape, decomposed.measurement_shape)
    basis = np.eye(2 * size + measured)
    w, z, n = (basis[:, part] for part in (slice(size), slice(size, 2 * size), slice(2 * size, None)))
    for row in range(len(CASES)):
        one = c.rows(slice(row, row + 1))

        below = decomposed.spectrum(x0) * (1 - one.abar_prev) ** 0.5  # of sqrt(abar') sigma, where y is the noisier
        above = one.abar_prev**0.5 * sigma[row]
        q = (
            np.where((below > 0) & (below < above), below / np.maximum(above, 1e-300), 0.0)
            ** equations.CORRELATION_POWER
        )

        def after(w, z, n, row=row, one=one, q=q):
            w, z, n = (noise.reshape(-1, *shape) for noise, shape in zip((w, z, n), shapes, strict=True))
            y = decomposed.A(x0[row : row + 1]) + sigma[row] * n
            eps = w + decomposed.V(q * decomposed.Ut(n) + ((1 - q**2) ** 0.5 - 1) * decomposed.Vt(w))
            x = one.abar**0.5 * x0[row] + (1 - one.abar) ** 0.5 * eps
            return ddrm_transition(decomposed, y, x, x0[row : row + 1] + 0 * x, z, sigma[row], one).reshape(len(x), -1)

        mean = after(*(0 * part[:1] for part in (w, z, n)))
        np.testing.assert_allclose(mean[0], one.abar_prev[0, 0, 0, 0] ** 0.5 * x0[row].reshape(-1), atol=1e-10)
        moved = after(w, z, n) - mean
        variance = (1 - one.abar_prev[0, 0, 0, 0]) * np.eye(size)
        np.testing.assert_allclose(moved.T @ moved, variance, atol=1e-9)


def test_spectral_stays_finite_and_of_its_type_in_float32(decomposed, array):
    after = ddrm_transition(decomposed, *spectral_case(decomposed, lambda a: array(a.astype("f"))))
    assert after.dtype == array(np.zeros(1, "f")).dtype
    assert np.isfinite(np.asarray(after)).all()


def smooth_form(matrix, y, x, x0hat, z, sigma: float, abar: float, abar_prev: float, eta: float) -> np.ndarray:
    """x_{t-1} by the equation of `resolvent_transition`, direction by direction of a dense SVD, for x / sqrt(abar)."""
    U, singular, Vt = np.linalg.svd(matrix)
    now, left = ((1 - a) ** 0.5 / a**0.5 for a in (abar, abar_prev))
    x, x0hat, z, y = Vt @ x / abar**0.5, Vt @ x0hat, Vt @ z, U.T @ y
    sigma = max(sigma, 2 * left * equations.MIN_SIGMA_RATIO)
    after = np.empty_like(x)
    for i in range(len(x)):
        s = singular[i] if i < len(singular) and singular[i] > 1e-9 else 0.0
        w = 1 / (1 + (sigma / (2 * left * s)) ** 2) if s * left > 0 else 0.0
        bar = x0hat[i] + (w * (y[i] / s - x0hat[i]) if w else 0)
        after[i] = bar + left * ((1 - eta**2) ** 0.5 * (x[i] - bar) / now + eta * (1 - 2 * w) * z[i])
    return abar_prev**0.5 * Vt.T @ after


def test_resolved_is_its_equation_by_a_dense_decomposition(ended, array):
    matrix = dense(ended)
    y, x, x0hat, z, sigma, c = spectral_case(ended)
    rows = [i for i, (_, sigma) in enumerate(CASES) if sigma > 0]
    of_rows = (a[rows].reshape(len(rows), -1) for a in (y, x, x0hat, z))
    numbers = (np.ravel(a)[rows] for a in (sigma, c.abar, c.abar_prev, c.fresh))
    expected = [smooth_form(matrix, *row) for row in zip(*of_rows, *numbers, strict=True)]
    ours = np.asarray(resolvent_transition(ended, *spectral_case(ended, array)))[rows]
    np.testing.assert_allclose(ours.reshape(len(rows), -1), expected, rtol=1e-6, atol=1e-6)


def test_resolved_meets_a_measurement_without_noise(ended):
    """As near as MIN_SIGMA_RATIO lets it: where nothing but y is left, in the directions that A sees well."""
    y, *rest = spectral_case(ended)
    exact = CASES.index((0, 0.0))
    ours = resolvent_transition(ended, y, *rest)[exact : exact + 1]
    U, s, _ = np.linalg.svd(dense(ended))
    apart = U.T @ (ended.A(ours) - y[exact : exact + 1]).reshape(-1)
    assert np.abs(apart[: len(s)][s > 0.3]).max(initial=0) < 0.02


def test_resolved_leaves_the_noise_of_the_next_step_in_every_direction(ended):
    """x_{t-1} is N(sqrt(abar') x0, (1 - abar') I) where x_t's noise about x0bar is as the move takes it to be.

    That is (1 - 2 w) of a standard normal one beside q n. It is affine in three, w of x_t's own, z and n.
    """
    _, _, x0, _, sigma, c = spectral_case(ended)
    size, measured = x0[0].size, int(np.prod(ended.measurement_shape))
    shapes = (ended.image_shape, ended.image_shape, ended.measurement_shape)
    basis = np.eye(2 * size + measured)
    drawn, z, n = (basis[:, part] for part in (slice(size), slice(size, 2 * size), slice(2 * size, None)))
    for row in (i for i, (step, sigma) in enumerate(CASES) if sigma > 0 and step < 40):
        one = c.rows(slice(row, row + 1))
        scale, noise = 4 * (1 - one.abar_prev) / one.abar_prev + equations.TINY, sigma[row]

        def weighed(r, one=one, scale=scale, noise=noise):
            return scale * ended.AT(ended.resolvent(r, noise, scale))

        def after(drawn, z, n, row=row, one=one, noise=noise, weighed=weighed):
            drawn, z, n = (a.reshape(-1, *shape) for a, shape in zip((drawn, z, n), shapes, strict=True))
            measured = noise * ended.observed(n)
            y = ended.A(x0[row : row + 1]) + measured
            x = one.abar**0.5 * (x0[row] + weighed(measured)) + (1 - one.abar) ** 0.5 * (
                drawn - 2 * weighed(ended.A(drawn))
            )
            return resolvent_transition(ended, y, x, x0[row : row + 1] + 0 * x, z, noise, one).reshape(len(x), -1)

        mean = after(*(0 * part[:1] for part in (drawn, z, n)))
        np.testing.assert_allclose(mean[0], one.abar_prev[0, 0, 0, 0] ** 0.5 * x0[row].reshape(-1), atol=1e-8)
        moved = after(drawn, z, n) - mean
        np.testing.assert_allclose(moved.T @ moved, (1 - one.abar_prev[0, 0, 0, 0]) * np.eye(size), atol=1e-7)


def test_resolved_stays_finite_and_of_its_type_in_float32(iterative, array):
    after = resolvent_transition(iterative, *spectral_case(iterative, lambda a: array(a.astype("f"))))
    assert after.dtype == array(np.zeros(1, "f")).dtype
    assert np.isfinite(np.asarray(after)).all()
