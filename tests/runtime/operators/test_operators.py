"""One body of tests over every operator, against dense matrices and autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch
from array_api_compat import array_namespace

from frugal_rt import InputError, Restorer, operators
from frugal_rt.runtime.operators import GREY_WEIGHTS, Linear, Operator, Partial, Resolvable, Shape
from frugal_rt.runtime.operators.kernels import valid_part
from frugal_rt.runtime.pictures.images import PORTRAIT, fit_photo, read_photo
from frugal_rt.runtime.sampling import equations
from frugal_rt.runtime.sampling.equations import (
    ddrm_transition,
    likelihood_score,
    residual_gradient,
    resolvent_transition,
)
from frugal_rt.runtime.sampling.schedule import Schedule


def _mask(shape: Shape) -> np.ndarray:
    return np.random.default_rng(3).random(shape[1:]) < 0.4


def _lopsided(seed: int = 5) -> np.ndarray:
    """A kernel without any symmetry, of one even side."""
    return np.random.default_rng(seed).random((3, 4)) ** 3


def _gaussian(*numbers: float) -> np.ndarray:
    """The middle, 3 high and 7 wide at most, of a Gaussian kernel."""
    kernel = operators.gaussian_kernel(*numbers)
    top, left = max(0, kernel.shape[0] // 2 - 1), max(0, kernel.shape[1] // 2 - 3)
    return kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]


def _masked(operator: Linear) -> Linear:
    return operators.Masked(operator, _mask(operator.measurement_shape))


def _masked_matrix(shape: Shape, inner: Linear) -> Linear:
    return operators.MaskedMatrix(shape, inner, _mask(inner.measurement_shape))


def _dyadic(shape: Shape) -> Shape:
    """The largest shape within `shape` whose sides are powers of two."""
    return shape[0], *(1 << side.bit_length() - 1 for side in shape[1:])


def _rows(columns: int, rows: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)) / columns**0.5


BUILDERS: dict[str, Callable[[Shape], Linear]] = {
    "denoise": operators.Denoise,
    "inpaint": lambda s: operators.Inpaint(s, _mask(s)),
    "sr2, masked": lambda s: _masked(operators.SuperResolution(s, 2)),
    "grey, masked": lambda s: _masked(operators.Colorize(s)),
    "sensing": lambda s: operators.WalshHadamard(_dyadic(s), 0.3),
    "sensing all": lambda s: operators.WalshHadamard(_dyadic(s), 1, seed=4),
    "sr2": lambda s: operators.SuperResolution(s, 2),
    "sr4": lambda s: operators.SuperResolution(s, 4),
    "bicubic2": lambda s: operators.Bicubic(s, 2),
    "bicubic4": lambda s: operators.Bicubic(s, 4),
    "grey mean": lambda s: operators.Colorize(s, "mean"),
    "grey rec601": lambda s: operators.Colorize(s, "rec601"),
    "gaussian": lambda s: operators.Deblur.gaussian(s, 0.8),
    "wide gaussian": lambda s: operators.Deblur.gaussian(s, 2.5),
    "uniform": lambda s: operators.Deblur.uniform(s, 3),
    "kernel": lambda s: operators.Circular(s, _lopsided()),
    "motion": lambda s: operators.Circular(s, operators.motion_kernel(3, 30)),
    "uniform circular": lambda s: operators.Circular(s, np.ones((1, 4))),
    "anisotropic": lambda s: operators.Circular(s, _gaussian(0.8, 0.4, 30)),
    "mirrored": lambda s: operators.Mirrored(s, _gaussian(0.9, 0.5)),
    "mirrored, of both signs": lambda s: operators.Mirrored(s, np.array([[2, 1, 2]])),
    "kernel, then 1 of 2x2": lambda s: operators.Circular(s, _lopsided(), 2),
    "kernel, then 1 of 4x4": lambda s: operators.Circular(s, _gaussian(0.9), 4),
    "matrix": lambda s: operators.Matrix(s, _rows(3 * s[1] * s[2], 20)),
    "matrix of a channel": lambda s: operators.Matrix(s, _rows(s[1] * s[2], 20)),
    "tall matrix": lambda s: operators.Matrix(s, _rows(s[1] * s[2], s[1] * s[2] + 9)),
    "matrix of low rank": lambda s: operators.Matrix(s, _rows(5, 12) @ _rows(s[1] * s[2], 5)),
    "valid": lambda s: operators.valid_blur(s, _lopsided()),
    "valid separable": lambda s: operators.valid_blur(s, _gaussian(0.6)),
    "blur, masked": lambda s: operators.MaskedMatrix(s, operators.Circular((1, *s[1:]), _lopsided()), _mask(s)),
    "bicubic, masked": lambda s: _masked_matrix(s, operators.Bicubic((1, *s[1:]), 2)),
    "separable": lambda s: operators.Separable(
        s, np.random.default_rng(1).normal(size=(s[1] // 2, s[1])), np.random.default_rng(2).normal(size=(s[2], s[2]))
    ),
}


def _inside(shape: Shape, missing: bool = False) -> Partial:
    part = valid_part(_lopsided(), shape)
    blur = Partial(operators.Circular(shape, _lopsided()), part)
    return Partial(blur.inner, part, _mask(blur.measurement_shape)) if missing else blur


class Neighbours(operators.Iterative):
    """No more than A and A^T: the sum of two pixels side by side."""

    name = "neighbours"

    def __init__(self, image_shape: Shape):
        super().__init__(image_shape, (*image_shape[:2], image_shape[2] - 1))

    def A(self, x):
        return x[:, :, :, 1:] + x[:, :, :, :-1]

    def AT(self, y):
        xp = array_namespace(y)
        end = xp.zeros_like(y[:, :, :, :1])
        return xp.concat([end, y], axis=3) + xp.concat([y, end], axis=3)


ITERATIVE: dict[str, Callable[[Shape], operators.Iterative]] = {
    "neighbours": Neighbours,
    "part of a blur": _inside,
    "part of a blur, masked": lambda s: _inside(s, missing=True),
    "circular, masked": lambda s: Partial(operators.Circular(s, _lopsided()), missing=_mask(s)),
    "mirrored, masked": lambda s: Partial(operators.Deblur.gaussian(s, 0.8), missing=_mask(s)),
    "bicubic, masked by parts": lambda s: Partial(operators.Bicubic(s, 2), missing=_mask((3, s[1] // 2, s[2] // 2))),
}
"""Without a basis: what is iterated comes to its end here."""
SHAPES: list[Shape] = [(3, 8, 8), (3, 4, 12)]
NAMESPACES = {"numpy": np.asarray, "torch": torch.asarray}


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompositions are computed, not found from the last run."""
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[[Shape], Linear]:
    return BUILDERS[request.param]


