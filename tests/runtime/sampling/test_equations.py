"""The samplers against autograd, and against a Gaussian prior whose posterior is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from frugal_rt import operators
from frugal_rt.engines import OnHost, Prediction
from frugal_rt.runtime.sampling import equations
from frugal_rt.runtime.sampling.advance import advance, move
from frugal_rt.runtime.sampling.equations import (
    FRUGAL_MAX_STEP,
    ddrm_transition,
    dmps_gain,
    dmps_step,
    likelihood_score,
    matched_direction,
    matched_estimate,
)
from frugal_rt.runtime.sampling.guidance import Guidance
from frugal_rt.runtime.sampling.plain_estimate import plain_estimate
from frugal_rt.runtime.sampling.restoration import Group, Move, Restoration
from frugal_rt.runtime.sampling.schedule import Schedule

SHAPE = (1, 4, 4)


class Guided:
    """x_t -> || y - A clip(x0hat(x_t)) || through a small smooth network, three rows in float64, and its gradient."""

    def __init__(self, sigma):
        torch.manual_seed(0)
        self.weight = torch.randn(16, 16, dtype=torch.float64) / 4
        self.operator = operators.SuperResolution(SHAPE, 2)
        self.x, self.z = (torch.randn(3, *SHAPE, dtype=torch.float64) for _ in range(2))
        self.y = torch.randn(3, *self.operator.measurement_shape, dtype=torch.float64)
        self.c = Schedule.gather([Schedule.respaced({}, 50)] * 3, [45, 20, 1], self.x, torch)
        self.sigma = torch.full((3, 1, 1, 1), sigma, dtype=torch.float64)
        leaf = self.x.clone().requires_grad_()
        raw = (leaf - (1 - self.c.abar).sqrt() * self.network(leaf)) / self.c.abar.sqrt()
        x0hat = torch.clamp(raw, -1, 1)
        clipped = x0hat.detach().abs() == 1
        assert 0 < clipped.sum() < clipped.numel(), "the case must clip some pixels and not others"
        residual = self.y - self.operator.A(x0hat)
        norms = residual.reshape(3, -1).norm(dim=1)
        (self.gradient,) = torch.autograd.grad(norms.sum(), leaf)
        self.x0hat, self.norms = x0hat.detach(), norms.detach()
        reach = self.operator.AT(residual.detach())
        self.passed = ((reach * ~clipped).square().sum((1, 2, 3)) / reach.square().sum((1, 2, 3)))[:, None, None, None]

    def network(self, x):
        return torch.tanh(x.reshape(3, 16) @ self.weight).reshape(x.shape)

    def pullback(self, x, t):
        leaf = x.clone().requires_grad_()
        out = self.network(leaf)
        return Prediction(out.detach(), None), lambda v: torch.autograd.grad(out, leaf, v)[0]

    def predict(self, x, t):
        return self.pullback(x, t)[0]

    def after(self, kind, constant):
        """x_{t-1} and x0hat of a move; this is the engine."""
        constant = torch.tensor(constant, dtype=torch.float64)[:, None, None, None]
        groups = [Group(self.operator, self.y, slice(0, 3))]
        return move(kind, self, groups, self.c, self.x, self.z, self.sigma, constant)

    def transition(self):
        return ddrm_transition(self.operator, self.y, self.x, self.x0hat, self.z, self.sigma, self.c)

    def polyak(self):
        """excess / |grad|^2, weighed by what the clip lets through; 0 where that is nothing, as in the first row."""
        excess = (self.norms - self.sigma.reshape(-1) * self.operator.measured**0.5).clamp(0)[:, None, None, None]
        return (self.passed * excess / self.gradient.square().sum((1, 2, 3), keepdim=True)).nan_to_num(0)


def test_a_dps_step_subtracts_autograd_s_gradient_through_clip_and_network():
    case = Guided(sigma=0.0)
    c = case.c

    def step(zeta):
        return case.after(Move.DPS, zeta)

    guided, plain = step([0.7] * 3), step([0.0] * 3)
    torch.testing.assert_close(guided[1], case.x0hat)
    torch.testing.assert_close(guided[0], plain[0] - 0.7 * case.gradient, rtol=1e-9, atol=1e-9)
    own = step([0.7, float("nan"), 0.0])[0]
    kappa = c.beta / (1 - c.abar)
    size = (kappa * case.polyak())[1]
    assert kappa[1] < 1
    assert 1e-3 < size < 1
    torch.testing.assert_close(own[1], plain[0][1] - size * case.gradient[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own[::2], torch.stack([guided[0][0], plain[0][2]]))


@pytest.mark.parametrize("sigma", [0.0, 0.3, 5.0])
def test_a_frugal_step_takes_the_relaxed_and_bounded_polyak_step_off_the_closed_form(sigma):
    """In autograd's gradient. The rows are bounded and free ones; sigma = 5 explains every residual: no gradient."""
    case = Guided(sigma)
    c = case.c
    steps = [2.0, 4.0, 4.0]
    every = torch.tensor(steps, dtype=torch.float64)[:, None, None, None]
    after, x0hat = case.after(Move.FRUGAL, steps)
    torch.testing.assert_close(x0hat, case.x0hat)
    moved = (1 + c.abar) * case.polyak() * case.gradient
    deviation = (every * c.beta * (1 - c.abar_prev) / (1 - c.abar)).sqrt()  # of DDPM's posterior, eq. 7, times `every`
    share = FRUGAL_MAX_STEP * deviation / moved.square().mean((1, 2, 3), keepdim=True).sqrt()
    if sigma == 5:
        assert not moved.any()
    else:
        assert (share < 1).any()
        assert (share > 1).any()
    expected = case.transition() - share.clamp(max=1) * moved
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-9)
    forward = case.after(Move.CLOSED_FORM, [float("nan")] * 3)
    torch.testing.assert_close(forward, (case.transition(), case.x0hat))


