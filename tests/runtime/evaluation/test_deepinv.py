"""deepinv's place in an evaluation: bases, ranges, calls and failures."""

import numpy as np
import pytest

from frugal_rt.runtime.evaluation.contender import Refused
from frugal_rt.runtime.evaluation.deepinv import Basis, DeepInvMethod, to_unit_range
from frugal_rt.runtime.evaluation.suite import TASKS
from frugal_rt.runtime.operators import Custom, Denoise

SHAPE = (3, 16, 16)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("task", TASKS)
def test_the_basis_handed_to_deepinv_holds_all_of_an_image(task, kind):
    operator = TASKS[task].operator(SHAPE)
    basis = Basis(operator)
    x = np.random.default_rng(0).standard_normal((2, *SHAPE))
    y = np.random.default_rng(1).standard_normal((2, *operator.measurement_shape))
    like = np.zeros((1, *operator.measurement_shape))
    if kind == "torch":
        import torch

        x, y, like = (torch.from_numpy(one) for one in (x, y, like))
    s, values = basis.V_adjoint(x), basis.values(like)
    np.testing.assert_allclose(basis.V(s), x, atol=1e-12)
    np.testing.assert_allclose((s**2).sum(1), (x**2).reshape(2, -1).sum(1))
    np.testing.assert_allclose(basis.U(values * s), operator.A(x), atol=1e-9)
    np.testing.assert_allclose(basis.V(values * basis.U_adjoint(y)), operator.AT(y), atol=1e-9)
    basis.U_adjoint(y)[:] = 0
    assert (y != 0).any()


@pytest.mark.parametrize("task", TASKS)
def test_a_measurement_on_the_unit_range_is_that_of_the_same_picture(task):
    operator = TASKS[task].operator(SHAPE)
    x = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(to_unit_range(operator.A(x), operator), operator.A((x + 1) / 2), atol=1e-5)


def test_missing_pixels_are_0_on_the_unit_range_and_grey_stays_grey():
    box, grey = TASKS["box"].operator(SHAPE), TASKS["colorize"].operator(SHAPE)
    white, black = np.ones((1, *SHAPE), np.float32), -np.ones((1, *SHAPE), np.float32)
    missing = np.broadcast_to(box.missing, white.shape)
    for picture, level in ((white, 1), (black, 0)):
        y = to_unit_range(box.A(picture), box)
        np.testing.assert_array_equal(y[missing], 0)
        np.testing.assert_array_equal(y[~missing], level)
        np.testing.assert_allclose(to_unit_range(grey.A(picture), grey), level, atol=1e-6)


class Library:
    """deepinv's place taken: two network calls an image, the result its seed."""

    version = "0"

    def __init__(self):
        import torch

        self.network, self.seeds = torch.nn.Identity(), []

    def sample(self, sampler, y, operator, sigma, steps, seed):
        if isinstance(operator, Custom):
            raise Refused("no decomposition")
        if sampler == "ddrm":
            raise ValueError("shapes\ndiffer")
        self.seeds.append(seed)
        for _ in range(steps):
            self.network(0)
        return np.full(SHAPE, 3.0, np.float32)


def test_a_rivals_calls_are_counted_and_its_seeds_are_an_images_own():
    library, events, y = Library(), [], np.zeros((3, *SHAPE), np.float32)
    found = DeepInvMethod(library, "dps", 2).restore(y, Denoise(SHAPE), 0.1, 5, 0, events.append)
    assert (found.forwards, found.gradients, found.k) == ([2, 2, 2], [2, 2, 2], [None] * 3)
    assert len(events) == DeepInvMethod(library, "dps", 2).events(3, Denoise(SHAPE), 0.1) == 6
    assert found.images.max() == 1
    assert len(set(library.seeds)) == 3
    assert all(0 < seed < 2**32 for seed in library.seeds)
    DeepInvMethod(library, "diffpir", 2).restore(y[:1], Denoise(SHAPE), 0.1, 5, 2, events.append)
    assert library.seeds[3] == library.seeds[2]
    assert not library.network._forward_hooks


def test_a_rival_that_fails_is_refused_and_ctrl_c_is_not():
    y = np.zeros((1, *SHAPE), np.float32)

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(Refused, match=r"deepinv 0 failed: shapes$"):
        DeepInvMethod(Library(), "ddrm", 2).restore(y, Denoise(SHAPE), 0.1, 0, 0, lambda event: None)
    custom = Custom(SHAPE, SHAPE, lambda x: x, lambda x, r: r)
    with pytest.raises(Refused, match=r"^no decomposition$"):
        DeepInvMethod(Library(), "dps", 2).restore(y, custom, 0.1, 0, 0, lambda event: None)
    with pytest.raises(KeyboardInterrupt):
        DeepInvMethod(Library(), "dps", 2).restore(y, Denoise(SHAPE), 0.1, 0, 0, stop)
