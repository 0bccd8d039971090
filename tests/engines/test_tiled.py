"""Images larger than the network's, in tiles."""

import math

import numpy as np
import pytest

from frugal_rt import InputError, Plan, Restorer
from frugal_rt.engines import OnHost, Prediction
from frugal_rt.engines.tiled import Tiled, tile_shares
from frugal_rt.runtime.operators import Circular, Denoise, Inpaint, Partial, SuperResolution, motion_kernel

TILE = (3, 16, 16)


class Linear(OnHost):
    """An engine whose answer is a matrix times the tile, so that results can be computed densely."""

    name = "linear"
    asarray = staticmethod(np.asarray)

    def __init__(self, seed=0):
        size = int(np.prod(TILE))
        self.matrix = np.random.default_rng(seed).standard_normal((size, size)) / size**0.5
        self.rows = []

    def prepare(self, gradients, batch=1): ...

    def predict(self, x, t):
        self.rows.append(len(x))
        return Prediction((x.reshape(len(x), -1) @ self.matrix.T).reshape(x.shape) * t[:, None, None, None], None)

    def pullback(self, x, t):
        def pull(v):
            return ((v * t[:, None, None, None]).reshape(len(v), -1) @ self.matrix).reshape(v.shape)

        return self.predict(x, t), pull


@pytest.mark.parametrize(
    ("length", "starts"), [(16, [0]), (24, [0, 8]), (25, [0, 4, 9]), (64, [0, 8, 16, 24, 32, 40, 48])]
)
def test_shares_add_up_to_one_and_tiles_overlap_by_half(length, starts):
    shares = tile_shares(length, 16)
    assert list(shares) == starts
    total = np.zeros(length)
    for start, share in shares.items():
        assert (share > 0).all()
        total[start : start + 16] += share
    np.testing.assert_allclose(total, 1)


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_forward_and_gradient_are_the_dense_ones(rows):
    """Tiled is the sum of P_i^T W_i M P_i, and its gradient the transpose, for any number of tiles in a call."""
    shape = (3, 20, 27)
    engine = Linear()
    tiled = Tiled(engine, TILE, shape)
    tiled.prepare(gradients=True, batch=rows)
    rng = np.random.default_rng(1)
    x, v = rng.standard_normal((2, 2, *shape))
    t = np.array([2.0, 3.0])
    expected = np.zeros_like(x)
    for row in range(2):
        for top, down in tile_shares(20, 16).items():
            for left, across in tile_shares(27, 16).items():
                cut = (row, slice(None), slice(top, top + 16), slice(left, left + 16))
                answer = (engine.matrix @ x[cut].reshape(-1)).reshape(TILE) * t[row]
                expected[cut] += np.outer(down, across) * answer
    np.testing.assert_allclose(tiled.predict(x, t).out, expected, atol=1e-12)
    prediction, pull = tiled.pullback(x, t)
    np.testing.assert_allclose(prediction.out, expected, atol=1e-12)
    np.testing.assert_allclose((pull(v) * x).sum(), (v * expected).sum(), rtol=1e-12)
    assert max(engine.rows) <= rows


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_tiles_are_counted_over_the_forward_pass_and_over_the_gradient(rows):
    heard = []
    tiled = Tiled(Linear(), TILE, (3, 20, 27), on_tiles=lambda done, total: heard.append((done, total)))
    tiled.prepare(gradients=True, batch=rows)
    x, t = np.zeros((2, 3, 20, 27)), np.ones(2)
    tiled.predict(x, t)
    count = 2 * tiled.tiles
    assert heard == [(min(done, count), count) for done in range(rows, count + rows, rows)]
    heard.clear()
    prediction, pull = tiled.pullback(x, t)
    assert heard[-1] == (count, 2 * count)
    pull(prediction.out)
    assert heard[-1] == (2 * count, 2 * count)
    assert heard == sorted(heard)
    assert len(heard) == 2 * math.ceil(count / rows)


def test_whoever_counts_tiles_may_stop_between_them():
    engine = Linear()

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    tiled = Tiled(engine, TILE, (3, 20, 27), stop)
    with pytest.raises(KeyboardInterrupt):
        tiled.predict(np.zeros((1, 3, 20, 27)), np.ones(1))
    assert engine.rows == [1, 1]