@pytest.fixture(params=SHAPES, ids=str)
def decomposed(build: Callable[[Shape], Linear], request: pytest.FixtureRequest) -> Linear:
    return build(request.param)


@pytest.fixture(params=SHAPES, ids=str)
def iterative(request: pytest.FixtureRequest, iterated: Callable[[Shape], operators.Iterative]) -> operators.Iterative:
    return iterated(request.param)


@pytest.fixture
def ended(iterative: operators.Iterative) -> operators.Iterative:
    """One that iterates to the last digit."""
    iterative.tolerance, iterative.most = 1e-13, 1000
    return iterative


@pytest.fixture(params=ITERATIVE)
def iterated(request: pytest.FixtureRequest) -> Callable[[Shape], operators.Iterative]:
    return ITERATIVE[request.param]


@pytest.fixture(params=[*BUILDERS, *ITERATIVE])
def operator(request: pytest.FixtureRequest, shape: Shape) -> Resolvable:
    """Every one; those that iterate do so to the last digit."""
    made = {**BUILDERS, **ITERATIVE}[request.param](shape)
    if isinstance(made, operators.Iterative):
        made.tolerance, made.most = 1e-13, 1000
    return made


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(params=NAMESPACES)
def array(request: pytest.FixtureRequest) -> Callable[[np.ndarray], object]:
    return NAMESPACES[request.param]


