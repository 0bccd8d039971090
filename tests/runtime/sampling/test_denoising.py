"""Denoising that starts from the picture itself, against what a Gaussian prior gives in closed form."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from frugal_rt import InputError, Pool, Restorer, operators
from frugal_rt.engines import Prediction
from frugal_rt.engines.betas import train_betas
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.runtime.sampling import reference, restoration
from frugal_rt.runtime.sampling.guidance import AIMS, Guidance
from frugal_rt.runtime.sampling.loop import run
from frugal_rt.runtime.sampling.schedule import LEAST_NOISE, Schedule

from ..measurements import measurement

SHAPE = (1, 4, 4)
OPERATOR = operators.Denoise(SHAPE)
ABAR = np.cumprod(1 - train_betas({}))
NOISE = ((1 - ABAR) / ABAR) ** 0.5
"""Deviation, relative to x0, of the noise at each trained t."""
KINDS = ("epsilon", "v_prediction", "sample")


class Gaussian:
    """A prior N(m, C) whose eigenvalues are `values`, its noisy pictures, and a Restorer of its exact network."""

    def __init__(self, engine_class, values, kind="epsilon", learned=False, **schedule):
        random = np.random.default_rng(2)
        self.values, self.basis = np.asarray(values), np.linalg.qr(random.standard_normal((16, 16)))[0]
        self.mean = 0.2 * random.standard_normal(16)
        config = {**schedule, "prediction_type": kind}
        abar = np.cumprod(1 - train_betas(config))
        engine = engine_class(self.mean, self.basis * self.values @ self.basis.T, abar)
        predict = engine.predict

        def answer(x, t):
            eps, a = predict(x, t).out, abar[t][:, None, None, None]
            x0hat = (x - (1 - a) ** 0.5 * eps) / a**0.5
            out = {"epsilon": eps, "v_prediction": a**0.5 * eps - (1 - a) ** 0.5 * x0hat, "sample": x0hat}[kind]
            return Prediction(out, np.ones_like(out) if learned else None)

        engine.predict, engine.pullback = answer, None  # no gradient is taken
        plan = SimpleNamespace(
            image_shape=SHAPE,
            attends=False,
            stride=None,
            manifest={"schedule": config, "prior": {"name": "gaussian"}, "members": {WEIGHTS: {"sha256": ""}}},
        )
        self.engine, self.restorer = engine, Restorer(plan, engine)

    def pictures(self, sigma, count=64):
        """x0 and y = x0 + sigma n, (count, 1, 4, 4)."""
        random = np.random.default_rng(5)
        clean = self.mean + random.standard_normal((count, 16)) * self.values**0.5 @ self.basis.T
        noisy = clean + sigma * random.standard_normal((count, 16))
        return clean.reshape(-1, *SHAPE), np.float32(noisy.reshape(-1, *SHAPE))

    def kept(self, y, shares):
        """m + V diag(shares) V^T (y - m), clipped as an image is."""
        off = (y.reshape(-1, 16) - self.mean) @ self.basis * shares
        return np.clip(self.mean + off @ self.basis.T, -1, 1).reshape(y.shape)

    def posterior_mean(self, y, sigma):
        return self.kept(y, self._shares(sigma))

    def flow(self, y, sigma):
        """Where the probability flow ends: dz/ds = (z - E[x0 | z]) / s from s = sigma down to 0."""
        return self.kept(y, self._shares(sigma) ** 0.5)

    def _shares(self, sigma):
        return self.values / (self.values + sigma**2) if sigma else np.ones(16)


@pytest.fixture
def gaussian(gaussian_engine):
    def make(values=None, **more):
        return Gaussian(gaussian_engine, np.geomspace(0.01, 0.1, 16) if values is None else values, **more)

    return make


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [0, 1, 20, 57, 300])
def test_fidelity_is_the_posterior_mean(gaussian, kind, learned, t):
    prior, sigma = gaussian(kind=kind, learned=learned), float(NOISE[t])
    _, y = prior.pictures(sigma)
    found = prior.restorer.restore(y, OPERATOR, sigma=sigma, aim="fidelity")
    np.testing.assert_allclose(found.image, prior.posterior_mean(y, sigma), rtol=0, atol=1e-5)
    assert found.forwards == (1,) * len(y)
    assert np.ptp(found.image) > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.2, 0.4])
def test_the_flow_converges_to_the_end_of_its_equation(gaussian, kind, sigma):
    """To first order, as Euler's method does: twice the steps are about half the error."""
    prior = gaussian(np.geomspace(0.04, 0.1, 16), kind=kind)
    _, y = prior.pictures(sigma, 4)
    errors = []
    for steps in (8, 16, 32):
        schedule = Schedule.below(prior.restorer.plan.manifest["schedule"], sigma, steps)
        assert len(schedule) == steps
        rows = prior.restorer._begin(y, OPERATOR, Guidance(sigma=sigma, aim="detail"))
        for row, one in zip(rows, y, strict=True):
            row.schedule, row.step, row.x = schedule, steps - 1, np.float64(schedule.abar[-1] ** 0.5 * one)
        run(rows, prior.engine, 4)
        found = np.stack([row.x for row in rows])
        errors.append(np.abs(found - prior.flow(y, sigma)).mean())
    assert all(1.6 < coarse / fine < 2.4 for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 0.03 * sigma, errors


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.0, 0.004, 0.0124, 0.03, 0.11, 0.5, 2.0])
def test_any_noise_is_served_by_the_nearest_trained_one(gaussian, kind, sigma, aim):
    """The mismatch costs little beside the exact law, and nothing comes out worse than y, flat directions included."""
    prior = gaussian([*np.zeros(6), *np.geomspace(1e-3, 0.1, 10)], kind=kind)
    clean, y = prior.pictures(sigma)
    found = prior.restorer.restore(y, OPERATOR, sigma=sigma, aim=aim).image
    exact = prior.posterior_mean(y, sigma) if aim == "fidelity" else prior.flow(y, sigma)
    error, best, noise = (np.mean((one - clean) ** 2) for one in (found, exact, y))
    apart = np.mean((found - exact) ** 2)
    if kind == "sample" and sigma < NOISE[0]:  # it answers for the least noise that it knows
        assert apart <= NOISE[0] ** 2
    else:
        assert error <= noise + 1e-12
        assert apart <= (0.16 if sigma < NOISE[0] else 0.03) * sigma**2 + 1e-10
    if sigma > NOISE[0]:
        assert error <= 1.05 * best


