"""Operators by conjugate gradients."""

import numpy as np
import pytest

from frugal_rt import operators
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import stoppable
from frugal_rt.runtime.operators import Partial
from frugal_rt.runtime.operators.dense import Dense
from frugal_rt.runtime.operators.kernels import valid_part
from frugal_rt.runtime.sampling.equations import likelihood_score

from ..stops import Counting
from .cases import dense, lopsided, normal, spots


@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 12, 7)])
def test_a_part_of_a_circular_blur_is_the_valid_one(shape, array):
    for kernel in (lopsided(), operators.motion_kernel(5, 20)):
        inside, x = Partial(operators.Circular(shape, kernel), valid_part(kernel, shape)), normal((2, *shape))
        matrix = operators.valid_blur(shape, kernel)
        assert isinstance(matrix, Dense)
        np.testing.assert_allclose(inside.A(array(x)), matrix.A(x), atol=1e-12)
        assert inside.measured == matrix.measured
        masked = Partial(inside.inner, inside.part, spots(inside.measurement_shape))
        np.testing.assert_allclose(masked.A(array(x)), np.where(masked.missing, 0, matrix.A(x)), atol=1e-12)
        assert masked.measured == shape[0] * (~masked.missing).sum()
        lost = operators.Inpaint((1, *masked.missing.shape), masked.missing).settings
        assert masked.settings == {**inside.settings, **lost}
        assert masked.settings["border"] == "valid"


def test_conjugate_gradients_stop_where_each_row_has_converged_and_no_row_sees_another(iterative):
    """In float32, as they run: bitwise, and to the tolerance; sigma = 10 takes one iteration or two."""
    r = iterative.observed(normal((3, *iterative.measurement_shape)).astype("f"))
    sigma = np.array([0.05, 10.0, 0.4], "f")[:, None, None, None]
    scale = np.array([1.0, 2.0, 3.0], "f")[:, None, None, None]
    together = iterative.resolvent(r, sigma, scale)
    for i in range(3):
        alone = iterative.resolvent(r[i : i + 1], sigma[i : i + 1], scale[i : i + 1])
        np.testing.assert_array_equal(together[i : i + 1], alone)
    left = sigma**2 * together + scale * iterative.gram(together) - r
    norms = [np.sqrt(np.square(a).sum((1, 2, 3))) for a in (left, r)]
    assert (norms[0] <= 1.1 * iterative.tolerance * norms[1]).all()
    iterative.most = 1
    assert np.abs(iterative.resolvent(r, sigma, scale) - together)[0].max() > 0.1


def test_the_preconditioner_saves_iterations(caplog):
    """A motion blur of 32x32 inside its border: plain conjugate gradients take more than twice as many."""
    kernel, shape = operators.motion_kernel(7, 30), (1, 32, 32)
    inside = Partial(operators.Circular(shape, kernel), valid_part(kernel, shape))
    r = normal((1, *inside.measurement_shape))
    caplog.set_level("DEBUG", "frugal_rt.runtime.operators.iterative")
    inside.resolvent(r, 0.05, 1.0)
    inside.precondition = lambda r, sigma, scale: r
    inside.resolvent(r, 0.05, 1.0)
    ours, plain = (int(record.args[1]) for record in caplog.records)
    assert 1 < ours < plain / 2, (ours, plain)


def test_an_iteration_is_the_last_after_it_was_asked_to_stop(iterative):
    """Whichever it is in; before any application of an operator."""
    r = iterative.observed(normal((1, *iterative.measurement_shape)).astype("f"))
    iterative.resolvent(r, 0.05, 1.0)  # places the arrays
    whole = Counting()
    with stoppable(whole):
        iterative.resolvent(r, 0.05, 1.0)
    for free in range(0, whole.checks, 5):
        stop = Counting(free)
        with stoppable(stop), pytest.raises(Stopped):
            iterative.resolvent(r, 0.05, 1.0)
        assert stop.checks == free + 1


def test_the_score_by_conjugate_gradients_is_the_dense_one(iterative):
    """In float32, against the inverse."""
    iterative.tolerance = 1e-6
    matrix, sigma, abar = dense(iterative), 0.05, 0.6
    x, y = normal((2, *iterative.image_shape)), iterative.observed(normal((2, *iterative.measurement_shape), 1))
    covariance = sigma**2 * np.eye(len(matrix)) + (1 - abar) / abar * matrix @ matrix.T
    residual = y.reshape(2, -1) - x.reshape(2, -1) @ matrix.T / abar**0.5
    expected = np.linalg.solve(covariance, residual.T).T @ matrix / abar**0.5
    ours = likelihood_score(iterative, y.astype("f"), x.astype("f"), np.float32(sigma), np.float32(abar))
    assert ours.dtype == np.float32
    error = np.linalg.norm(ours.reshape(2, -1) - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert (error < 1e-4).all()