def dense(operator: Linear) -> np.ndarray:
    """A as a matrix, column by column from its definition."""
    size = int(np.prod(operator.image_shape))
    return operator.A(np.eye(size).reshape(size, *operator.image_shape)).reshape(size, -1).T


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


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


WELL_POSED = [name for name in BUILDERS if name != "wide gaussian"]
"""Those without singular values that rounding alone sets apart from 0."""
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
        one = c.pick(lambda a, row=row: a[row : row + 1])

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


def test_block_mean_is_the_mean_of_blocks():
    x = normal((1, 3, 8, 12))
    expected = x.reshape(1, 3, 2, 4, 3, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(operators.SuperResolution((3, 8, 12), 4).A(x), expected, atol=1e-12)


def test_a_circular_blur_is_scipy_s_on_a_torus(array):
    x = normal((2, 3, 9, 12))
    for kernel in (_lopsided(), operators.motion_kernel(7, 20), operators.gaussian_kernel(1, 0.6, 45)):
        expected = scipy.ndimage.convolve(x, kernel[None, None] / kernel.sum(), mode="wrap")
        np.testing.assert_allclose(operators.Circular((3, 9, 12), kernel).A(array(x)), expected, atol=1e-12)
        kept = operators.Circular((3, 9, 12), kernel, 3).A(array(x))
        np.testing.assert_allclose(kept, expected[:, :, ::3, ::3], atol=1e-12)


def test_a_mirrored_blur_is_scipy_s_with_a_mirrored_border(array):
    x, kernel = normal((2, 3, 9, 12)), operators.gaussian_kernel(1.2, 0.5)
    expected = scipy.ndimage.convolve(x, kernel[None, None], mode="reflect")
    np.testing.assert_allclose(operators.Mirrored((3, 9, 12), kernel).A(array(x)), expected, atol=1e-12)
    assert operators.is_mirrored(kernel)
    assert not operators.is_mirrored(operators.gaussian_kernel(0.5, 1.3, 30))
    assert not operators.is_mirrored(np.ones((4, 4)))


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


def test_grey_rec601_is_pillow_s():
    from PIL import Image

    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(levels).convert("L"), float)
    ours = operators.Colorize((3, 16, 16)).A(levels.transpose(2, 0, 1)[None].astype(float))[0, 0]
    assert np.abs(ours - theirs).max() <= 0.51
    assert all(abs(sum(weights) - 1) < 1e-9 for weights in GREY_WEIGHTS.values())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: operators.SuperResolution((3, 64, 64), 5), "x5 does not divide 64x64"),
        (lambda: operators.Bicubic((3, 64, 64), 5), "x5 does not divide 64x64"),
        (lambda: operators.Inpaint((3, 8, 8), np.ones((8, 8))), "every pixel is marked missing"),
        (lambda: operators.Inpaint((3, 8, 8), np.ones((4, 8))), "the mask is 8x4 but the image is 8x8"),
        (lambda: operators.Colorize((3, 8, 8), "luma"), "no grey weights 'luma'"),
        (lambda: operators.Colorize((1, 8, 8)), "3 channels"),
        (lambda: operators.Deblur.gaussian((3, 8, 8), 0), "standard deviation"),
        (lambda: operators.Deblur.uniform((3, 8, 8), 4), "odd size"),
        (lambda: operators.Circular((3, 8, 8), np.ones((3, 9))), "the kernel is 9x3, larger than the image, 8x8"),
        (lambda: operators.Circular((3, 8, 8), np.ones(3)), "a kernel is a real array"),
        (lambda: operators.Circular((3, 8, 8), np.zeros((3, 3))), "sum to more than 0"),
        (lambda: operators.Circular((3, 8, 8), np.full((3, 3), np.nan)), "must be finite"),
        (lambda: operators.Circular((3, 8, 8), np.ones((3, 3)), 3), "x3 does not divide"),
        (lambda: operators.Mirrored((3, 8, 8), _lopsided()), "its own mirror image"),
        (lambda: operators.Matrix((3, 8, 8), np.ones((5, 60))), "the matrix is 5 x 60; for images of 8x8 it needs 64"),
        (lambda: operators.Matrix((3, 8, 8), np.ones(64)), "the matrix is 64; for"),
        (lambda: operators.Matrix((3, 8, 8), np.zeros((5, 64))), "measure something"),
        (lambda: operators.Matrix((3, 8, 8), np.full((5, 64), np.inf)), "finite"),
        (lambda: operators.Matrix((3, 8, 8), np.ones((5, 64), complex)), "real"),
        (lambda: operators.Matrix((3, 8, 8), np.broadcast_to(np.ones(64), (2**21, 64))), "entries; up to"),
        (lambda: operators.WalshHadamard((3, 8, 12), 0.5), "powers of two; the image is 12x8"),
        (lambda: operators.WalshHadamard((3, 8, 8), 0), "above 0 and up to 1"),
        (lambda: operators.Masked(operators.Bicubic((3, 8, 8), 2), np.eye(4)), "no closed form"),
        (lambda: operators.parse_kernel("motion:1"), "a length in pixels above 1"),
        (lambda: operators.parse_kernel("gaussian:1,-2"), "standard deviations in pixels above 0"),
        (lambda: operators.parse_kernel("disk:3"), "a kernel is gaussian:STD"),
    ],
)
def test_what_does_not_fit_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_a_matrix_is_decomposed_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path))
    matrix, x = _rows(64, 20), normal((1, 3, 8, 8))
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
    for kernel in (_lopsided(), operators.motion_kernel(5, 20), _gaussian(0.8), np.ones((1, 5))):
        expected = scipy.signal.convolve(x, kernel[None, None] / kernel.sum(), mode="valid", method="direct")
        np.testing.assert_allclose(operators.valid_blur((3, 9, 12), kernel).A(array(x)), expected, atol=1e-12)
    assert isinstance(operators.valid_blur((3, 256, 256), operators.gaussian_kernel(3)), operators.Separable)