def test_noise_beyond_the_end_of_a_short_schedule_is_bounded(gaussian):
    prior = gaussian(num_train_timesteps=20)
    clean, y = prior.pictures(2.0)
    for aim in AIMS:
        found = prior.restorer.restore(y, OPERATOR, sigma=2.0, aim=aim).image
        assert np.abs(found).max() <= 1
        assert np.mean((found - clean) ** 2) < 0.25 * np.mean((y - clean) ** 2)


@pytest.mark.parametrize("config", [{}, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1, 0.5, 1.0]}])
@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.019, 0.021, 0.05, 0.2, 1.0, 2.0])
def test_levels_fall_from_the_noise_to_the_least(config, sigma):
    trained = np.cumprod(1 - train_betas(config))
    schedule = Schedule.below(config, sigma, 8)
    assert 1 <= len(schedule) <= 8
    assert np.all(np.diff(schedule.timesteps) > 0)
    assert np.all(np.diff(schedule.abar) < 0)
    assert schedule.abar[-1] == pytest.approx(1 / (1 + sigma**2), abs=1e-11)
    np.testing.assert_array_equal(schedule.abar[:-1], trained[schedule.timesteps[:-1]])
    if sigma <= LEAST_NOISE:
        assert len(schedule) == 1
    if not config and sigma >= 0.2:
        assert len(schedule) == 8
        levels = (1 - schedule.abar) / schedule.abar
        np.testing.assert_allclose(levels, np.linspace(LEAST_NOISE**2, sigma**2, 8), atol=0.02 * sigma**2)
    assert all(np.isfinite(table).all() for table in schedule.tables.values())


@pytest.mark.parametrize(("aim", "steps"), {"detail": 8, "fidelity": 1}.items())
@pytest.mark.parametrize("sigma", [0.004, 0.0124, 0.11, 0.6])
def test_the_page_of_reference_says_the_same(gaussian, sigma, aim, steps):
    prior = gaussian()
    _, y = prior.pictures(sigma, 3)

    def predict(x, t):
        return prior.engine.predict(x, np.array([t])).out

    expected = [reference.denoise(predict, one[None], sigma, train_betas({}), steps)[0] for one in np.float64(y)]
    found = prior.restorer.restore(y, OPERATOR, sigma=sigma, aim=aim).image
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("aim", "steps"), {"detail": 8, "fidelity": 1}.items())
def test_so_does_the_embedded_prior_within_float32(celeba_plan, aim, steps):
    with Restorer.load(celeba_plan, "cpu") as restorer:
        config, sigma = restorer.plan.manifest["schedule"], float(NOISE[40])
        of_v = config["prediction_type"] == "v_prediction"
        random = np.random.default_rng(0)
        clean = np.tanh(np.cumsum(np.cumsum(random.standard_normal(restorer.image_shape), 1), 2) / 20)
        y = np.float32(clean + sigma * random.standard_normal(clean.shape))

        def predict(x, t):
            out = np.float64(restorer.engine.predict(np.float32(x), np.array([t])).out)
            return ABAR[t] ** 0.5 * out + (1 - ABAR[t]) ** 0.5 * x if of_v else out

        expected = reference.denoise(predict, np.float64(y[None]), sigma, train_betas(config), steps)[0]
        found = restorer.restore(y, operators.Denoise(clean.shape), sigma=sigma, aim=aim).image
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.mean((found - clean) ** 2) < 0.7 * np.mean((y - clean) ** 2)