def test_rows_by_conjugate_gradients_come_out_as_each_would_alone():
    """Both moves of `frugal`, through advance: rows of unlike noise take unlike numbers of iterations."""
    operator = operators.Partial(operators.Circular(SHAPE, np.random.default_rng(0).random((2, 3))), missing=np.eye(4))
    random = np.random.default_rng(1)
    x, y = (random.standard_normal((3, *SHAPE)).astype(np.float32) for _ in range(2))

    class Engine(OnHost):
        asarray = staticmethod(np.asarray)

        def predict(self, x, t):
            return Prediction(np.tanh(x), None)

        def pullback(self, x, t):
            return self.predict(x, t), lambda v: v * (1 - np.tanh(x) ** 2)

    def after(moves, picked):
        rows = [
            start(operator, operator.observed(y), x, 50, "frugal", sigma=s, switch=20)[i]
            for i, s in enumerate((0.01, 0.3, 1.0))
        ]
        rows = [rows[i] for i in picked]
        for kind in moves:
            assert {row.move for row in rows} == {kind}
            advance(rows, Engine())
        return np.stack([row.x for row in rows])

    moves = (Move.FRUGAL, Move.CLOSED_FORM)
    together = after(moves, (0, 1, 2))
    assert together.dtype == np.float32
    for i in range(3):
        np.testing.assert_array_equal(after(moves, (i,))[0], together[i])


def test_dps_stops_pulling_once_the_residual_is_noise():
    schedule, operator = Schedule.respaced({}, 50), operators.Denoise(SHAPE)
    x = np.full((1, *SHAPE), 0.3)
    c = Schedule.gather([schedule], [0], x, np)
    nan = np.full((1, 1, 1, 1), np.nan)

    class Engine(OnHost):
        @staticmethod
        def pullback(x, t):
            return Prediction(np.zeros_like(x), None), lambda v: 0 * v

    for offset, moves in ((0.05, False), (0.2, True)):
        y = x / c.abar**0.5 + offset
        sigma = np.full((1, 1, 1, 1), 0.1)
        after, x0hat = move(Move.DPS, Engine(), [Group(operator, y, slice(0, 1))], c, x, 0 * x, sigma, nan)
        assert (np.abs(after - x0hat).max() > 1e-3) == moves


