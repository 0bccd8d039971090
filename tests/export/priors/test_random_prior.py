"""Priors of random weights."""

import numpy as np

from frugal_rt.engines import open_engine
from frugal_rt.export import build_plan
from frugal_rt.export.priors import random_prior


def test_random_weights_are_seeded_and_give_a_plan_that_runs(small, tmp_path):
    plans = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(plans))
        folder.mkdir()
        plans.append(build_plan(random_prior.random_prior("celebahq-256", folder, seed), precisions=()))
    first, again, other = (plan.manifest["members"]["weights.safetensors"]["sha256"] for plan in plans)
    assert first == again != other
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    outs = [open_engine(plans[0], backend).predict(x, np.array([500])).out for backend in ("cpu", "torch")]
    np.testing.assert_allclose(*outs, atol=1e-5)
    assert np.isfinite(outs[0]).all()
    assert outs[0].std() > 1e-3
