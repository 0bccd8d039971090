"""The samplers against autograd, and against a Gaussian prior whose posterior is known."""

import numpy as np
import pytest
import torch

from frugal_rt import operators
from frugal_rt.engines import Prediction
from frugal_rt.runtime.restoration import Restoration, advance
from frugal_rt.runtime.sampler import (
    dmps_step,
    dps_step,
    likelihood_score,
    residual_gradient,
    settled_guidance,
)
from frugal_rt.runtime.schedule import Schedule
from frugal_rt.runtime.switch import Switch

SHAPE = (1, 4, 4)


def test_a_dps_step_subtracts_autograd_s_gradient_through_clip_and_network():
    """The whole map x_t -> || y - A clip(x0hat(x_t)) ||, a small smooth network, float64, a constant zeta."""
    torch.manual_seed(0)
    weight = torch.randn(16, 16, dtype=torch.float64) / 4
    schedule = Schedule.respaced({}, 50)
    operator = operators.SuperResolution(SHAPE, 2)
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    z = torch.randn(3, *SHAPE, dtype=torch.float64)
    y = torch.randn(3, *operator.measurement_shape, dtype=torch.float64)
    c = Schedule.gather([schedule] * 3, [45, 20, 1], x, torch)

    def network(x):
        return torch.tanh(x.reshape(3, 16) @ weight).reshape(x.shape)

    leaf = x.clone().requires_grad_()
    x0hat = torch.clamp((leaf - (1 - c.abar).sqrt() * network(leaf)) / c.abar.sqrt(), -1, 1)
    assert 0 < (x0hat.abs() == 1).sum() < x0hat.numel(), "the case must clip some pixels and not others"
    norms = (y - operator.A(x0hat)).reshape(3, -1).norm(dim=1)
    (gradient,) = torch.autograd.grad(norms.sum(), leaf)

    def pullback(x, t):
        leaf = x.clone().requires_grad_()
        out = network(leaf)
        return Prediction(out.detach(), None), lambda v: torch.autograd.grad(out, leaf, v)[0]

    def step(zeta):
        zeta = torch.tensor(zeta, dtype=torch.float64)[:, None, None, None]
        sigma = torch.zeros_like(zeta)
        return dps_step(x, z, c, pullback, lambda x0: residual_gradient(operator, y, x0, sigma), zeta)

    guided, plain = step([0.7] * 3), step([0.0] * 3)
    torch.testing.assert_close(guided[1], x0hat.detach())
    torch.testing.assert_close(guided[0], plain[0] - 0.7 * gradient, rtol=1e-9, atol=1e-9)
    own = step([0.7, float("nan"), 0.0])[0]
    reach = residual_gradient(operator, y, x0hat.detach(), torch.zeros(3, 1, 1, 1, dtype=torch.float64))[0]
    passed = (reach * (x0hat.detach().abs() < 1)).square().sum((1, 2, 3)) / reach.square().sum((1, 2, 3))
    kappa = c.beta / (1 - c.abar)
    polyak = passed[1] * kappa[1].item() * norms[1].detach() / gradient[1].square().sum()
    assert kappa[1] < 1
    assert 1e-3 < polyak < 1
    torch.testing.assert_close(own[1], plain[0][1] - polyak * gradient[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own[::2], torch.stack([guided[0][0], plain[0][2]]))


def test_dps_stops_pulling_once_the_residual_is_noise():
    schedule, operator = Schedule.respaced({}, 50), operators.Denoise(SHAPE)
    x = np.full((1, *SHAPE), 0.3)
    c = Schedule.gather([schedule], [0], x, np)
    nan = np.full((1, 1, 1, 1), np.nan)

    def engine(x, t):
        return Prediction(np.zeros_like(x), None), lambda v: 0 * v

    for offset, moves in ((0.05, False), (0.2, True)):
        y = x / c.abar**0.5 + offset
        sigma = np.full((1, 1, 1, 1), 0.1)
        after, x0hat = dps_step(x, 0 * x, c, engine, lambda x0: residual_gradient(operator, y, x0, sigma), nan)  # noqa: B023
        assert (np.abs(after - x0hat).max() > 1e-3) == moves


@pytest.fixture
def dmps_case():
    schedule, operator = Schedule.respaced({}, 50), operators.SuperResolution(SHAPE, 2)
    random = np.random.default_rng(0)
    x, out = (random.standard_normal((2, *SHAPE)) for _ in range(2))
    y = random.standard_normal((2, *operator.measurement_shape))
    return operator, y, x, out, Schedule.gather([schedule] * 2, [30, 4], x, np)


def test_a_constant_lambda_adds_lambda_beta_over_root_alpha_times_the_score(dmps_case):
    """Through advance: rows with a constant, alone and beside a row with the step of its own."""
    operator, y, x, _, c = dmps_case
    schedule = Schedule.respaced({}, 50)

    class Engine:
        asarray = staticmethod(np.asarray)

        def predict(self, x, t):
            return Prediction(np.full_like(x, 0.1), None)

    def after(lams):
        rows = [
            Restoration(operator, y[i], 0.05, schedule, Switch(50, 50), None, lam, 0, i, x[i])
            for i, lam in enumerate(lams)
        ]
        for row, step in zip(rows, (30, 4), strict=True):
            row.step = step
        advance(rows, Engine())
        return np.stack([row.x for row in rows])

    expected = 1.3 * c.beta / c.alpha**0.5 * likelihood_score(operator, y, x, 0.05, c.abar)
    np.testing.assert_allclose(after([1.3, 1.3]) - after([0.0, 0.0]), expected, rtol=1e-9)
    np.testing.assert_array_equal(after([1.3, None])[0], after([1.3, 1.3])[0])
    np.testing.assert_array_equal(after([1.3, None])[1], after([None, None])[1])


def test_where_the_measurement_knows_better_the_estimate_is_brought_to_it(dmps_case):
    """Without noise the guided x0hat, x0hat + (1-abar)/sqrt(abar) g, measures as y; with much, g is the paper's."""
    operator, y, x, out, c = dmps_case
    x0hat, cap = np.clip(out, -1, 1), np.full((2, 1, 1, 1), np.inf)
    exact = settled_guidance(operator, y, x, x0hat, 0.0, c.abar, cap)
    np.testing.assert_allclose(operator.A(x0hat + (1 - c.abar) / c.abar**0.5 * exact), y, atol=1e-9)
    blurred = settled_guidance(operator, y, x, x0hat, 1e3, c.abar, cap)
    np.testing.assert_allclose(blurred, 1.75 * likelihood_score(operator, y, x, 1e3, c.abar), rtol=1e-4, atol=1e-12)


def test_dmps_s_own_step_never_turns_the_noise_over():
    """With all directions measured and the exact x0hat, its share of x_t's noise stays in 0..1, at any step."""
    for steps in (5, 20, 100):
        schedule, operator = Schedule.respaced({}, steps), operators.Denoise(SHAPE)
        for i in range(steps):
            for sigma in (0.01, 0.3):
                clean, noise = np.full((1, *SHAPE), 0.2), np.ones((1, *SHAPE))
                c = Schedule.gather([schedule], [i], clean, np)
                x = c.abar**0.5 * clean + (1 - c.abar) ** 0.5 * noise
                guide = lambda x0, cap: settled_guidance(operator, clean, x, x0, sigma, c.abar, cap)  # noqa: B023, E731
                engine = lambda x, t: Prediction(noise, None)  # noqa: B023, E731
                after = dmps_step(x, 0 * x, c, engine, guide)[0]
                drift = (c.mean_x0 + c.mean_x * c.abar**0.5) * clean
                share = (after - drift) / (1 - c.abar) ** 0.5
                assert (share > -1e-9).all(), (steps, i, sigma)
                assert (share <= 1).all(), (steps, i, sigma)


@pytest.fixture(scope="module")
def gaussian():
    """A smooth Gaussian prior over 4x4 images, well inside [-1, 1]: mean, covariance and training schedule."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 2), -1).reshape(-1, 2)
    squares = ((grid[:, None] - grid[None]) ** 2).sum(-1)
    return 0.1 * np.ones(16), 0.2**2 * np.exp(-squares / 8), np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def sample(engine, operator, y, sigma, switch, steps, rows):
    schedule = Schedule.respaced({}, steps)
    start = np.random.default_rng(5).standard_normal((rows, *SHAPE))
    states = [
        Restoration(operator, y, sigma, schedule, Switch.parse(switch, steps), None, None, seed=1, sample=i, x=start[i])
        for i in range(rows)
    ]
    while states[0].step >= 0:
        for phase in {state.phase for state in states}:
            advance([state for state in states if state.phase is phase], engine)
    return np.stack([state.x for state in states]).reshape(rows, -1)


def test_without_a_measurement_the_sampler_draws_from_the_prior(gaussian, gaussian_engine):
    mean, covariance, abar = gaussian
    engine = gaussian_engine(mean, covariance, abar)
    blind = operators.Separable(SHAPE, np.zeros((4, 4)), np.eye(4))
    draws = sample(engine, blind, np.zeros(SHAPE), 0.1, "always", 300, 600)
    assert np.abs(draws.mean(0) - mean).max() < 4 * 0.2 / np.sqrt(600)
    assert np.abs(np.cov(draws.T) - covariance).max() < 0.25 * 0.2**2


@pytest.mark.parametrize("switch", ["never", "always", 30, "auto"])
@pytest.mark.parametrize("kind", ["sr", "inpaint", "blur"])
def test_draws_are_about_those_of_the_known_posterior(gaussian, gaussian_engine, kind, switch):
    """x | y is N(m + G (y - A m), C - G A C) with G = C A^T (A C A^T + sigma^2 I)^{-1}.

    Neither method draws from it exactly. DPS is held to a mean close by and a spread that has not collapsed. DMPS
    takes the prior to be flat: it leaves the estimate's own error in pixels that are seen, and tells the hole nothing.
    That is the case for starting with DPS, and for a network whose estimate has settled by the switch.
    """
    mean, covariance, abar = gaussian
    operator = {
        "sr": lambda: operators.SuperResolution(SHAPE, 2),
        "inpaint": lambda: operators.Inpaint(SHAPE, np.arange(16).reshape(4, 4) % 3 == 0),
        "blur": lambda: operators.Deblur.gaussian(SHAPE, 0.7),
    }[kind]()
    sigma, random = 0.05, np.random.default_rng(2)
    truth = random.multivariate_normal(mean, covariance)
    noise = sigma * random.standard_normal(operator.measurement_shape)
    y = operator.observed(operator.A(truth.reshape(1, *SHAPE))[0] + noise)
    a = operator.A(np.eye(16).reshape(16, *SHAPE)).reshape(16, -1).T
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + sigma**2 * np.eye(len(a)))
    posterior = mean + gain @ (y.reshape(-1) - a @ mean)
    draws = sample(gaussian_engine(mean, covariance, abar), operator, y, sigma, switch, 100, 64)
    left = np.linalg.norm(draws.mean(0) - posterior) / np.linalg.norm(mean - posterior)
    spread = np.trace(np.cov(draws.T)) / np.trace(covariance - gain @ a @ covariance)
    print(kind, switch, f"{left:.3f} {spread:.2f}")
    flat = kind == "inpaint" and switch != "never"
    assert left < (0.65 if flat else 0.25)
    assert 0.4 < spread < (2.2 if flat else 1.2)
