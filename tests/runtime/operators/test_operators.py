"""One body of tests over every operator, against dense matrices and autograd."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import pytest
import torch

from frugal_rt import operators
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import stoppable
from frugal_rt.runtime.sampling.equations import likelihood_score, residual_gradient

from ..stops import Counting
from .cases import dense, normal


@pytest.mark.parametrize("name", ["A", "AT", "resolvent"])
def test_none_is_applied_where_nobody_waits(operator, name):
    given = normal((2, *(operator.image_shape if name == "A" else operator.measurement_shape)))
    with stoppable(Counting(0)), pytest.raises(Stopped):
        getattr(operator, name)(given, *((0.1, 0.3) if name == "resolvent" else ()))


def test_operators_of_a_class_compute_at_the_same_time():
    """Otherwise a request that was given up could wait in preparation for another's decomposition."""
    both = threading.Barrier(2)

    class Meeting(operators.Denoise):
        @cached_property
        def place_in_line(self) -> int:
            return both.wait(5)

    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda one: one.place_in_line, [Meeting((3, 4, 4)), Meeting((3, 4, 4))])
        assert {*found} == {0, 1}


def test_adjoint_is_the_transpose(operator, array):
    x, y = array(normal((2, *operator.image_shape))), array(normal((2, *operator.measurement_shape), 1))
    left = np.asarray((operator.A(x) * y).reshape(2, -1).sum(1))
    right = np.asarray((x * operator.AT(y)).reshape(2, -1).sum(1))
    np.testing.assert_allclose(left, right, rtol=1e-12)


def test_singular_value_decomposition_is_the_dense_matrix(decomposed, array):
    matrix = dense(decomposed)
    x = normal((2, *decomposed.image_shape))
    via_svd = decomposed.U(decomposed.spectrum(array(x)) * decomposed.Vt(array(x)))
    np.testing.assert_allclose(np.asarray(via_svd).reshape(2, -1), x.reshape(2, -1) @ matrix.T, atol=1e-12)
    s = np.broadcast_to(decomposed.spectrum(x), (1, *decomposed.measurement_shape))
    ours, theirs = np.sort(s.reshape(-1)), np.sort(np.linalg.svd(matrix, compute_uv=False))
    np.testing.assert_allclose(ours[-len(theirs) :], theirs[-len(ours) :], atol=1e-12)


def test_bases_are_orthonormal(decomposed, array):
    c = array(normal((2, *decomposed.measurement_shape)))
    for there, back in ((decomposed.U, decomposed.Ut), (decomposed.Ut, decomposed.U)):
        np.testing.assert_allclose(np.asarray(back(there(c))), np.asarray(c), atol=1e-12)
    # With more measurements than pixels, columns of V that no singular value sees are zeros.
    size, channels = int(np.prod(decomposed.image_shape[1:])), decomposed.measurement_shape[0]
    spare = int(np.prod(decomposed.measurement_shape[1:])) - size
    expected = np.asarray(c).reshape(2, channels, -1).copy()
    expected[:, :, size:] = expected[:, :, size:] if spare <= 0 else 0
    again = np.asarray(decomposed.Vt(decomposed.V(c))).reshape(expected.shape)
    np.testing.assert_allclose(again, expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.5])
def test_resolvent_is_the_dense_inverse(operator, array, sigma):
    matrix, scale = dense(operator), 0.3
    r = normal((2, *operator.measurement_shape))
    gram = sigma**2 * np.eye(len(matrix)) + scale * matrix @ matrix.T
    ours = np.asarray(operator.resolvent(array(r), sigma, scale)).reshape(2, -1)
    np.testing.assert_allclose(ours, np.linalg.solve(gram, r.reshape(2, -1).T).T, rtol=1e-8, atol=1e-8)


