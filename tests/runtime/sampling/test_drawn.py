"""Where no gradient follows, x0 is drawn around its estimate with the variance that x_t shows."""

import types

import numpy as np
import pytest
import scipy.ndimage

from frugal_rt import operators
from frugal_rt.runtime.sampling import equations
from frugal_rt.runtime.sampling.equations import (
    ddrm_transition,
    drawn_estimate,
    local_variance,
    mean_transition,
    resolvent_transition,
)
from frugal_rt.runtime.sampling.guidance import Guidance
from frugal_rt.runtime.sampling.restoration import Move

from .coefficients import at_step

STEPS = 20
SIDE, DEVIATION = 512, 0.3
"""The Gaussian prior's images: a texture in grey of DEVIATION in the left half, and nothing in the right one."""
LEFT, RIGHT = np.s_[..., : SIDE // 2 - 16], np.s_[..., SIDE // 2 + 16 :]


class Texture:
    """x_t of a Gaussian prior, and E[x0 | x_t] of it, exactly."""

    def __init__(self, step: int = 2):
        random = np.random.default_rng(0)
        deviation = np.where(np.arange(SIDE) < SIDE // 2, DEVIATION, 0.0)
        self.x0 = np.repeat(deviation * random.standard_normal((1, 1, SIDE, SIDE)), 3, axis=1)
        n, self.z = random.standard_normal((2, *self.x0.shape))
        self.c = at_step(step, self.x0, STEPS)
        self.s, self.s_next = ((1 / abar - 1).item() ** 0.5 for abar in (self.c.abar, self.c.abar_prev))
        self.x = self.c.abar**0.5 * (self.x0 + self.s * n)
        of_mean = self.s**2 / 3  # the variance of the noise in the mean over channels
        mean = (self.x / self.c.abar**0.5).mean(1, keepdims=True)
        self.x0hat = np.repeat(deviation**2 / (deviation**2 + of_mean) * mean, 3, axis=1)
        self.eps = (self.x / self.c.abar**0.5 - self.x0hat) / self.s
        self.wanted = 3 * DEVIATION**2 * of_mean / (DEVIATION**2 + of_mean)

    def check(self, drawn: np.ndarray) -> None:
        """The mean over channels must have the variance of the prior and of the noise of x_{t-1}."""
        grey = drawn.mean(1)
        for part, variance, error in ((LEFT, DEVIATION**2, 0.04), (RIGHT, 0.0, 0.1)):  # V's error, at least 0, is drawn
            assert abs(grey[part].var() / (variance + self.s_next**2 / 3) - 1) < error


@pytest.mark.parametrize(("height", "width"), [(24, 40), (21, 43), (3, 5)])
def test_the_local_variance_is_that_of_a_mean_over_blocks_and_their_neighbours(height, width):
    random = np.random.default_rng(0)
    eps = random.standard_normal((2, 3, height, width)) * np.linspace(0.2, 1.2, width)
    z = random.standard_normal((2, 3, height, width))
    c = at_step(5, z, STEPS)

    def power(of):
        square = np.pad(of.mean(1) ** 2, ((0, 0), (0, -height % 8), (0, -width % 8)))
        blocks = square.reshape(2, square.shape[1] // 8, 8, -1, 8).sum((2, 4))
        return scipy.ndimage.convolve(blocks, np.outer([1, 2, 1], [1, 2, 1])[None] / 4.0, mode="constant")

    share = np.kron(power(eps) / power(z), np.ones((1, 8, 8)))[:, None, :height, :width]
    expected = (1 - c.abar) / c.abar * np.maximum(0, 1 - share)
    np.testing.assert_allclose(local_variance(eps, z, c), expected, rtol=1e-9, atol=1e-12)
    assert (expected > 0).any()
    like = at_step(5, np.float32(z), STEPS)
    assert local_variance(np.float32(eps), np.float32(z), like).dtype == np.float32


def test_the_local_variance_is_x0_s_given_x_t():
    texture = Texture()
    found = local_variance(texture.eps, texture.z, texture.c)
    assert abs(found[LEFT].mean() / texture.wanted - 1) < 0.05
    assert found[RIGHT].mean() < 0.08 * texture.s**2


def test_textures_keep_their_variance_in_cells_and_flat_pictures_get_none(monkeypatch):
    """An operator without y: the mean in the cells is the image itself."""
    monkeypatch.setattr(equations, "DRAWN", 0.5)  # V in cells
    operator = types.SimpleNamespace(known=lambda like: 1, mean=lambda y, x0, sigma, variance: x0)
    texture = Texture()
    c = texture.c
    drawn = mean_transition(operator, None, texture.x, texture.x0hat, texture.z, 0.3, c) / c.abar_prev**0.5
    texture.check(drawn)
    ddim = texture.x0hat + texture.s_next * ((1 - c.fresh**2) ** 0.5 * texture.eps + c.fresh * texture.z)
    assert ddim.mean(1)[LEFT].var() / (DEVIATION**2 + texture.s_next**2 / 3) < 0.9


@pytest.mark.parametrize("transition", [ddrm_transition, resolvent_transition])
def test_textures_keep_their_variance_where_nothing_is_measured(monkeypatch, transition):
    monkeypatch.setattr(equations, "DRAWN", 1.0)
    texture = Texture()
    missing = np.ones((SIDE, SIDE), bool)
    missing[:8, :8] = False
    operator = operators.Inpaint((3, SIDE, SIDE), missing)
    y = operator.A(texture.x0)
    sigma = np.full((1, 1, 1, 1), 0.01)
    given = operator, y, texture.x, texture.x0hat, texture.z, sigma, texture.c
    drawn, plain = (transition(*given, drawn=one) / texture.c.abar_prev**0.5 for one in (True, False))
    texture.check(drawn)
    assert plain.mean(1)[LEFT].var() / (DEVIATION**2 + texture.s_next**2 / 3) < 0.9
    if transition is ddrm_transition:
        np.testing.assert_allclose(drawn[..., ~missing], plain[..., ~missing], atol=1e-12)


def test_what_an_svd_measures_does_not_count_for_what_it_does_not():
    """Half of the pixels are known, and their noise differs: V of the others is as without them."""
    texture = Texture()
    missing = np.arange(SIDE) % 2 == np.arange(SIDE)[:, None] % 2
    operator = operators.Inpaint((3, SIDE, SIDE), missing)
    x = np.where(missing, texture.x, texture.c.abar**0.5 * texture.x0hat)  # eps is 0 in known pixels
    y, sigma = operator.A(texture.x0), np.full((1, 1, 1, 1), 0.01)
    given = operator, y, x, texture.x0hat, texture.z, sigma, texture.c
    moved = (ddrm_transition(*given, drawn=True) - ddrm_transition(*given)) / texture.c.abar_prev**0.5
    c = texture.c
    kept, variance = (1 - c.fresh.item() ** 2) ** 0.5, (moved.mean(1)[0][missing & (np.arange(SIDE) < 240)]).var()
    asked = (1 - kept * texture.s_next / texture.s) ** 2 * equations.DRAWN * texture.wanted / 3
    assert abs(variance / asked - 1) < 0.1
    np.testing.assert_allclose(moved[..., ~missing], 0, atol=1e-12)


def test_nothing_is_drawn_at_the_last_step():
    z = np.random.default_rng(0).standard_normal((1, 3, 16, 16))
    np.testing.assert_array_equal(drawn_estimate(0 * z, 1 + 0 * z[:, :1], z, at_step(0, z, STEPS)), 0 * z)
    assert drawn_estimate(0 * z, 1 + 0 * z[:, :1], z, at_step(1, z, STEPS)).any()


GRADIENTS, CLOSED, DRAWN = {Move.FRUGAL, Move.CLOSED_FORM}, {Move.CLOSED_FORM}, {Move.DRAWN}
OPERATORS = {
    "x4": lambda shape: operators.SuperResolution(shape, 4),
    "x2": lambda shape: operators.SuperResolution(shape, 2),
    "pixels": lambda shape: operators.Inpaint(shape, np.add.outer(np.arange(shape[1]), np.arange(shape[2])) % 16 == 0),
}


@pytest.mark.parametrize(
    ("kind", "asked", "before", "after"),
    [
        ("x4", {"aim": "detail"}, DRAWN, DRAWN),
        ("x4", {"preset": "fast"}, DRAWN, DRAWN),
        ("x4", {"steps": 12, "switch": 12}, DRAWN, DRAWN),
        ("x4", {"preset": "balanced", "switch": 8}, GRADIENTS, DRAWN),
        ("x4", {"preset": "balanced", "switch": 0}, GRADIENTS, GRADIENTS),
        ("x4", {"method": "closed-form"}, CLOSED, CLOSED),
        ("x4", {"method": "hybrid", "switch": 8}, {Move.DPS}, {Move.DMPS}),
        ("x2", {"aim": "detail"}, DRAWN, DRAWN),
        ("x2", {"preset": "balanced", "switch": 8}, GRADIENTS, CLOSED),
        ("pixels", {"preset": "fast"}, CLOSED, CLOSED),
    ],
)
def test_frugal_draws_once_no_gradient_follows_where_enough_is_unknown(restorer, kind, asked, before, after):
    """`before` are the moves until 8 steps are left, where a switch is asked for."""
    operator = OPERATORS[kind](restorer.image_shape)
    rng = np.random.default_rng(0)
    y = rng.uniform(-1, 1, operator.measurement_shape).astype(np.float32)
    (row,) = restorer._begin(y, operator, Guidance(sigma=0.05, **asked))
    moves = []
    while row.step >= 0:
        moves.append(row.move)
        row.accept(row.x, row.x, None)
        row.switch_if_due()
    assert (set(moves[:-8]), set(moves[-8:])) == (before, after)
