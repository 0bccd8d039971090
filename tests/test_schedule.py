"""Schedules and the ancestral step against diffusers' DDPMScheduler."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from frugal_rt import InputError
from frugal_rt.runtime.sampler import ancestral, estimate
from frugal_rt.runtime.schedule import Schedule, train_betas

KINDS = ["linear", "scaled_linear", "squaredcos_cap_v2"]


@pytest.mark.parametrize("kind", KINDS)
def test_betas_are_diffusers_(kind):
    theirs = DDPMScheduler(1000, beta_schedule=kind)
    np.testing.assert_allclose(train_betas(dict(theirs.config)), theirs.betas, rtol=2e-4, atol=1e-7)


def test_trained_betas_are_taken_as_they_are():
    assert train_betas({"trained_betas": [0.1, 0.2]}).tolist() == [0.1, 0.2]


def test_an_unknown_schedule_is_named():
    with pytest.raises(InputError, match="'sigmoid' is not known"):
        train_betas({"beta_schedule": "sigmoid"})


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