def test_rows_of_a_batch_are_rows_alone(restorer):
    operator = operators.Denoise(restorer.image_shape)
    y = measurement(operator, 3)
    batch = restorer.restore(y, operator, sigma=0.3, batch=3).image
    alone = [restorer.restore(one, operator, sigma=0.3).image for one in y]
    assert np.array_equal(batch, alone)


def test_pictures_of_several_noises_and_lengths_come_to_their_ends_together(restorer):
    operator, events = operators.Denoise(restorer.image_shape), []
    y, noises = measurement(operator, 3), (0.01, 0.3, 0.03)
    groups = [
        restorer._begin(one, operator, Guidance(sigma=sigma, aim="detail"))
        for one, sigma in zip(y, noises, strict=True)
    ]
    lengths = [len(rows[0].schedule) for rows in groups]
    assert lengths[0] == 1 < lengths[2] < lengths[1] == 8
    found = restorer._finish(groups, 2, events.append)
    for result, one, sigma, steps in zip(found, y, noises, lengths, strict=True):
        alone = restorer.restore(one, operator, sigma=sigma)
        assert np.array_equal(result.image[0], alone.image)
        assert result.forwards == alone.forwards == (steps,)
    assert sum(len(event.phases) for event in events) == sum(lengths)
    assert [event.step for event in events] == list(reversed(range(8)))


def test_nothing_is_drawn_compared_or_pulled_back(restorer, counted, monkeypatch):
    def refuse(*key):
        raise AssertionError("noise was drawn")

    monkeypatch.setattr(restoration, "normal", refuse)
    monkeypatch.setattr(restoration, "generator", refuse)
    operator = operators.Denoise(restorer.image_shape)
    events = []
    result = restorer.restore(measurement(operator, 2), operator, sigma=0.3, batch=2, on_step=events.append)
    assert counted == {"predict": 16, "pullback": 0, "pulled": 0}
    assert (result.k, result.gradients, result.trace, result.compared) == ((0, 0), (0, 0), ((), ()), ())
    assert result.forwards == (8, 8)
    assert [(event.step, event.steps, event.phases) for event in events] == [
        (left, 8, ("flow", "flow")) for left in reversed(range(8))
    ]
    assert result.seconds["flow"] > 0 == result.seconds["gradient"] + result.seconds["forward"]


def test_detail_is_the_default_and_the_settings_repeat_it(restorer):
    operator = operators.Denoise(restorer.image_shape)
    y = measurement(operator, 2)
    default = restorer.restore(y, operator, sigma=0.3)
    assert {name for name, value in default.settings.items() if value is None} == {
        *("method", "steps", "switch", "every", "zeta", "lambda", "tile")
    }
    assert default.settings["aim"] == "detail"
    again = restorer.restore(y, operator, sigma=0.3, aim="detail", seed=4)
    assert np.array_equal(default.image, again.image)
    other = restorer.restore(y, operator, sigma=0.3, aim="fidelity")
    assert (other.settings["aim"], other.forwards) == ("fidelity", (1, 1))
    assert not np.array_equal(other.image, default.image)


SAMPLED = [
    {"preset": "balanced"},
    {"steps": 4},
    {"switch": "auto"},
    {"every": 3},
    {"guidance": "own"},
    {"zeta": 1.0, "method": "dps"},
    {"lam": 1.0, "method": "dmps"},
    {"method": "frugal"},
]


@pytest.mark.parametrize("given", SAMPLED, ids=str)
def test_a_setting_of_a_method_leaves_denoising_to_it_and_goes_with_no_aim(restorer, given):
    operator = operators.Denoise(restorer.image_shape)
    assert Guidance(**given).aim_with(operator) is None
    (row,) = restorer._begin(measurement(operator, 1), operator, Guidance(seed=3, **given))
    assert row.method == given.get("method", "frugal")
    noise = restoration.start_noise(restorer.image_shape, 3, 0)
    assert np.array_equal(row.x, noise) == (row.method != "frugal")
    name = "method" if "method" in given else next(iter(given))
    with pytest.raises(InputError, match=f"an aim says how to restore, and so does {name}; leave one of them out"):
        restorer.restore(measurement(operator, 1), operator, aim="detail", **given)


def test_an_aim_that_is_none_or_of_another_operator_is_refused(restorer, tiny_plan):
    with pytest.raises(InputError, match="no aim 'beauty'; choose one of detail, fidelity"):
        Guidance(aim="beauty")
    grey = operators.Colorize(restorer.image_shape)
    curved = operators.Custom(restorer.image_shape, restorer.image_shape, np.tanh, lambda x, r: r, name="curved")
    with pytest.raises(InputError, match="curved is not a linear operator, so it has no aim"):
        restorer.restore(measurement(curved, 1), curved, aim="fidelity")
    with Pool(tiny_plan, "cpu") as pool, pytest.raises(InputError, match="an aim says how to restore"):
        pool.submit(measurement(grey, 1)[0], grey, aim="fidelity", steps=4)