@pytest.fixture
def case():
    schedule, operator = Schedule.respaced({}, 50), operators.SuperResolution(SHAPE, 2)
    random = np.random.default_rng(0)
    x, out = (random.standard_normal((2, *SHAPE)) for _ in range(2))
    y = random.standard_normal((2, *operator.measurement_shape))
    return operator, y, x, out, Schedule.gather([schedule] * 2, [30, 4], x, np)


def start(operator, y, x, steps, method, sigma=0.05, **guidance):
    """A row for each start x, of one measurement or each of its own."""
    settled = Guidance(steps=steps, method=method, sigma=sigma, **guidance).settle(operator)
    how = settled._asdict()
    power, last, noise = (how.pop(name) for name in ("power", "last", "noise"))
    schedule, each = Schedule.respaced({}, steps), np.broadcast_to(y, (len(x), *operator.measurement_shape))
    if settled.start is not None:
        schedule = Schedule.below({}, settled.start, steps, power, last)
        plain = np.stack([plain_estimate(operator, one, sigma) for one in each])
        x = np.asarray(schedule.abar[-1] ** 0.5 * (plain + noise * x), x.dtype)
    return [Restoration(operator, each[i], sigma, schedule, **how, seed=1, sample=i, x=x[i]) for i in range(len(x))]


def test_a_constant_lambda_adds_lambda_beta_over_root_alpha_times_the_score(case):
    """Through advance: rows with a constant, equal or not."""
    operator, y, x, _, c = case

    class Engine(OnHost):
        asarray = staticmethod(np.asarray)

        def predict(self, x, t):
            return Prediction(np.full_like(x, 0.1), None)

    def after(*lams):
        rows = [start(operator, y, x, 50, "dmps", lam=lam)[i] for i, lam in enumerate(lams)]
        for row, step in zip(rows, (30, 4), strict=True):
            row.step = step
        assert {row.move for row in rows} == {Move.DMPS}
        advance(rows, Engine())
        return np.stack([row.x for row in rows])

    expected = 1.3 * c.beta / c.alpha**0.5 * likelihood_score(operator, y, x, 0.05, c.abar)
    np.testing.assert_allclose(after(1.3, 1.3) - after(0.0, 0.0), expected, rtol=1e-9)
    np.testing.assert_array_equal(after(1.3, 0.0), [after(1.3, 1.3)[0], after(0.0, 0.0)[1]])


def test_where_the_measurement_knows_better_the_estimate_is_brought_to_it(case):
    """Without noise what the closed form leaves of x_{t-1} measures as y; with much, it is as if there were no y."""
    operator, y, x, out, c = case
    x0hat = np.clip(out, -1, 1)

    def mean(y, sigma):
        return ddrm_transition(operator, y, x, x0hat, 0 * x, np.full((2, 1, 1, 1), sigma), c)

    np.testing.assert_allclose(operator.A(mean(y, 0.0)), c.abar_prev**0.5 * y, atol=1e-12)
    np.testing.assert_allclose(mean(y, 1e9), ddrm_transition(BLIND, 0 * x, x, x0hat, 0 * x, 0.1, c), atol=1e-6)
    for sigma, sensitive in ((0.0, 1.0), (1e9, 0.0)):
        change = operator.A(mean(y + 1, sigma) - mean(y, sigma))
        np.testing.assert_allclose(change, sensitive * c.abar_prev**0.5 + 0 * y, atol=1e-6)


