"""The processes of a pool."""

import pytest

from frugal_rt.engines import BackendError
from frugal_rt.engines.machine import THREADS
from frugal_rt.runtime.pool import Pool


def test_a_pool_s_workers_see_a_device_each_and_share_the_cores(driver, monkeypatch):
    given = []

    def launched(module, environment):
        given.append(environment)
        raise BackendError("no process is wanted")

    driver(2, "5,6")
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.launch", launched)
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.cores", lambda: 8)
    with pytest.raises(BackendError, match="no process is wanted"):
        Pool("celeba.plan", devices=(1, 0))
    assert {one["CUDA_VISIBLE_DEVICES"] for one in given} <= {"5", "6"}
    assert {one[THREADS] for one in given} == {"4"}
