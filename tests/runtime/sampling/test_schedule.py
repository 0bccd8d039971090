"""Schedules and the ancestral step against diffusers' DDPMScheduler."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from frugal_rt import InputError
from frugal_rt.runtime.sampling.equations import ancestral, estimate
from frugal_rt.runtime.sampling.schedule import EARLY_RATE, LATE_RATE, MOST_FRESH, Schedule, fresh_share

KINDS = ["linear", "scaled_linear", "squaredcos_cap_v2"]


def test_respacing_keeps_the_original_integers_and_abar():
    schedule = Schedule.respaced({}, 20)
    assert schedule.timesteps.tolist() == np.round(np.linspace(0, 999, 20)).astype(int).tolist()
    np.testing.assert_allclose(schedule.abar, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[schedule.timesteps])
    np.testing.assert_allclose(np.cumprod(schedule.tables["alpha"]), schedule.abar)


@pytest.mark.parametrize("steps", [0, 1, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(InputError, match=r"steps must lie in 2\.\.1000"):
        Schedule.respaced({}, steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_the_ancestral_step_is_diffusers_(kind, prediction, variance):
    """Steps of a full schedule, two rows at their own timesteps, the same noise."""
    theirs = DDPMScheduler(
        1000, beta_schedule=kind, prediction_type=prediction, variance_type=variance, clip_sample=True
    )
    schedule = Schedule.respaced(dict(theirs.config), 1000)
    random = np.random.default_rng(0)
    for t in (999, 500, 1, 0):
        x, out, v = (random.standard_normal((2, 3, 4, 4)) for _ in range(3))
        v = np.tanh(v)
        learned = v if variance == "learned_range" else None
        c = Schedule.gather([schedule, schedule], [t, t], x, np)
        generator = torch.Generator().manual_seed(1)
        z = torch.randn((2, 3, 4, 4), generator=generator, dtype=torch.float64).numpy()
        x0hat, _ = estimate(x, out, c)
        ours = ancestral(x, x0hat, learned, z, c)
        model_output = torch.tensor(out if learned is None else np.concatenate([out, v], axis=1))
        step = theirs.step(model_output, t, torch.tensor(x), generator=torch.Generator().manual_seed(1))
        np.testing.assert_allclose(x0hat, step.pred_original_sample, atol=2e-3 if t > 990 else 2e-4)
        if t > 1:  # at t = 1 the learned range's lower end differs: its entry 0 is replaced, not clamped at 1e-20
            np.testing.assert_allclose(ours, step.prev_sample, atol=2e-4)
        if t == 0:
            np.testing.assert_allclose(ours, x0hat, atol=1e-12)


def test_each_row_gets_its_own_schedule_and_step():
    one, other = Schedule.respaced({}, 10), Schedule.respaced({}, 50)
    c = Schedule.gather([one, other], [9, 3], np.zeros((2, 1, 1, 1)), np)
    assert c.t.tolist() == [999, other.timesteps[3]]
    assert c.abar[1, 0, 0, 0] == other.abar[3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 20, 1000])
def test_fresh_shares_lie_below_ddrm_s_and_renew_more_than_the_ancestral_step(kind, steps):
    """An ancestral step keeps 1 - beta / (1 - abar) of the noise's variance: a rate of 1."""
    tables = Schedule.respaced({"beta_schedule": kind}, steps).tables
    fresh, ancestral_kept = tables["fresh"], 1 - tables["beta"] / (1 - tables["abar"])
    assert ((fresh >= 0) & (fresh <= MOST_FRESH)).all()
    assert MOST_FRESH == 0.85
    assert fresh[0] == MOST_FRESH  # all of x_0's noise is new, and none of it is left
    free = fresh < MOST_FRESH
    assert (1 - fresh[free] ** 2 <= ancestral_kept[free] ** EARLY_RATE + 1e-12).all()


def test_fresh_shares_grow_with_the_signal_and_with_the_length_of_a_step():
    abar, gone = np.linspace(0.001, 0.99, 40), np.linspace(0.001, 0.999, 50)  # gone: beta / (1 - abar)
    shares = np.array([[fresh_share(np.array(a), np.array(g * (1 - a))) for a in abar] for g in gone])
    for axis in (0, 1):
        grown = np.diff(shares, axis=axis)
        assert (grown >= 0).all()
        assert (grown[np.delete(shares, 0, axis) < MOST_FRESH] > 0).all()


@pytest.mark.parametrize(("kind", "stretch"), [("linear", (-7.0, -1.0)), ("squaredcos_cap_v2", (-4.0, 0.0))])
def test_fresh_shares_mean_the_same_whatever_the_number_of_steps(kind, stretch):
    """The share of the noise that is kept over a stretch of log(abar / (1 - abar)), against its integral.

    A short step keeps exp(-rate) of it a unit, the rate going from EARLY_RATE to LATE_RATE as abar from 0 to 1.
    """
    start, end = stretch
    integral = EARLY_RATE * (end - start) + (LATE_RATE - EARLY_RATE) * (np.log1p(np.exp(end)) - np.log1p(np.exp(start)))
    for steps, tolerance in ((50, 0.15), (100, 0.08), (300, 0.03), (1000, 0.01)):
        tables = Schedule.respaced({"beta_schedule": kind}, steps).tables
        log_snr = np.log(tables["abar"] / (1 - tables["abar"]))[::-1]
        fresh = tables["fresh"][::-1]
        assert (fresh[(log_snr > start) & (log_snr < end)] < MOST_FRESH).all()
        spent = -np.cumsum(np.log(1 - fresh**2))[:-1]  # on arrival where each step but the last leads
        until_start, until_end = np.interp(stretch, log_snr[1:], spent)
        assert until_end - until_start == pytest.approx(integral, rel=tolerance), steps