@pytest.mark.parametrize(
    ("kernel", "times"), [(operators.motion_kernel(7, 30), 5), (operators.gaussian_kernel(1.2), 1.4)]
)
def test_a_valid_blur_does_not_ring_on_a_photograph_that_goes_on_past_its_border(kernel, times):
    """The ridge estimate from the middle of a larger blurred scene, far from its border: a torus rings even there."""
    rng, shape = np.random.default_rng(0), (1, 28, 28)
    scene = np.linspace(-0.8, 0.8, 48) + 0.1 * scipy.ndimage.gaussian_filter(rng.normal(size=(48, 48)), 2) / 0.14
    blurred = scipy.ndimage.convolve(scene, kernel) + 0.01 * rng.normal(size=(48, 48))
    clean, photo, inside = scene[10:38, 10:38], blurred[10:38, 10:38], (slice(6, -6),) * 2

    def error(operator: Linear, y: np.ndarray) -> float:
        ridge = 0.25 * operator.AT(operator.resolvent(y[None, None], 0.01, 0.25))[0, 0]
        return float((ridge - clean)[inside].std())

    valid = error(operators.valid_blur(shape, kernel), photo[valid_part(kernel, shape)])
    assert valid < error(operators.Circular(shape, kernel), photo) / times
    tapered = operators.Tapered(shape, kernel)
    assert error(tapered, tapered.taper(photo[None])[0]) < 1.25 * valid
    if operators.is_mirrored(kernel):
        assert valid < error(operators.Mirrored(shape, kernel), photo)