@pytest.fixture(scope="module")
def gaussian():
    """A smooth Gaussian prior over 4x4 images, well inside [-1, 1]: mean, covariance and training schedule."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 2), -1).reshape(-1, 2)
    squares = ((grid[:, None] - grid[None]) ** 2).sum(-1)
    return 0.1 * np.ones(16), 0.2**2 * np.exp(-squares / 8), np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


BLIND = operators.Separable(SHAPE, np.zeros((4, 4)), np.eye(4))


@pytest.fixture
def sample(finish):
    """The images drawn, (rows, 16), from a start noise each."""

    def sample(engine, operator, y, method, steps, rows, **how):
        states = start(operator, y, np.random.default_rng(5).standard_normal((rows, *SHAPE)), steps, method, **how)
        finish(states, engine)
        return np.stack([state.x for state in states]).reshape(rows, -1)

    return sample


def law(engine, kind, steps):
    """The covariance of what a move by forward calls draws without a measurement, exactly: it is linear in x and z."""
    schedule, drawn, still = Schedule.respaced({}, steps), np.eye(16), np.zeros((16, *SHAPE))
    unit = 1e-3 * np.eye(16).reshape(still.shape)  # nothing is clipped
    x, z = np.concatenate([unit, still]), np.concatenate([still, unit])
    for step in reversed(range(steps)):
        c = Schedule.gather([schedule], [step], x, np)
        c = replace(c, t=np.repeat(c.t, len(x)))
        sigma, lam = np.full((len(x), 1, 1, 1), 0.1), np.zeros((len(x), 1, 1, 1))
        after, _ = move(kind, engine, [Group(BLIND, 0 * x, slice(0, len(x)))], c, x, z, sigma, lam)
        of_x, of_z = 1e3 * after.reshape(2, 16, 16)
        drawn = of_x.T @ drawn @ of_x + of_z.T @ of_z
    return drawn


@pytest.mark.parametrize(
    ("kind", "method", "bounds"), [(Move.DMPS, "dmps", (0.3, 0.05)), (Move.CLOSED_FORM, "closed-form", (0.4, 0.15))]
)
def test_without_a_measurement_the_sampler_draws_from_the_prior_as_steps_shrink(
    gaussian, gaussian_engine, sample, kind, method, bounds
):
    """The law of a move nears the prior with T, and rows through `advance` have that law."""
    mean, covariance, abar = gaussian
    centred = gaussian_engine(np.zeros(16), covariance, abar)
    off = [np.abs(law(centred, kind, steps) - covariance).max() / 0.2**2 for steps in (50, 200, 1000)]
    print(kind, off)
    assert bounds[0] > off[0] > 1.3 * off[1] > 1.3**2 * off[2]
    assert off[2] < bounds[1]
    exact, rows = law(centred, kind, 50), 500
    draws = sample(gaussian_engine(*gaussian), BLIND, np.zeros(SHAPE), method, 50, rows)
    deviation = np.diag(exact) ** 0.5
    assert np.abs((draws.mean(0) - mean) / deviation).max() < 4 / np.sqrt(rows)
    assert np.abs((np.cov(draws.T) - exact) / np.outer(deviation, deviation)).max() < 4 * np.sqrt(2 / rows)


def test_gradients_bring_frugal_to_the_mean_in_a_hole_that_forward_steps_do_not_find(gaussian, gaussian_engine, sample):
    """Root mean square distance from the posterior's mean, half the image missing, over 64 truths."""
    mean, covariance, _ = gaussian
    operator = operators.Inpaint(SHAPE, np.arange(16).reshape(4, 4) % 4 >= 2)
    random = np.random.default_rng(2)
    truth = random.multivariate_normal(mean, covariance, size=64).reshape(64, *SHAPE)
    y = operator.observed(operator.A(truth) + 0.05 * random.standard_normal(truth.shape))
    posterior, _ = known_posterior(mean, covariance, operator, y, 0.05)
    engine, hole = gaussian_engine(*gaussian), operator.missing.reshape(-1)

    def apart(method, **how):
        return np.square(sample(engine, operator, y, method, 50, 64, **how) - posterior)[:, hole].mean() ** 0.5

    assert apart("frugal", switch=4) < 0.9 * apart("closed-form") < 0.9**2 * apart("dmps", lam=1.75)


def known_posterior(mean, covariance, operator, y, sigma):
    """The mean of x | y for each row, and its covariance.

    N(m + G (y - A m), C - G A C) with G = C A^T (A C A^T + sigma^2 I)^{-1}.
    """
    a = operator.A(np.eye(16).reshape(16, *SHAPE)).reshape(16, -1).T
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + sigma**2 * np.eye(len(a)))
    return mean + (y.reshape(-1, len(a)) - a @ mean) @ gain.T, covariance - gain @ a @ covariance


