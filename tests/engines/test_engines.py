"""One body of tests over every engine, and how backends that are missing say so."""

import gc
import os
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from frugal_rt import BackendError, InputError, MissingExtra, Plan
from frugal_rt.engines import BACKENDS, cache, doctor, open_engine
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine
from frugal_rt.engines.onnxruntime.sessions import Sessions
from frugal_rt.engines.torch.engine import TorchEngine

CPU_BACKENDS = ["auto", "cpu", "torch"]


@pytest.fixture(params=CPU_BACKENDS)
def engine(request, tiny_plan):
    return open_engine(Plan.open(tiny_plan), request.param)


def inputs(batch: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(batch)
    return random.standard_normal((batch, 3, 16, 16), dtype=np.float32), random.integers(0, 1000, batch)


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


@pytest.fixture
def openvino(tiny_plan):
    if not any(finding.backend == "openvino" and finding.usable for finding in doctor.findings()):
        pytest.skip("openvino is not installed, or this CPU has no bfloat16")
    return open_engine(Plan.open(tiny_plan), "openvino")


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_is_within_bfloat16_of_torch(openvino, tiny_plan, batch):
    """8 bits of mantissa are 0.4% a rounding; a network of a dozen layers stays within a few."""
    x, t = inputs(batch)
    v = inputs(batch + 20)[0][:batch]
    (out, _), pull = open_engine(Plan.open(tiny_plan), "torch").pullback(x, t)
    gradient = pull(v)
    (ours, _), our_pull = openvino.pullback(x, t)
    for got, want in ((ours, out), (our_pull(v), gradient), (openvino.predict(x, t).out, out)):
        assert 0 < np.abs(got - want).max() < 0.06 * np.abs(want).max()


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


def test_the_weights_stay_in_the_plan_s_memory(tiny_plan):
    plan = Plan.open(tiny_plan)
    engine = OnnxRuntimeEngine(plan)
    addresses = {array.ctypes.data for array in plan.tensors().values()}
    assert {value.data_ptr() for value in engine._sessions._weights.values()} == addresses


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


def test_forward_calls_load_no_gradient_graph(tiny_plan, monkeypatch):
    engine = OnnxRuntimeEngine(Plan.open(tiny_plan))
    monkeypatch.setattr(engine, "_sessions", None)
    engine.prepare(gradients=False)
    assert engine.predict(*inputs(1)).out.shape == (1, 3, 16, 16)
    with pytest.raises(AttributeError):
        engine.prepare(gradients=True)


def test_rows_do_not_depend_on_their_batch(tiny_plan):
    engine = OnnxRuntimeEngine(Plan.open(tiny_plan))
    x, t = inputs(3)
    (out, _), pull = engine.pullback(x, t)
    gradient = pull(x)
    for i in range(3):
        (one, _), pull_one = engine.pullback(x[i : i + 1], t[i : i + 1])
        np.testing.assert_array_equal(one[0], out[i])
        np.testing.assert_array_equal(pull_one(x[i : i + 1])[0], gradient[i])


def test_a_timestep_is_embedded_once(tiny_plan, monkeypatch):
    engine = OnnxRuntimeEngine(Plan.open(tiny_plan))
    x, _ = inputs(3)
    first = engine.predict(x, np.array([5, 900, 5])).out
    monkeypatch.setattr(engine._embed, "_compute", None)
    np.testing.assert_array_equal(engine.predict(x, np.array([5, 900, 5])).out, first)


def test_an_unknown_backend_lists_those_there_are(tiny_plan):
    with pytest.raises(InputError, match="no backend 'tpu'; choose one of auto, cpu, cuda, openvino, tensorrt"):
        open_engine(Plan.open(tiny_plan), "tpu")


def forget(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make importing these fail, as if they were not installed."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("backend", "modules", "extra"),
    [
        ("cpu", ["onnxruntime"], "cpu"),
        ("openvino", ["openvino"], "openvino"),
        ("torch", ["torch"], "torch"),
        ("auto", ["onnxruntime", "torch"], "cpu"),
    ],
)
def test_a_missing_extra_is_one_sentence_with_its_command(tiny_plan, monkeypatch, backend, modules, extra):
    forget(monkeypatch, *modules)
    with pytest.raises(MissingExtra, match=rf"pip install 'frugal-rt\[{extra}\]'"):
        open_engine(Plan.open(tiny_plan), backend)


def test_without_torch_forward_calls_and_gradients_run(tiny_plan, monkeypatch):
    forget(monkeypatch, "torch")
    engine = open_engine(Plan.open(tiny_plan), "auto")
    assert engine.predict(*inputs(1)).out.shape == (1, 3, 16, 16)
    _, pull = engine.pullback(*inputs(1))
    assert np.abs(pull(inputs(1)[0])).max() > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_refused_not_replaced(tiny_plan):
    with pytest.raises(BackendError, match=r"onnxruntime-gpu.*frugal-rt\[gpu\]"):
        open_engine(Plan.open(tiny_plan), "cuda")


def test_a_gpu_without_memory_is_one_sentence(tiny_plan, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 31 GiB")

    plan = Plan.open(tiny_plan)
    engine, x, t = TorchEngine(plan), np.zeros((1, *plan.image_shape), np.float32), np.array([5])
    _, pull = engine.pullback(x, t)
    monkeypatch.setattr(torch.autograd, "grad", full)
    monkeypatch.setattr(engine, "_module", full)
    for call in (lambda: engine.predict(x, t), lambda: engine.pullback(x, t), lambda: pull(x)):
        with pytest.raises(BackendError, match="the GPU has too little memory for this call; take a smaller --batch"):
            call()


def test_doctor_knows_every_backend_and_names_a_remedy_for_each_that_is_missing():
    findings = doctor.findings()
    assert {finding.backend for finding in findings} >= set(BACKENDS) - {"auto"}
    assert all(finding.usable != bool(finding.remedy) for finding in findings)


def test_doctor_sees_two_onnxruntimes_as_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    cpu = doctor.findings()[0]
    assert not cpu.usable
    assert "pip uninstall onnxruntime onnxruntime-gpu" in cpu.remedy


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache folder of its own for this test."""
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def answers(plan_path) -> list[np.ndarray]:
    engine = OnnxRuntimeEngine(Plan.open(plan_path))
    (out, _), pull = engine.pullback(*inputs(2))
    return [out, pull(out)]


def test_optimised_graphs_are_kept_and_give_the_same(tiny_plan, cached, monkeypatch):
    first = answers(tiny_plan)
    assert len(list(cached.glob("*.sha256"))) == 3
    monkeypatch.setattr(Sessions, "_weights", None)  # the kept graphs hold them
    for a, b in zip(first, answers(tiny_plan), strict=True):
        np.testing.assert_array_equal(a, b)


def test_graphs_of_very_large_weights_are_not_kept(tiny_plan, cached, monkeypatch):
    plan = Plan.open(tiny_plan)
    monkeypatch.setattr(cache, "LARGEST", plan.manifest["members"]["weights.safetensors"]["bytes"] - 1)
    OnnxRuntimeEngine(plan).prepare(gradients=True)
    assert not cached.exists()


def test_a_damaged_cache_entry_is_made_again(tiny_plan, cached, caplog):
    first = answers(tiny_plan)
    for entry in [path.with_suffix("") for path in cached.glob("*.sha256")]:
        data = bytearray(entry.read_bytes())
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    for a, b in zip(first, answers(tiny_plan), strict=True):
        np.testing.assert_array_equal(a, b)
    assert caplog.text.count("is damaged and is made again") == 3
    caplog.clear()
    answers(tiny_plan)
    assert not caplog.text


def test_a_cache_that_cannot_be_written_is_no_error(tiny_plan, cached):
    cached.write_text("a file where the folder should be")
    assert np.isfinite(answers(tiny_plan)).all()


def test_other_weights_versions_and_machines_are_other_entries(tiny_plan, cached, monkeypatch):
    answers(tiny_plan)
    monkeypatch.setattr("frugal_rt.engines.cache.instructions", lambda: "another CPU")
    answers(tiny_plan)
    assert len(list(cached.glob("*.sha256"))) == 6


def test_the_cache_forgets_what_was_used_longest_ago(cached, monkeypatch):
    for i, name in enumerate("abc"):
        cache.keep(name, lambda path: path.write_bytes(bytes(100)))
        os.utime(cached / name, (i, i))
    monkeypatch.setattr(cache, "LIMIT", 250)
    assert cache.find("a")  # used now, so b is the oldest
    cache.keep("d", lambda path: path.write_bytes(bytes(100)))
    assert {path.name for path in cached.iterdir()} == {"a", "a.sha256", "d", "d.sha256"}


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
