"""Images of any size: reflected to the stride, run whole or in tiles that overlap by the network's reach."""

import numpy as np
import pytest

from frugal_rt import InputError, Plan, Restorer
from frugal_rt.engines import open_engine
from frugal_rt.engines.padded import Padded, far_shares, reflections, tile_sides
from frugal_rt.runtime.operators import Denoise

from .runnable import needs


@pytest.fixture(scope="module")
def plan(local_plan) -> Plan:
    return Plan.open(local_plan)


@pytest.fixture(scope="module", params=["cpu", "openvino", "torch"])
def engine(request, plan):
    needs(request.param)
    return open_engine(plan, request.param)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("padded", [8, 24])
def test_reflections_are_numpy_s(length, padded):
    row = np.arange(length)
    parts = [row[run.source][::-1] if run.turned else row[run.source] for run in reflections(length, padded)]
    np.testing.assert_array_equal(np.concatenate([row, *parts]), np.pad(row, (0, padded - length), "reflect"))


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (1, 5), (30, 3)])
def test_forward_and_gradient_are_those_of_torch_on_a_reflected_image(plan, size):
    """Return the gradient by autograd, through numpy's reflection written as a gather."""
    import torch

    from frugal_rt.engines.torch.network import build_network, load_weights

    network = build_network(plan.manifest["network"])
    load_weights(network, plan.tensors(), "local")
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, 2, 3, *size), dtype=np.float32)
    t = np.array([10, 700])
    rows, columns = (torch.from_numpy(np.pad(np.arange(n), (0, -n % 4), "reflect")) for n in size)
    leaf = torch.from_numpy(x).requires_grad_()
    out = network(leaf[:, :, rows][..., columns], torch.from_numpy(t))[..., : size[0], : size[1]]
    (expected,) = torch.autograd.grad(out, leaf, torch.from_numpy(v))
    engine = Padded(open_engine(plan, "cpu"), plan, (3, *size))
    prediction, pull = engine.pullback(engine.asarray(x), t)
    np.testing.assert_allclose(prediction.out, out.detach(), atol=1e-4)
    np.testing.assert_allclose(engine.predict(engine.asarray(x), t).out, out.detach(), atol=1e-4)
    np.testing.assert_allclose(pull(v), expected, atol=1e-4)


def test_every_backend_takes_every_size(engine, plan):
    tolerance = 0.1 if "bf" in engine.name or "openvino" in engine.name.lower() else 1e-4
    rng, exact = np.random.default_rng(1), open_engine(plan, "cpu")
    for size in [(16, 16), (9, 21), (33, 5), (16, 16)]:
        x, v = rng.standard_normal((2, 2, 3, *size), dtype=np.float32)
        mine, right = (Padded(one, plan, (3, *size)) for one in (engine, exact))
        (found, pull), (expected, pull_exact) = (
            one.pullback(one.asarray(x), np.array([5, 400])) for one in (mine, right)
        )
        np.testing.assert_allclose(np.asarray(found.out), expected.out, atol=tolerance * np.abs(expected.out).max())
        gradient = pull_exact(v)
        np.testing.assert_allclose(np.asarray(pull(mine.asarray(v))), gradient, atol=tolerance * np.abs(gradient).max())


@pytest.mark.parametrize("size", [(400, 30), (37, 450)])
def test_the_gradient_in_tiles_is_the_transpose(plan, size):
    """<v, J u> by central differences of float32 calls, and <J^T v, u>."""
    engine = Padded(open_engine(plan, "cpu"), plan, (3, *size), most=1)
    engine.prepare(gradients=True)
    assert engine.tile is not None
    rng = np.random.default_rng(2)
    x, v, u = rng.standard_normal((3, 1, 3, *size), dtype=np.float32)
    t, step = np.array([300]), 1e-2
    forward = [engine.predict(x + sign * step * u, t).out for sign in (1, -1)]
    along = np.vdot(v, (forward[0] - forward[1]) / (2 * step))
    _, pull = engine.pullback(x, t)
    assert np.vdot(pull(v), u) == pytest.approx(along, rel=2e-2, abs=0.2)


def test_shares_of_far_tiles_add_up_and_leave_out_what_is_within_reach():
    shares = far_shares(400, 128, reach=20, stride=8)
    total = np.zeros(400)
    for start, share in shares.items():
        assert start % 8 == 0
        assert start == 0 or not share[:20].any()
        assert start + 128 == 400 or not share[-20:].any()
        total[start : start + 128] += share
    np.testing.assert_allclose(total, 1)


@pytest.mark.parametrize(
    ("image", "most", "longest", "sides"),
    [
        ((256, 256), 65536, None, (256, 256)),
        ((1024, 1024), 262144, None, (512, 512)),
        ((64, 4096), 65536, None, (64, 1024)),
        ((1024, 1024), 2**40, 512, (512, 512)),
        ((1000, 1000), 1, None, (192, 192)),
    ],
)
def test_sides_of_tiles(image, most, longest, sides):
    assert tile_sides(image, most, longest, least=130, grain=64) == sides


def test_tiles_answer_as_the_whole_image_does_where_norms_do_not_look_far(plan):
    """Tiles show no seams: differences come from normalisation statistics, and are no larger at seams."""
    size = (60, 460)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 3, *size), dtype=np.float32)
    whole = Padded(open_engine(plan, "cpu"), plan, (3, *size))
    tiled = Padded(open_engine(plan, "cpu"), plan, (3, *size), most=60 * 320)
    assert whole.tile is None
    assert tiled.tile is not None
    expected, found = (one.predict(x, np.array([500])).out for one in (whole, tiled))
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    jumps = np.abs(np.diff(found - expected, axis=3)).mean(axis=(0, 1, 2))
    assert jumps.max() < 10 * np.median(jumps)


def test_rows_of_two_sizes_restore_as_each_does_alone(plan):
    with_sizes = Restorer(plan, open_engine(plan, "cpu"))
    rng = np.random.default_rng(4)
    for size in [(16, 16), (12, 30), (16, 16)]:
        y = rng.uniform(-1, 1, (2, 3, *size)).astype(np.float32)
        both = with_sizes.at(*size).restore(y, Denoise((3, *size)), sigma=0.3, steps=4)
        alone = Restorer(plan, open_engine(plan, "cpu")).at(*size)
        np.testing.assert_array_equal(
            both.image[1], alone.restore(y[1], Denoise((3, *size)), sigma=0.3, steps=4, sample=1).image
        )
        assert both.settings["tile"] is None


def test_an_image_without_pixels_is_refused(plan):
    with pytest.raises(InputError, match="a pixel at least"):
        Padded(open_engine(plan, "cpu"), plan, (3, 0, 8))
    with pytest.raises(InputError, match="3 channels"):
        Padded(open_engine(plan, "cpu"), plan, (1, 8, 8))
