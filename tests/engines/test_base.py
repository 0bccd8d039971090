"""The same tests for every engine."""

import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from frugal_rt import BackendError, Plan
from frugal_rt.engines import open_engine
from frugal_rt.engines.tiled import Tiled
from frugal_rt.export import build_plan, read_prior

from .calls import inputs
from .runnable import needs

CPU_BACKENDS = ["auto", "cpu", "torch"]
CLOSED = r"^this engine has been closed; load the plan again$"


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
    """Compare <v, J u>, by central differences in float64 of the float32 network, with <J^T v, u>."""
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
    """Closing frees native memory too; a reference cycle would wait for Python's collector, which does not see it."""
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
    """Eight threads call with new timesteps and batches of three sizes; each gets the same answer as alone."""
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


@pytest.fixture(params=("cpu", "torch", "openvino"))
def usable(request) -> str:
    needs(request.param)
    return request.param


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
def test_calls_after_the_end_are_one_sentence(usable, tiny_plan, tiled):
    plan = Plan.open(tiny_plan)
    engine = open_engine(plan, usable)
    engine = Tiled(engine, plan.image_shape, (3, 24, 24)) if tiled else engine
    x, t = np.zeros((1, 3, *[24 if tiled else 16] * 2), np.float32), np.array([5])
    (out, _), pull = engine.pullback(engine.asarray(x), t)
    assert np.isfinite(np.asarray(pull(out))).all()
    (_, _), pull = engine.pullback(engine.asarray(x), t)
    engine.close()
    engine.close()
    calls = {
        "prepare": lambda: engine.prepare(gradients=False),
        "asarray": lambda: engine.asarray(x),
        "upload": lambda: engine.upload(x),
        "predict": lambda: engine.predict(x, t),
        "pullback": lambda: engine.pullback(x, t),
        "a pullback that had begun": lambda: pull(out),
    }
    for name, call in calls.items():
        with pytest.raises(BackendError, match=CLOSED):
            pytest.fail(f"{name} gave {call()}")
    assert plan.tensors()  # the plan was not the engine's


def test_what_an_engine_never_had_is_python_s_own_error(tiny_plan, monkeypatch):
    engine = open_engine(Plan.open(tiny_plan), "cpu")
    with pytest.raises(AttributeError, match="'OnnxRuntimeEngine' object has no attribute 'sevred'"):
        _ = engine.sevred
    monkeypatch.setattr(engine, "_sessions", None)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'open'"):  # within a property
        engine.prepare(gradients=True)


MEMORY = """
import gc, os, sys
import numpy as np
from frugal_rt import Restorer

small, large, backend = sys.argv[1:]

def resident():  # MiB
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def call(restorer):
    engine, x, t = restorer.engine, np.zeros((4, *restorer.image_shape), np.float32), np.full(4, 500)
    (out, _), pull = engine.pullback(engine.asarray(x), t)
    pull(out)
    engine.predict(engine.asarray(x), t)

gc.disable()
with Restorer.load(small, backend) as restorer:  # pays for the library and its threads
    call(restorer)
before = resident()
restorer = Restorer.load(large, backend)
call(restorer)
loaded = resident()
restorer.close()
print(before, loaded, resident())
"""


@pytest.fixture(scope="module")
def large_plan(make_prior, tmp_path_factory) -> Path:
    """The plan of a prior of 43 MiB."""
    path = tmp_path_factory.mktemp("plans") / "large.plan"
    build_plan(read_prior(make_prior({"block_out_channels": [128, 256]}), "large"), precisions=()).save(path)
    return path


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_the_memory_is_free_when_close_returns(usable, tiny_plan, large_plan, tmp_path):
    """Closing frees all memory of loading and calling, while the restorer is referenced and Python collects nothing."""
    command = [sys.executable, "-c", MEMORY, str(tiny_plan), str(large_plan), usable]
    environment = {**os.environ, "FRUGAL_RT_CACHE": str(tmp_path)}
    for _ in range(2 if usable == "cpu" else 1):  # with graphs from the plan, and then from the cache
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        before, loaded, closed = map(float, done.stdout.split())
        assert loaded - before > 60, done.stdout
        assert closed - before < 0.2 * (loaded - before), done.stdout


MEANWHILE = """
import sys, threading, time
import numpy as np
from frugal_rt import BackendError, Restorer

def work(engine, x, t, ends):
    try:
        while True:
            (out, _), pull = engine.pullback(x, t)
            pull(out)
    except BackendError as error:
        ends.append(str(error))

for round in range(8):
    restorer, ends = Restorer.load(sys.argv[1], sys.argv[2]), []
    x, t = restorer.engine.asarray(np.zeros((2, *restorer.image_shape), np.float32)), np.full(2, 500)
    threads = [threading.Thread(target=work, args=(restorer.engine, x, t, ends)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.02 * round)
    restorer.close()
    for thread in threads:
        thread.join()
    print(sorted(set(ends)), len(ends))
"""


def test_calls_under_way_end_well(usable, tiny_plan):
    """Run in a process of its own, which a call with freed weights would crash."""
    done = subprocess.run([sys.executable, "-c", MEANWHILE, str(tiny_plan), usable], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['this engine has been closed; load the plan again'] 3"] * 8, done.stderr
