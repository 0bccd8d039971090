"""Noise by key."""

import multiprocessing

import numpy as np

from frugal_rt.runtime.sampling.guidance import Guidance
from frugal_rt.runtime.sampling.noise import Use, normal

from ..measurements import measurement


def test_a_key_gives_one_noise_and_any_change_of_it_another():
    keys = [(0, 0, Use.STEP, 5), (1, 0, Use.STEP, 5), (0, 1, Use.STEP, 5), (0, 0, Use.STEP, 6), (0, 0, Use.START, 5)]
    draws = [normal((3, 32, 32), *key) for key in keys]
    assert np.array_equal(draws[0], normal((3, 32, 32), *keys[0]))
    correlations = np.corrcoef(np.stack(draws).reshape(len(keys), -1))
    assert np.abs(correlations - np.eye(len(keys))).max() < 0.1


def test_noise_is_standard_normal():
    z = np.concatenate([normal((3, 64, 64), seed, 0, Use.STEP, 1).reshape(-1) for seed in range(20)])
    assert z.dtype == np.float32
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01


def test_large_seeds_are_keys_too():
    assert not np.array_equal(normal((4,), 2**64 - 1, 0, Use.START), normal((4,), 2**63, 0, Use.START))


def test_a_process_forked_after_a_restoration_can_restore(restorer, operator):
    """Threads do not outlive a fork; the noise of a step must not wait for one that is gone."""
    y = measurement(operator, 1)[0]
    restorer.restore(y, operator, steps=3, method="closed-form")
    child = multiprocessing.get_context("fork").Process(
        target=lambda: restorer._begin(y, operator, Guidance(steps=3, method="closed-form"))[0].noise(
            restorer.engine.upload
        )
    )
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0
