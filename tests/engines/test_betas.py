"""Betas of a training schedule against diffusers' DDPMScheduler."""

import numpy as np
import pytest
from diffusers import DDPMScheduler

from frugal_rt import InputError
from frugal_rt.engines.betas import train_betas

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