def test_a_taper_leaves_the_middle_as_it_is_and_closes_the_seam():
    ramp = np.linspace(-1, 1, 32) + np.zeros((3, 32, 1))
    tapered = operators.Tapered((3, 32, 32), operators.motion_kernel(7, 30)).taper(ramp)
    np.testing.assert_allclose(tapered[:, 7:-7, 7:-7], ramp[:, 7:-7, 7:-7], atol=1e-12)
    steps = np.abs(np.diff(tapered, axis=2, append=tapered[:, :, :1]))
    assert steps.max() < 0.5
    assert tapered.dtype == ramp.dtype


def test_what_has_no_closed_form_is_a_matrix_of_a_bounded_size():
    kernel = operators.motion_kernel(5, 20)
    small, large = (operators.valid_blur((3, side, side), kernel) for side in (24, 128))
    assert isinstance(small, operators.Matrix)
    assert isinstance(large, Partial)
    assert large.settings == operators.valid_blur((3, 24, 24), kernel).settings
    with pytest.raises(InputError, match="too large for a matrix at 128x128"):
        operators.MaskedMatrix((3, 128, 128), operators.Circular((1, 128, 128), np.ones((3, 3))), _mask((3, 128, 128)))


@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 12, 7)])
def test_a_part_of_a_circular_blur_is_the_valid_one(shape, array):
    for kernel in (_lopsided(), operators.motion_kernel(5, 20)):
        inside, x = Partial(operators.Circular(shape, kernel), valid_part(kernel, shape)), normal((2, *shape))
        matrix = operators.valid_blur(shape, kernel)
        assert isinstance(matrix, operators.Matrix)
        np.testing.assert_allclose(inside.A(array(x)), matrix.A(x), atol=1e-12)
        assert inside.measured == matrix.measured
        masked = Partial(inside.inner, inside.part, _mask(inside.measurement_shape))
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
        one = c.pick(lambda a, row=row: a[row : row + 1])
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


def test_a_mask_after_a_blur_loses_pixels_of_its_measurement(array):
    inner, x = operators.Circular((1, 8, 12), _lopsided()), normal((2, 3, 8, 12))
    masked = operators.MaskedMatrix((3, 8, 12), inner, _mask((3, 8, 12)))
    expected = np.where(masked.missing, 0, operators.Circular((3, 8, 12), _lopsided()).A(x))
    np.testing.assert_allclose(masked.A(array(x)), expected, atol=1e-12)
    assert masked.settings == {**inner.settings, **operators.Inpaint((3, 8, 12), masked.missing).settings}


def test_a_mask_after_an_operator_loses_pixels_of_its_measurement(array):
    inner = operators.SuperResolution((3, 8, 12), 2)
    missing = _mask(inner.measurement_shape)
    x = normal((2, 3, 8, 12))
    masked = operators.Masked(inner, missing)
    np.testing.assert_allclose(masked.A(array(x)), np.where(missing, 0, inner.A(x)), atol=1e-12)
    assert masked.name == "sr"
    assert masked.settings["scale"] == 2
    assert masked.settings["missing"] == missing.sum()


def test_sensing_is_scipy_s_hadamard_matrix_over_shuffled_pixels():
    operator = operators.WalshHadamard((1, 4, 8), 0.5, seed=3)
    matrix = dense(operator)
    expected = scipy.linalg.hadamard(32)[:16] / 32**0.5
    bits = [1, 2, 4, 8]  # the rows that tell columns apart: compare columns as sets
    ours, theirs = (a[:, np.lexsort(np.sign(a[bits]))] for a in (matrix, expected))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert not np.array_equal(dense(operators.WalshHadamard((1, 4, 8), 0.5, seed=4)), matrix)
    assert operator.settings == {"fraction": 0.5, "seed": 3}
    first = dense(operators.WalshHadamard((1, 2, 4), 1, seed=0))
    assert np.flatnonzero(first[1] < 0).tolist() == [2, 5, 6, 7]  # pinned: a measurement outlives its software