def test_one_tile_is_the_network_itself(tiny_plan):
    restorer = Restorer.load(tiny_plan)
    y = np.random.default_rng(0).uniform(-1, 1, TILE).astype(np.float32)
    alone = restorer.restore(y, Denoise(TILE), sigma=0.2, steps=5)
    tiled = restorer.at(16, 16).restore(y, Denoise(TILE), sigma=0.2, steps=5)
    np.testing.assert_array_equal(alone.image, tiled.image)
    assert tiled.settings["backend"] == "onnxruntime (cpu), 1 tiles"


@pytest.mark.parametrize(("overlap", "least", "most"), [(0.5, 0.8, 1.25), (0.0, 2.0, 9.0)])
def test_a_flat_gradient_has_no_seams_and_would_have_without_overlap(
    gaussian_engine, tiny_plan, monkeypatch, overlap, least, most
):
    """Compare the differences between columns at seams with those elsewhere, for a smooth prior and a noisy ramp."""
    monkeypatch.setattr("frugal_rt.engines.tiled.OVERLAP", overlap)
    side, width = 12, 60
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1).reshape(-1, 2)
    covariance = 0.4**2 * np.exp(-((grid[:, None] - grid[None]) ** 2).sum(-1) / (2 * 6**2))
    engine = gaussian_engine(np.zeros(side**2), covariance, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    shape = (1, side, width)
    restorer = Restorer(Plan.open(tiny_plan), Tiled(engine, (1, side, side), shape))
    restorer.image_shape = shape
    ramp = np.broadcast_to(np.linspace(-0.6, 0.6, width), shape)
    y = ramp + 0.3 * np.random.default_rng(0).standard_normal((8, *shape))
    image = restorer.restore(y, Denoise(shape), sigma=0.3, steps=20, batch=8).image
    assert np.abs(image - ramp).mean() < 0.07
    steps = np.abs(np.diff(image, axis=3)).mean(axis=(0, 1, 2))
    borders = [start - 1 for start in list(tile_shares(width, side))[1:]]
    assert least < steps[borders].mean() / np.delete(steps, borders).mean() < most


def test_an_operator_sees_the_whole_image(tiny_plan):
    """A block and a hole across the border of tiles are restored consistently with the measurement."""
    shape = (3, 24, 24)
    restorer = Restorer.load(tiny_plan).at(24, 24)
    clean = np.random.default_rng(0).uniform(-0.5, 0.5, (1, *shape)).astype(np.float32)
    hole = np.pad(np.ones((8, 8), bool), 8)
    blur = Circular(shape, motion_kernel(3, 30))
    for operator, most in (
        (SuperResolution(shape, 4), 0.08),
        (Inpaint(shape, hole), 0.08),
        (Partial(blur, missing=hole), 0.15),
    ):
        y = operator.A(clean)
        result = restorer.restore(y, operator, sigma=0.01, steps=50)
        assert result.image.shape == clean.shape
        np.testing.assert_allclose(operator.A(result.image), y, atol=most)


def test_the_same_image_whatever_the_batch(tiny_plan):
    shape = (3, 24, 32)
    restorer = Restorer.load(tiny_plan).at(24, 32)
    y = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    images = [restorer.restore(y, Denoise(shape), sigma=0.2, steps=6, batch=batch).image for batch in (1, 4, 64)]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_tiles_share_calls_of_the_batch_that_was_fastest_for_a_tile(tiny_plan, monkeypatch):
    restorer = Restorer.load(tiny_plan)
    asked = []

    def fastest(rows):
        asked.append(rows)
        return 4

    monkeypatch.setattr(restorer, "_fastest_batch", fastest)
    rows = []
    real = restorer.engine.predict
    monkeypatch.setattr(restorer.engine, "predict", lambda x, t: rows.append(len(x)) or real(x, t))
    y = np.zeros((3, 24, 40), np.float32)
    tiled = restorer.at(24, 40)
    tiled.restore(y, Denoise((3, 24, 40)), sigma=0.2, steps=2, method="closed-form")
    assert asked == [tiled.engine.tiles] == [8]
    assert rows == [4, 4] * 2


def test_an_image_smaller_than_a_tile_is_refused(tiny_plan):
    with pytest.raises(InputError, match="an image of 15x16 is smaller than this prior's 16x16"):
        Restorer.load(tiny_plan).at(16, 15)
