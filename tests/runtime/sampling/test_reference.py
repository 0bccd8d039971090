"""`Restorer` gives what the page of `reference.py` says."""

import numpy as np
import pytest

from frugal_rt import Restorer, operators
from frugal_rt.engines.betas import train_betas
from frugal_rt.runtime.sampling import reference
from frugal_rt.runtime.sampling.guidance import Guidance, stride_of
from frugal_rt.runtime.sampling.loop import run
from frugal_rt.runtime.sampling.plain_estimate import plain_estimate
from frugal_rt.runtime.sampling.restoration import Restoration, start_noise
from frugal_rt.runtime.sampling.schedule import Schedule

BETAS = np.linspace(1e-4, 0.02, 1000)


def by_reference(engine, operator, y, sigma, schedule, k, seed):
    """The reference with an engine whose network predicts eps or, with the embedded prior, v."""
    betas, steps = train_betas(schedule), schedule["steps"]
    abar = np.cumprod(1 - betas)
    of_v = schedule.get("prediction_type") == "v_prediction"

    def predict(x, t, pulls=False):
        call = engine.pullback if pulls else engine.predict
        answer = call(engine.asarray(x), np.array([t]))
        out, pull = (answer[0].out, answer[1]) if pulls else (answer.out, None)
        if of_v:  # eps = sqrt(abar) v + sqrt(1 - abar) x_t
            out = abar[t] ** 0.5 * np.float64(out) + (1 - abar[t]) ** 0.5 * x
        return (out, pull) if pulls else out

    def pullback(x, t):
        eps, pull = predict(x, t, pulls=True)

        def vjp(cotangent):
            if not of_v:
                return pull(cotangent)
            through = np.float64(pull(engine.asarray(abar[t] ** 0.5 * cotangent)))
            return through + (1 - abar[t]) ** 0.5 * cotangent

        return eps, vjp

    every = stride_of(steps)
    estimate = np.float64(plain_estimate(operator, y, sigma)[None])
    start = Guidance(sigma=sigma, method="frugal").start_with(operator)
    asked = (steps, k, every, estimate, start, seed)
    return reference.restore(predict, pullback, operator, y[None], sigma, betas, *asked)[0]


def kinds(shape):
    missing = np.random.default_rng(3).random(shape[1:]) < 0.85  # so many that the start is far from the image
    return {
        "inpaint": operators.Inpaint(shape, missing),
        "sr": operators.SuperResolution(shape, 2),
        "blur": operators.Deblur.gaussian(shape, 0.8),
        "noise": operators.Denoise(shape),
    }


@pytest.mark.parametrize(
    ("kind", "sigma"),
    [
        (kind, sigma)
        for kind in kinds((1, 4, 4))
        for sigma in (0.0, 0.05, 0.6)
        if sigma or kind != "noise"  # which is the image itself then
    ],
)
@pytest.mark.parametrize("k", [9, 30])
def test_a_gaussian_prior_in_float64_exactly(gaussian_engine, kind, sigma, k):
    shape, steps, seed = (1, 4, 4), 30, 7
    random = np.random.default_rng(0)
    factor = random.standard_normal((16, 16)) / 6
    engine = gaussian_engine(
        0.2 * random.standard_normal(16), factor @ factor.T + 0.01 * np.eye(16), np.cumprod(1 - BETAS)
    )
    operator = kinds(shape)[kind]
    y = operator.observed(0.8 * random.standard_normal(operator.measurement_shape))
    how = Guidance(steps=steps, switch=k, sigma=sigma).settle(operator)
    schedule = Schedule.below({}, how.start, steps, how.power, how.last)
    x = plain_estimate(operator, y, sigma) + how.start * np.float64(start_noise(shape, seed, 0))
    row = Restoration(
        operator,
        y,
        sigma,
        schedule,
        how.switch,
        how.zeta,
        how.lam,
        how.every,
        how.stride,
        seed,
        0,
        x=schedule.abar[-1] ** 0.5 * x,
        start=how.start,
    )
    run([row], engine)
    assert row.k == min(k, len(schedule))
    assert row.gradients == -(-(len(schedule) - row.k) // 2)
    assert row.gradients >= 8 or k == steps
    expected = by_reference(engine, operator, y, sigma, {"steps": steps}, k, seed)
    np.testing.assert_allclose(np.clip(row.x, -1, 1), expected, rtol=0, atol=1e-10)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("kind", ["inpaint", "sr", "blur"])
@pytest.mark.parametrize(("k", "gradients"), [(6, 7), (20, 0)])
def test_the_embedded_prior_within_float32(celeba_plan, kind, k, gradients):
    steps, sigma, seed = 20, 0.05, 1
    restorer = Restorer.load(celeba_plan, "cpu")
    operator = kinds(restorer.image_shape)[kind]
    random = np.random.default_rng(0)
    clean = np.tanh(np.cumsum(np.cumsum(random.standard_normal(restorer.image_shape), 1), 2) / 20)
    y = operator.A(clean[None])[0] + sigma * random.standard_normal(operator.measurement_shape)
    y = operator.observed(np.float32(y))
    ours = restorer.restore(y, operator, sigma=sigma, steps=steps, switch=k, seed=seed)
    schedule = {**restorer.plan.manifest["schedule"], "steps": steps}
    expected = by_reference(restorer.engine, operator, y, sigma, schedule, k, seed)
    assert ours.gradients == (gradients,)
    np.testing.assert_allclose(ours.image, expected, rtol=0, atol=1e-3)