@pytest.mark.parametrize(
    ("method", "how"),
    [("dps", {}), ("closed-form", {}), ("frugal", {"switch": 30}), ("frugal", {}), ("hybrid", {}), ("dmps", {})],
)
@pytest.mark.parametrize("kind", ["sr", "inpaint", "blur", "blur, masked"])
def test_draws_are_about_those_of_the_known_posterior(gaussian, gaussian_engine, sample, kind, method, how):
    """No method draws from the posterior exactly. DPS is held to a mean close by and a spread that has not collapsed;
    DMPS's step leaves a tenth of it under a blur.

    Forward steps and the closed form take the prior to be flat, and tell a hole what the network's estimate of it says.
    """
    mean, covariance, _ = gaussian
    operator = {
        "sr": lambda: operators.SuperResolution(SHAPE, 2),
        "inpaint": lambda: operators.Inpaint(SHAPE, np.arange(16).reshape(4, 4) % 3 == 0),
        "blur": lambda: operators.Deblur.gaussian(SHAPE, 0.7),
        "blur, masked": lambda: operators.Partial(operators.Deblur.gaussian(SHAPE, 0.7), missing=np.eye(4)),
    }[kind]()
    sigma, random = 0.05, np.random.default_rng(2)
    truth = random.multivariate_normal(mean, covariance)
    noise = sigma * random.standard_normal(operator.measurement_shape)
    y = operator.observed(operator.A(truth.reshape(1, *SHAPE))[0] + noise)
    posterior, around = known_posterior(mean, covariance, operator, y, sigma)
    draws = sample(gaussian_engine(*gaussian), operator, y, method, 100, 64, sigma=sigma, **how)
    left = np.linalg.norm(draws.mean(0) - posterior) / np.linalg.norm(mean - posterior)
    spread = np.trace(np.cov(draws.T)) / np.trace(around)
    print(kind, method, how, f"{left:.3f} {spread:.2f}")
    flat = kind == "inpaint" and method != "dps"
    assert left < (0.65 if flat else 0.25)
    least = {"blur": 0.07 if method in ("hybrid", "dmps") else 0.25, "blur, masked": 0.12}.get(kind, 0.38)
    assert least < spread < (2.2 if flat else 1.2)


def test_more_steps_do_not_believe_strong_noise_more(gaussian, gaussian_engine, sample, monkeypatch):
    """How far the draws' mean is from the posterior's, of the prior's distance: alike at 50 and 400 steps.

    As Bayes weighs y it is small at both; DDRM's weight, with eta falling, leaves 0.2 and 1.0.
    """
    mean, covariance, _ = gaussian
    operator, sigma, random = operators.Denoise(SHAPE), 0.3, np.random.default_rng(2)
    truth = random.multivariate_normal(mean, covariance).reshape(SHAPE)
    y = truth + sigma * random.standard_normal(SHAPE)
    posterior, _ = known_posterior(mean, covariance, operator, y[None], sigma)

    def left(steps):
        draws = sample(gaussian_engine(*gaussian), operator, y, "closed-form", steps, 64, sigma=sigma)
        return np.linalg.norm(draws.mean(0) - posterior) / np.linalg.norm(mean - posterior)

    few, many = left(50), left(400)
    print(few, many)
    assert abs(many - few) < 0.25
    monkeypatch.setattr(equations, "CORRELATION_POWER", 1.0)
    assert max(left(50), left(400)) < 0.35


