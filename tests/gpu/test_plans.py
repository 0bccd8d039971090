"""Ready plans, and plans that travel without their weights."""

import numpy as np
import plans
import pytest

from frugal_rt import Plan, PlanError
from frugal_rt.engines.embedded import embedded_plan
from frugal_rt.export import build_plan
from frugal_rt.export.priors.random_prior import random_prior


@pytest.fixture
def large(small, tmp_path):
    """The plan of random weights, by a small architecture in the place of the large one."""
    (tmp_path / "prior").mkdir()
    path = tmp_path / "large.plan"
    build_plan(random_prior(plans.LARGE, tmp_path / "prior"), precisions=()).save(path)
    return path


def test_a_plan_of_random_weights_is_filled_to_the_same_bytes(large, tmp_path):
    plans.strip(large, tmp_path / "large.zip")
    assert (tmp_path / "large.zip").stat().st_size < large.stat().st_size / 2
    plans.fill(tmp_path / "large.zip", tmp_path / "again.plan")
    assert (tmp_path / "again.plan").read_bytes() == large.read_bytes()


def test_other_weights_are_refused(large, tmp_path, monkeypatch):
    plans.strip(large, tmp_path / "large.zip")
    monkeypatch.setattr(plans, "random_prior", lambda name, folder: random_prior(name, folder, seed=1))
    with pytest.raises(PlanError, match="weights"):
        plans.fill(tmp_path / "large.zip", tmp_path / "again.plan")
    assert not (tmp_path / "again.plan").exists()


def test_ready_plans_are_taken_and_embedded_ones_need_no_export(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "_exported", lambda name: pytest.fail("it was exported"))
    path = plans.plan_file("celeba", tmp_path)
    want = embedded_plan("celeba")
    for name, array in Plan.open(path).tensors().items():
        np.testing.assert_array_equal(array, want.tensors()[name])
    monkeypatch.setenv("FRUGAL_RT_PLANS", str(tmp_path / "ready"))
    (tmp_path / "ready").mkdir()
    assert plans.plan_file("celeba", tmp_path) == path
    (tmp_path / "ready" / "celeba.plan").write_bytes(b"a plan")
    assert plans.plan_file("celeba", tmp_path) == tmp_path / "ready" / "celeba.plan"
