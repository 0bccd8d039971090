"""Every engine is held to one body of tests."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from frugal_rt import Plan
from frugal_rt.engines import open_engine

from .calls import inputs

CPU_BACKENDS = ["auto", "cpu", "torch"]


@pytest.fixture(params=CPU_BACKENDS)
def engine(request, tiny_plan):
    return open_engine(Plan.open(tiny_plan), request.param)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_engines_agree(engine, tiny_plan, batch):
    x, t = inputs(batch)
    reference = open_engine(Plan.open(tiny_plan), "torch").predict(x, t)
    out, variance = engine.predict(engine.asarray(x), t)
    assert variance is None
    np.testing.assert_allclose(np.asarray(out), reference.out, atol=1e-5)


def test_answers_come_in_the_namespace_of_the_state(engine):
    x, t = inputs(2)
    x = engine.asarray(x)
    (out, _), pull = engine.pullback(x, t)
    assert type(out) is type(x) is type(pull(x)) is type(engine.predict(x, t).out)


@pytest.mark.parametrize("batch", [1, 3])
def test_pullbacks_are_directional_derivatives(engine, batch):
    """<v, J u> by central differences in float64 of the float32 network, against <J^T v, u>."""
    x, t = inputs(batch)
    u, v = inputs(batch + 10)[0][:batch], inputs(batch + 20)[0][:batch]
    (out, _), pull = engine.pullback(engine.asarray(x), t)
    np.testing.assert_allclose(np.asarray(out), np.asarray(engine.predict(engine.asarray(x), t).out), atol=1e-5)
    pulled = float((np.asarray(pull(engine.asarray(v)), np.float64) * u).sum())
    h = 1e-2
    ahead, behind = (np.asarray(engine.predict(engine.asarray(x + s * h * u), t).out, np.float64) for s in (1, -1))
    assert pulled == pytest.approx(float(((ahead - behind) / (2 * h) * v).sum()), rel=1e-2)


@pytest.mark.parametrize("backend", ["cpu", "openvino", "torch"])
def test_pullbacks_under_way_do_not_share_memory(backend, tiny_plan, request):
    engine = (
        request.getfixturevalue("openvino") if backend == "openvino" else open_engine(Plan.open(tiny_plan), backend)
    )
    (x, t), (other, s) = inputs(1), inputs(11)
    other, s = other[:1], s[:1]
    (out, _), pull = engine.pullback(x, t)
    before, alone = out.copy(), pull(x)
    kept = alone.copy()
    (_, _), pull = engine.pullback(x, t)
    engine.pullback(other, s)[1](other)
    np.testing.assert_array_equal(pull(x), kept)
    np.testing.assert_array_equal(out, before)
    np.testing.assert_array_equal(alone, kept)


@pytest.mark.parametrize("backend", ["cpu", "torch", "openvino"])
def test_an_engine_goes_with_its_last_reference(backend, tiny_plan, request):
    """And its gigabytes: a cycle would wait for Python's collector, which does not see native memory."""
    if backend == "openvino":
        request.getfixturevalue("openvino")  # or the test is skipped
    engine = open_engine(Plan.open(tiny_plan), backend)
    x, t = inputs(1)
    engine.pullback(engine.asarray(x), t)[1](engine.asarray(x))
    gc.collect()
    gc.disable()
    try:
        last = weakref.ref(engine)
        del engine
        assert last() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_threads_may_share_an_engine(backend, tiny_plan, request):
    """Eight threads, new timesteps and batches of three sizes at once: each gets what it would have got alone."""
    engine = (
        request.getfixturevalue("openvino") if backend == "openvino" else open_engine(Plan.open(tiny_plan), backend)
    )

    def run(i):
        x, t = inputs(1 + i % 3)
        t = t + i
        (out, _), pull = engine.pullback(x, t % 1000)
        return out, pull(x), engine.predict(x, t % 1000).out

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(48)))
    for i in range(48):
        for a, b in zip(together[i], run(i), strict=True):
            np.testing.assert_array_equal(a, b)
