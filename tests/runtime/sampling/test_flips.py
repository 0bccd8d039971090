"""Flips: the network of a prior for any size sees the picture flipped another way at each step."""

from types import SimpleNamespace

import numpy as np
import pytest

from frugal_rt import Restorer, operators
from frugal_rt.engines import Prediction
from frugal_rt.engines.base import OnHost
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.equations import flipped
from frugal_rt.runtime.sampling.guidance import Guidance
from frugal_rt.runtime.sampling.loop import run
from frugal_rt.runtime.sampling.schedule import FLIPS

SHAPE = (3, 8, 16)
AXES = ((), (2,), (1,), (1, 2))
"""Axes of an image (C, H, W) that are flipped, by the step, for each of the last FLIPS steps."""


class Network(OnHost):
    """A network that predicts x0 as `of(x)`, and keeps its inputs."""

    name = "toy"

    def __init__(self, of):
        self.of, self.saw = of, []

    def prepare(self, gradients, batch=1): ...

    def asarray(self, x):
        return np.ascontiguousarray(x, np.float32)

    def predict(self, x, t):
        self.saw.append(x.copy())
        return Prediction(np.float32(self.of(x)), None)

    def pullback(self, x, t):
        """Pull back through a network that is affine in each pixel."""
        return self.predict(x, t), lambda v: np.float32(self.of(v) - self.of(0 * v))


def restorer(of, stride):
    manifest = {
        "schedule": {"prediction_type": "sample"},
        "prior": {"name": "toy"},
        "members": {WEIGHTS: {"sha256": ""}},
    }
    engine = Network(of)
    return Restorer(SimpleNamespace(image_shape=SHAPE, stride=stride, attends=False, manifest=manifest), engine), engine


def lopsided(x):
    """Darken a picture towards one corner, so that each flip of it has another answer."""
    height, width = x.shape[2:]
    return x * (0.5 + 0.3 * np.linspace(-1, 1, width) + 0.2 * np.linspace(-1, 1, height)[:, None])


def pictures(count):
    return np.float32(np.random.default_rng(1).uniform(-0.5, 0.5, (count, *SHAPE)))


def test_each_row_is_flipped_its_own_way_and_back():
    x = pictures(FLIPS)
    made, _ = restorer(lopsided, 8)
    y = np.zeros((1, *SHAPE), np.float32)
    (row,) = made._begin(y, operators.Denoise(SHAPE), Guidance(sigma=0.1, aim="fidelity"))
    assert len(row.schedule) == FLIPS
    c = row.schedule.gather([row.schedule] * FLIPS, range(FLIPS), x, np)
    found = flipped(x, c)
    for one, got, axes in zip(x, found, AXES, strict=True):
        np.testing.assert_array_equal(got, np.flip(one, axes))
    np.testing.assert_array_equal(flipped(found, c), x)


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.5])
def test_the_fidelity_of_a_noisy_picture_is_the_mean_over_flips(sigma):
    y, (made, _) = pictures(2), restorer(lopsided, 8)
    found = made.restore(y, operators.Denoise(SHAPE), sigma=sigma, aim="fidelity", range=(-1, 1))
    scaled = y / np.float32(1 + max(sigma, 1e-6) ** 2) ** 0.5
    estimates = [np.flip(lopsided(np.flip(scaled, flip)), flip) for flip in ((), (3,), (2,), (2, 3))]
    np.testing.assert_allclose(found.image, np.mean(estimates, axis=0), atol=1e-6)
    assert found.forwards == (FLIPS,) * 2


def test_a_prior_of_one_size_is_asked_once_and_sees_the_picture_as_it_is():
    y, (made, engine) = pictures(1), restorer(lopsided, None)
    found = made.restore(y, operators.Denoise(SHAPE), sigma=0.3, aim="fidelity", range=(-1, 1))
    assert found.forwards == (1,)
    np.testing.assert_allclose(found.image, lopsided(engine.saw[0]), atol=1e-6)