@pytest.mark.parametrize("lam", [None, 0.7, 5.0])
@pytest.mark.parametrize("kind", ["by its SVD", "by its resolvent"])
def test_dmps_of_its_own_moves_x_no_further_than_to_the_measurement(lam, kind):
    """Its share of the way to y in each direction, against the gain written out; a lambda given is not bounded."""
    random = np.random.default_rng(0)
    blur = operators.Separable(SHAPE, random.standard_normal((4, 4)), random.standard_normal((4, 4)))
    operator = blur if kind == "by its SVD" else operators.Partial(blur)
    x, y = random.standard_normal((2, *SHAPE)), random.standard_normal((2, *SHAPE))
    c = Schedule.gather([Schedule.respaced({}, 20)] * 2, [11, 0], x, np)
    sigma, asked = np.full((2, 1, 1, 1), 0.2), np.full((2, 1, 1, 1), np.nan if lam is None else lam)
    used, gain = dmps_gain(asked, c)
    score = likelihood_score(operator, y, x, sigma, c.abar, gain)
    moved = dmps_step(0 * x, score, used, c)

    s = blur.spectrum(x)
    way = c.abar**0.5 * blur.Ut(y) / s - blur.Vt(x)
    share = used * c.beta * s**2 / (c.alpha**0.5 * c.abar * (sigma**2 + (1 - c.abar) / c.abar * s**2))
    if lam is None:
        assert share.max() > 1  # unbounded, it would
        most = np.maximum(1, used * c.beta / (c.alpha**0.5 * (1 - c.abar)))  # over all s
        share = np.minimum(share, 1) if kind == "by its SVD" else share / most
        assert share.max() <= 1
    np.testing.assert_allclose(blur.Vt(moved), share * way, rtol=1e-6, atol=1e-9)


class Correlated:
    """E[x0 | x_t] of a Gaussian prior N(0, I + F F^T), and the covariance of x0 given x_t, at one step."""

    def __init__(self):
        random = np.random.default_rng(0)
        factor = random.standard_normal((16, 3))
        covariance = np.eye(16) + factor @ factor.T
        self.c = Schedule.gather([Schedule.respaced({}, 50)], [25], np.zeros(1), np)
        abar = self.c.abar.item()
        inverse = np.linalg.inv(abar * covariance + (1 - abar) * np.eye(16))
        self.given_x = (1 - abar) * covariance @ inverse
        self.eps_of_x = (1 - abar) ** 0.5 * inverse
        x = abar**0.5 * random.standard_normal((1, *SHAPE)) / 9
        self.x0hat, self.unclipped = equations.estimate(x, (x.reshape(1, 16) @ self.eps_of_x).reshape(x.shape), self.c)
        assert self.unclipped.all()

    def moved(self, operator, y, sigma, share=1.0):
        """Move x0hat, with `share` of the covariance that is true."""

        def pull(v):
            whole = self.c.x0_x / self.c.x0_out * v
            return whole - share * (whole - (v.reshape(1, 16) @ self.eps_of_x).reshape(v.shape))

        direction = matched_direction(operator, y, self.x0hat, np.full((1, 1, 1, 1), sigma), self.c)
        return matched_estimate(self.x0hat, self.unclipped, pull, *direction, self.c)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_one_value_moves_x0hat_to_the_exact_posterior_mean_by_moment_matching(sigma):
    """With one measured value a step of conjugate gradients is all of them."""
    prior, operator, y = Correlated(), operators.SuperResolution(SHAPE, 4), np.full((1, 1, 1, 1), 0.7)
    row = operator.AT(np.ones((1, 1, 1, 1))).reshape(16)  # A
    residual = 0.7 - row @ prior.x0hat.reshape(16)
    exact = prior.given_x @ row * residual / (sigma**2 + row @ prior.given_x @ row)
    moved = prior.moved(operator, y, sigma) - prior.x0hat
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(moved.reshape(16), exact, rtol=1e-9)


def test_a_network_that_claims_next_to_no_covariance_does_not_move_x0hat_without_bound():
    prior, operator, y = Correlated(), operators.SuperResolution(SHAPE, 4), np.full((1, 1, 1, 1), 0.7)
    whole, tenth, nothing, negative = (
        np.abs(prior.moved(operator, y, 0.0, share) - prior.x0hat).max() for share in (1.0, 0.1, 0.0, -0.1)
    )
    assert nothing < 1e-9
    assert 0 < tenth < whole / 2
    np.testing.assert_allclose(negative, tenth, rtol=1e-9)
