"""Plans for images of any size on every backend of a CUDA machine, against float32 torch on its CPU."""

import numpy as np
import pytest
from comparing import distance, precision_of
from gpu_trial import BACKENDS, why_not

from frugal_rt import Plan, Restorer
from frugal_rt.engines import Engine, nvidia, open_engine
from frugal_rt.engines.padded import Padded
from frugal_rt.engines.torch.engine import TorchEngine
from frugal_rt.runtime.operators import Denoise, SuperResolution

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(nvidia.trouble() is not None, reason=f"needs a CUDA machine: {nvidia.trouble()}"),
]

SIZES = [(64, 64), (200, 136), (61, 131), (256, 512), (64, 64)]
"""Heights and widths: multiples of the stride and others, one of them met again after others."""
ERROR = {"fp32": 2e-3, "fp16": 6e-3, "bf16": 4e-2}
"""Root mean square of an answer's or a gradient's error over its own, at most."""


@pytest.fixture(scope="module")
def plan(photo_plan) -> Plan:
    return Plan.open(photo_plan)


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request, plan, photo_plan) -> Engine:
    """One backend of this machine, its TensorRT engines built first. Skips with the reason where it cannot run."""
    reason = why_not(photo_plan, request.param)
    if reason is not None:
        pytest.skip(reason)
    return open_engine(plan, request.param)


@pytest.fixture(scope="module")
def reference(plan) -> TorchEngine:
    return TorchEngine(plan, "cpu")


def limit_of(engine: Engine) -> float:
    return ERROR[precision_of(engine)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_answers_and_gradients_are_torch_s(engine, reference, plan, size, batch, within):
    random = np.random.default_rng(batch)
    x, v = random.standard_normal((2, batch, 3, *size), dtype=np.float32)
    t = np.linspace(5, 995, batch).astype(np.int64)
    mine, right = (Padded(one, plan, (3, *size)) for one in (engine, reference))
    (want, _), want_pull = right.pullback(right.asarray(x), t)
    (out, _), pull = mine.pullback(mine.asarray(x), t)
    limit = limit_of(engine)
    within(distance(mine.predict(mine.asarray(x), t).out, want), limit)
    within(distance(out, want), limit)
    within(distance(pull(mine.asarray(v)), want_pull(right.asarray(v))), limit)


def test_a_size_that_memory_does_not_hold_is_run_in_tiles(engine, plan, within):
    """Tiles by hand, of a third of the image each, against the whole image."""
    size = (512, 1408)
    x = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    whole, tiled = (Padded(engine, plan, (3, *size), most=most) for most in (None, 512 * 704))
    assert tiled.tile is not None
    t = np.array([300])
    want = whole.predict(whole.asarray(x), t).out
    within(distance(tiled.predict(tiled.asarray(x), t).out, want), 0.1)


@pytest.mark.parametrize("size", [(96, 160), (75, 101)])
def test_restorations_are_the_cpu_s(engine, plan, size, within):
    """Denoising by its aim, and the hybrid's steps, captured where the backend captures."""
    on_cpu = Restorer(plan, open_engine(plan, "cpu"))
    here = Restorer(plan, engine)
    random = np.random.default_rng(1)
    for operator, settings in (
        (Denoise((3, *size)), {"sigma": 0.2}),
        (SuperResolution((3, 4 * (size[0] // 4), 4 * (size[1] // 4)), 2), {"sigma": 0.05, "steps": 20, "switch": 10}),
    ):
        y = random.uniform(-1, 1, operator.measurement_shape).astype(np.float32)
        want, got = (one.at(*operator.image_shape[1:]).restore(y, operator, **settings) for one in (on_cpu, here))
        within(distance(got.image, want.image), 10 * limit_of(engine))
        assert got.settings["tile"] is None