def test_a_splitting_takes_the_flips_in_turn():
    """Flips alone differ, with a network that commutes with them."""
    operator = operators.SuperResolution(SHAPE, 2)
    y = np.asarray(operator.A(pictures(1)), np.float32)
    results, saw = [], []
    for stride in (None, 8):
        made, engine = restorer(lambda x: 0.9 * x, stride)
        results.append(made.restore(y, operator, sigma=0.05, aim="fidelity", range=(-1, 1)).image)
        saw.append([one[0] for one in engine.saw])
    np.testing.assert_allclose(*results, atol=1e-6)
    assert len(saw[0]) == len(saw[1]) == 8
    for step, (plain, seen) in enumerate(zip(*saw, strict=True)):
        np.testing.assert_allclose(seen, np.flip(plain, AXES[(7 - step) % FLIPS]), atol=1e-6)


@pytest.mark.parametrize("how", [{"aim": "detail"}, {"method": "closed-form", "steps": 5}, {"steps": 5, "switch": 2}])
def test_so_does_all_that_is_ours(how):
    """Gradients are flipped back too."""
    operator = operators.SuperResolution(SHAPE, 2)
    y = np.asarray(operator.A(pictures(1)), np.float32)
    found, saw = [], []
    for stride in (None, 8):
        made, engine = restorer(lambda x: 0.9 * x, stride)
        found.append(made.restore(y, operator, sigma=0.05, range=(-1, 1), **how))
        saw.append([one[0] for one in engine.saw])
    np.testing.assert_allclose(found[0].image, found[1].image, atol=1e-5)
    assert found[0].gradients == found[1].gradients == (int("switch" in how) * 2,)
    for step, (plain, seen) in enumerate(zip(*saw, strict=True)):
        np.testing.assert_allclose(seen, np.flip(plain, AXES[(len(saw[0]) - 1 - step) % FLIPS]), atol=1e-5)


def test_a_gradient_is_that_of_what_the_network_saw():
    """A step with a network that sees its picture flipped is one with the flipped network."""
    operator, asked = operators.SuperResolution(SHAPE, 4), Guidance(sigma=0.01, steps=6, every=2)
    y = np.asarray(operator.A(pictures(1)), np.float32)
    (row,) = restorer(lopsided, 8)[0]._begin(y, operator, asked)
    (other,) = restorer(lopsided, None)[0]._begin(y, operator, asked)
    axes = tuple(axis + 1 for axis in AXES[row.step % FLIPS])
    assert axes
    advance([row], Network(lopsided))
    advance([other], Network(lambda x: np.flip(lopsided(np.flip(x, axes)), axes)))
    assert row.gradients == other.gradients == 1
    np.testing.assert_allclose(row.x, other.x, atol=1e-6)


def test_rows_that_are_flipped_differently_share_calls():
    """Rows of a batch get the results that they get alone, whatever steps the others are at."""
    operator, ways = operators.SuperResolution(SHAPE, 2), ({"aim": "fidelity"}, {"aim": "fidelity", "sample": 1})
    y = np.asarray(operator.A(pictures(1)), np.float32)

    def rows(made):
        return [made._begin(y, operator, Guidance(sigma=0.05, **how))[0] for how in ways]

    made, engine = restorer(lopsided, 8)
    together, alone = rows(made), rows(made)
    advance(together[:1], engine)  # from here on they are a step apart
    run(together, engine, 2)
    for row in alone:
        run([row], engine)
    assert np.array_equal([row.x for row in together], [row.x for row in alone])
    assert any(len(x) == 2 and not np.array_equal(x[0], x[1]) for x in engine.saw)


@pytest.mark.parametrize("method", ["dps", "dmps", "hybrid"])
def test_the_papers_methods_see_the_picture_as_it_is(method):
    operator = operators.SuperResolution(SHAPE, 2)
    y = np.asarray(operator.A(pictures(1)), np.float32)
    found = [
        restorer(lopsided, stride)[0].restore(y, operator, sigma=0.05, range=(-1, 1), method=method, steps=5)
        for stride in (None, 8)
    ]
    np.testing.assert_array_equal(found[0].image, found[1].image)