def test_one_alone_is_a_row_of_a_batch(operator, array):
    """Images, measurements and coefficients, with a batch axis or without."""
    x, y = array(normal((2, *operator.image_shape))), array(normal((2, *operator.measurement_shape), 1))
    pairs = {"A": (x,), "AT": (y,), "vjp": (x, y), "gram": (y,), "resolvent": (y, 0.1, 0.3)}
    if hasattr(operator, "Vt"):
        pairs |= {"Vt": (x,), "V": (y,), "Ut": (y,), "U": (y,)}
    for name, given in pairs.items():
        method = getattr(operator, name)
        together, alone = method(*given), method(*(one if isinstance(one, float) else one[1] for one in given))
        assert type(alone) is type(together)
        assert alone.shape == together.shape[1:]
        np.testing.assert_allclose(np.asarray(alone), np.asarray(together[1]), rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_caller_s_own_functions_are_always_given_batches():
    dims = []
    custom = operators.Custom((3, 4, 4), (3, 4, 4), lambda x: dims.append(x.ndim) or x, lambda x, r: r)
    x = normal((3, 4, 4))
    assert custom.A(x).shape == custom.vjp(x, x).shape == x.shape
    assert dims == [4]


def test_resolvent_without_noise_is_the_pseudo_inverse(operator, array):
    """G R G = G, for G = scale A A^T however singular."""
    matrix = dense(operator)
    gram = 0.3 * matrix @ matrix.T
    r = normal((2, *operator.measurement_shape)).reshape(2, -1)
    through = (r @ gram).reshape(2, *operator.measurement_shape)
    ours = np.asarray(operator.resolvent(array(through), 0.0, 0.3)).reshape(2, -1) @ gram
    np.testing.assert_allclose(ours, r @ gram, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.02, 0.5])
def test_dmps_guidance_is_the_gradient_of_its_log_density(operator, sigma):
    """autograd of log N(y; A x / sqrt(abar), sigma^2 I + (1 - abar)/abar A A^T), float64, each row at its abar."""
    matrix = torch.tensor(dense(operator))
    x = torch.tensor(normal((2, *operator.image_shape)), requires_grad=True)
    y = torch.tensor(operator.observed(normal((2, *operator.measurement_shape), 1)))
    abar = torch.tensor([0.3, 0.95], dtype=torch.float64)[:, None, None, None]
    total = torch.zeros((), dtype=torch.float64)
    for xi, yi, ai in zip(x, y, abar.reshape(-1), strict=True):
        residual = yi.reshape(-1) - matrix @ xi.reshape(-1) / ai.sqrt()
        covariance = sigma**2 * torch.eye(len(matrix), dtype=torch.float64) + (1 - ai) / ai * matrix @ matrix.T
        total = total - 0.5 * residual @ torch.linalg.solve(covariance, residual)
    (expected,) = torch.autograd.grad(total, x)
    for ours in (
        likelihood_score(operator, y, x.detach(), sigma, abar).numpy(),
        likelihood_score(operator, y.numpy(), x.detach().numpy(), sigma, abar.numpy()),
    ):
        error = np.abs(ours - expected.numpy()).max() / np.abs(expected.numpy()).max()
        assert error < 1e-9


def test_dmps_guidance_holds_in_float32(operator):
    x, y = normal((1, *operator.image_shape)), operator.observed(normal((1, *operator.measurement_shape), 1))
    exact = likelihood_score(operator, y, x, 0.01, np.full((1, 1, 1, 1), 0.9))
    ours = likelihood_score(
        operator, y.astype("f"), x.astype("f"), np.float32(0.01), np.full((1, 1, 1, 1), 0.9, np.float32)
    )
    assert ours.dtype == np.float32
    assert np.abs(ours - exact).max() / np.abs(exact).max() < 2e-3


def test_residual_gradient_is_autograd_s_with_the_norm_per_row(operator):
    y = torch.tensor(operator.observed(normal((2, *operator.measurement_shape), 1)))
    x = torch.tensor(normal((2, *operator.image_shape)), requires_grad=True)
    norms = (y - operator.A(x)).reshape(2, -1).norm(dim=1)
    (expected,) = torch.autograd.grad(norms.sum(), x)
    sigma = torch.full((2, 1, 1, 1), 0.1, dtype=torch.float64)
    ours, excess = residual_gradient(operator, y, x.detach(), sigma)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    measured = np.count_nonzero(np.abs(dense(operator)).sum(axis=1))
    torch.testing.assert_close(excess.reshape(-1), norms.detach() - 0.1 * measured**0.5)


def test_sigma_zero_gives_finite_guidance(operator):
    x, y = normal((1, *operator.image_shape)), operator.observed(normal((1, *operator.measurement_shape), 1))
    assert np.isfinite(likelihood_score(operator, y.astype("f"), x.astype("f"), 0.0, np.float32(0.5))).all()


def test_numbers_keep_their_type(operator, array):
    x = array(normal((1, *operator.image_shape)).astype("f"))
    assert operator.A(x).dtype == x.dtype
    assert operator.AT(operator.A(x)).dtype == x.dtype
    assert operator.resolvent(operator.A(x), 0.1, 0.2).dtype == x.dtype