def test_rows_of_zeros_measure_nothing():
    matrix = _rows(64, 20)
    matrix[3:6] = 0
    operator = operators.Matrix((3, 8, 8), matrix)
    assert operator.measured == 3 * 17
    y = operator.observed(np.full((3, 1, 20), np.nan))
    assert (y[:, :, 3:6] == 0).all()
    assert np.isnan(y[:, :, 6:]).all()


def saturate(x):
    """Not linear: half the resolution of tanh(1.5 x)."""
    return torch.nn.functional.avg_pool2d(torch.tanh(1.5 * x), 2)


def test_a_torch_function_is_an_operator_in_every_namespace(array):
    """Against the derivative by hand: 1.5 (1 - tanh^2), spread over each 2x2 block and divided by 4."""
    operator = operators.Custom.from_torch((3, 8, 8), (3, 4, 4), saturate)
    x, r = normal((2, 3, 8, 8)), normal((2, 3, 4, 4), 1)
    y, pulled = operator.A(array(x)), operator.vjp(array(x), array(r))
    assert type(y) is type(pulled) is type(array(x))
    tanh = np.tanh(1.5 * x)
    np.testing.assert_allclose(y, tanh.reshape(2, 3, 4, 2, 4, 2).mean((3, 5)), rtol=1e-12)
    spread = r.repeat(2, axis=2).repeat(2, axis=3) / 4
    np.testing.assert_allclose(pulled, 1.5 * (1 - tanh**2) * spread, rtol=1e-12)


def deepinv_pairs(physics) -> dict[str, tuple[Linear, object]]:
    """Ours, and deepinv's of the same degradation."""
    shape = (3, 8, 12)
    kernel = operators.motion_kernel(3, 30) * [[1.0, 2.0, 4.0]] + [[0.1], [0.0], [0.2]]
    weights = torch.tensor(kernel / kernel.sum())[None, None]
    masked = operators.Inpaint(shape, _mask(shape))
    return {
        "mask": (masked, physics.Inpainting(shape, mask=torch.tensor(~masked.missing).double().expand(shape))),
        "circular": (operators.Circular(shape, kernel), physics.Blur(weights, padding="circular")),
        "valid": (operators.valid_blur(shape, kernel), physics.Blur(weights, padding="valid")),
        "decimated": (
            operators.Circular(shape, kernel, 2),
            physics.Downsampling(shape, weights, 2, padding="circular"),
        ),
    }


@pytest.mark.parametrize("name", ["mask", "circular", "valid", "decimated"])
def test_deepinv_s_physics_agrees(name):
    """Where deepinv is installed: A, A^T, and the resolvent by its conjugate gradients."""
    ours, theirs = deepinv_pairs(pytest.importorskip("deepinv.physics", exc_type=ImportError))[name]
    x, y = (torch.tensor(normal((2, *shape))) for shape in (ours.image_shape, ours.measurement_shape))
    y = ours.A(x) + 0.1 * torch.as_tensor(ours.observed(y.numpy()))
    torch.testing.assert_close(theirs.A(x), ours.A(x), rtol=0, atol=1e-7)
    torch.testing.assert_close(theirs.A_adjoint(y), ours.AT(y), rtol=0, atol=1e-7)
    proximal = theirs.prox_l2(torch.zeros_like(x), y, 0.3)  # argmin 0.3 |A u - y|^2 + |u|^2
    torch.testing.assert_close(proximal, 0.3 * ours.AT(ours.resolvent(y, 1.0, 0.3)), rtol=0, atol=2e-3)
