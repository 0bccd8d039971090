"""Every backend of a CUDA machine against float32 torch on its CPU: `make test-gpu`, or pytest -m gpu tests/gpu.

Times are measured by tests/gpu/figures.py; here is only what is right or wrong.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import psutil
import pytest
import torch
from comparing import distance, on_host, precision_of
from gpu_trial import BACKENDS, why_not

from frugal_rt import BackendError, Plan, Restorer
from frugal_rt.engines import Engine, nvidia, open_engine
from frugal_rt.engines.torch.engine import TorchEngine
from frugal_rt.runtime.evaluation.suite import TASKS, measure
from frugal_rt.runtime.pictures.images import PORTRAIT, read_photo
from frugal_rt.runtime.sampling import captured
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.guidance import METHODS, Guidance
from frugal_rt.runtime.sampling.psnr import psnr

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(nvidia.trouble() is not None, reason=f"needs a CUDA machine: {nvidia.trouble()}"),
]

ERROR = {"fp32": 2e-4, "fp16": 3e-3, "bf16": 2e-2}
"""Root mean square of an answer's or a gradient's error over its own, at most. The graphs rounded on a CPU have 7e-4 in
fp16 and 6.5e-3 in bf16."""
TF32 = 2e-3
"""The same for torch's fp32 on a GPU, whose convolutions are TF32: 6e-4 with the products' factors cut alike."""
DECIBELS = 0.05
"""Bound where pixels are measured; where they are made up, five times that. Rounded on a CPU: 0.003 dB, 0.13 dB."""
SOAK = float(os.environ.get("FRUGAL_RT_SOAK", "60"))
"""Seconds by each backend: ten minutes where all ten run."""
GROWTH = 64 << 20
"""Bytes that memory may grow by in a soak, on the device and on the host."""


@pytest.fixture(scope="module")
def plan(celeba_plan) -> Plan:
    return Plan.open(celeba_plan)


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request, plan, celeba_plan) -> Engine:
    """One backend of this machine, its TensorRT engines built first. Skips with the reason where it cannot run."""
    reason = why_not(celeba_plan, request.param)
    if reason is not None:
        pytest.skip(reason)
    return open_engine(plan, request.param)


@pytest.fixture(autouse=True)
def captures_as_before(engine) -> Iterator[None]:
    """No test may lose the captures: after one that failed, steps go piece by piece, and look right."""
    before = engine.can_capture
    yield
    assert engine.can_capture is before


@pytest.fixture(scope="module")
def reference(plan) -> TorchEngine:
    return TorchEngine(plan, "cpu")


def inputs(plan: Plan, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(batch)
    x, v = random.standard_normal((2, batch, *plan.image_shape), dtype=np.float32)
    return x, np.linspace(5, 995, batch).astype(np.int64), v


def limit_of(engine: Engine) -> float:
    precision = precision_of(engine)
    return TF32 if precision == "fp32" and engine.name.startswith("torch") else ERROR[precision]


@pytest.mark.parametrize("batch", [1, 3, 4, 16, 21])
def test_answers_and_gradients_are_torch_s(engine, reference, plan, batch, within):
    x, t, v = inputs(plan, batch)
    (want, _), want_pull = reference.pullback(x, t)
    engine.prepare(gradients=True, batch=batch)
    on_device = engine.asarray(x)
    (out, _), pull = engine.pullback(on_device, t)
    assert out.device.type == "cuda" if isinstance(out, torch.Tensor) else engine.name.startswith("onnxruntime")
    limit = limit_of(engine)
    within(distance(engine.predict(on_device, t).out, want), limit)
    within(distance(out, want), limit)
    within(distance(pull(engine.asarray(v)), want_pull(v)), limit)


def test_gradients_of_small_cotangents_do_not_underflow(engine, reference, plan, within):
    """DPS's are about 1e-4; half precision ends at 6e-8."""
    x, t, v = inputs(plan, 2)
    _, pull = engine.pullback(engine.asarray(x), t)
    small = np.float32(1e-5)
    within(distance(pull(engine.asarray(small * v)), small * reference.pullback(x, t)[1](v)), limit_of(engine))


def test_one_input_gives_one_answer(engine, plan, within):
    x, t, v = inputs(plan, 4)
    x, v = engine.asarray(x), engine.asarray(v)
    found = []
    for _ in range(30):
        (out, _), pull = engine.pullback(x, t)
        found.append((np.asarray(out.cpu()), np.asarray(pull(v).cpu())) if hasattr(out, "cpu") else (out, pull(v)))
    for out, gradient in found[1:]:
        if engine.name.startswith("torch"):  # cuDNN's gradients add up in any order
            within(distance(gradient, found[0][1]), 1e-2)
        else:
            np.testing.assert_array_equal(out, found[0][0])
            np.testing.assert_array_equal(gradient, found[0][1])


def portraits(plan: Plan) -> np.ndarray:
    """Four views of the packaged portrait."""
    pixels = read_photo(PORTRAIT).pixels
    views = [pixels, pixels[:, :, ::-1], np.roll(pixels, 3, axis=2), 0.8 * pixels]
    return np.stack(views).astype(np.float32)


def restored(restorer: Restorer, task: str) -> float:
    """The PSNR of four pictures in dB, by one seed."""
    clean = portraits(restorer.plan)
    operator, sigma = TASKS[task].operator(restorer.image_shape), TASKS[task].sigma
    y = measure(operator, clean, sigma, seed=0)
    found = restorer.restore(y, operator, sigma=sigma, steps=50, switch=25, batch=4)
    return float(psnr(found.image, clean).mean())


@pytest.fixture(scope="module")
def on_cpu(plan) -> Callable[[str], float]:
    """Return a function that restores a task on the CPU, once for all engines."""
    return cache(partial(restored, Restorer(plan, open_engine(plan, "cpu"))))


@pytest.mark.parametrize("task", TASKS)
def test_restorations_are_as_good_as_the_cpu_s(engine, plan, on_cpu, task, within):
    """Rounding leads a sample elsewhere, the more so the less is measured."""
    invented = task in ("box", "outpaint", "sr16", "colorize")
    limit = DECIBELS * (5 if invented else 1)
    within(abs(restored(Restorer(plan, engine), task) - on_cpu(task)), limit)


def test_fidelity_with_gradients_is_the_cpu_s(engine, plan, within):
    """It draws no noise, and its cotangents are longer than DPS's."""
    operator = TASKS["box"].operator(plan.image_shape)
    y = measure(operator, portraits(plan), 0.01, seed=0)
    here, there = (
        Restorer(plan, one).restore(y, operator, sigma=0.01, aim="fidelity")
        for one in (engine, open_engine(plan, "cpu"))
    )
    assert here.gradients == there.gradients == here.forwards
    within(distance(here.image, there.image), 10 * limit_of(engine))


@pytest.fixture
def captures(engine, monkeypatch) -> list[object]:
    """Collect the results of the engine's `capture` from now on, with captures made anew."""
    if not engine.can_capture:  # as `captures_as_before`
        pytest.skip(f"{engine.name} captures nothing")
    made: list[object] = []
    record = engine.capture

    def watched(work):
        made.append(record(work))
        return made[-1]

    monkeypatch.setattr(engine, "capture", watched)
    captured._kept(engine).clear()
    return made


@pytest.mark.parametrize(
    "how", [*({"method": method} for method in METHODS), {"switch": 8}], ids=lambda how: next(iter(how.values()))
)
def test_recorded_steps_are_steps(engine, plan, captures, monkeypatch, how, within):
    clean = portraits(plan)[:2]
    y = measure(TASKS["box"].operator(plan.image_shape), clean, 0.01, seed=0)
    restorer, operator = Restorer(plan, engine), TASKS["box"].operator(plan.image_shape)
    settings = {"steps": 20, "batch": 2, **how}
    first = restorer.restore(y, operator, **settings)
    assert captures
    assert None not in captures
    assert engine.can_capture
    again = restorer.restore(y, operator, **settings)
    monkeypatch.setattr(captured, "WORTH", 1000)
    stepped = restorer.restore(y, TASKS["box"].operator(plan.image_shape), **settings)
    exact = not engine.name.startswith("torch")  # whose gradients add up in any order
    assert first.k == stepped.k or not exact
    np.testing.assert_allclose(again.image, first.image, atol=0 if exact else 0.1)
    within(float(np.abs(first.image - stepped.image).mean()), 1e-5 if exact else 1e-2)


def test_rows_leave_their_recording_with_what_is_theirs(engine, plan, captures, within):
    """Rows change partners between steps, and other operators push captures out, while launches are under way."""
    operator = TASKS["sr4"].operator(plan.image_shape)
    y = measure(operator, portraits(plan), 0.01, seed=0)
    restorer = Restorer(plan, engine)
    ours, alone = (restorer._begin(y, operator, Guidance(steps=40, method="closed-form")) for _ in range(2))
    for turn in range(20):
        for pair in ([(0, 1), (2, 3)], [(0, 2), (1, 3)], [(3, 0), (2, 1)])[turn % 3]:
            advance([ours[i] for i in pair], engine)
        if turn % 5 == 4:
            for _ in range(captured.KEPT // 4):
                other = TASKS["box"].operator(plan.image_shape)
                restorer.restore(
                    measure(other, portraits(plan)[:1], 0.01, seed=0)[0], other, steps=20, method="closed-form"
                )
    for row in alone:
        for _ in range(20):
            advance([row], engine)
    assert None not in captures
    limit = 1e-3 if precision_of(engine) == "fp32" else 0.05
    for a, b in zip(ours, alone, strict=True):
        within(float(np.abs(on_host(a.x) - on_host(b.x)).mean()), limit)


@pytest.mark.parametrize("own", [False, True], ids=["default stream", "streams of their own"])
def test_two_threads_may_share_a_restorer(engine, plan, own, within):
    operator = TASKS["denoise"].operator(plan.image_shape)
    y = measure(operator, portraits(plan)[:1], 0.25, seed=0)[0]
    restorer = Restorer(plan, engine)

    def restore(seed: int) -> np.ndarray:
        with torch.cuda.stream(torch.cuda.Stream() if own else torch.cuda.default_stream()):
            return restorer.restore(y, operator, sigma=0.25, steps=30, switch=10, seed=seed).image

    alone = [restore(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(restore, range(6)))
    for a, b in zip(alone, together, strict=True):
        within(float(np.abs(a - b).mean()), 1e-2)


def test_the_device_has_its_memory_back_when_an_engine_is_closed(engine, plan, request, within):
    """A second engine of the same backend is measured: the first has paid for what the process keeps."""

    def used() -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return total - free

    def calls(engine: Engine) -> None:
        x, t, v = inputs(plan, 16)
        engine.pullback(engine.asarray(x), t)[1](engine.asarray(v))

    calls(engine)
    before = used()
    other = open_engine(plan, request.node.callspec.params["engine"])
    calls(other)
    loaded = used()
    other.close()
    within(used() - before, 0.3 * (loaded - before))
    with pytest.raises(BackendError, match="has been closed"):
        calls(other)


@pytest.mark.slow
def test_memory_does_not_grow(engine, plan, within):
    """A soak: batches of every size, operators that come and go, one restoration after the other."""
    random, restorer = np.random.default_rng(0), Restorer(plan, engine)
    clean = portraits(plan)

    def one(task: str, count: int) -> None:
        operator, sigma = TASKS[task].operator(plan.image_shape), TASKS[task].sigma
        y = measure(operator, clean[np.arange(count) % 4], sigma, seed=int(random.integers(100)))
        restorer.restore(y, operator, sigma=sigma, steps=20, batch=count)

    def used() -> tuple[int, int]:
        captured._kept(engine).clear()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return total - free, psutil.Process().memory_info().rss

    for count in range(1, 9):
        x, t, v = inputs(plan, count)
        engine.pullback(engine.asarray(x), t)[1](engine.asarray(v))  # rows that switch apart leave groups of any size
        engine.predict(engine.asarray(x), t)
        for task in TASKS:
            one(task, count)
    before, end = used(), time.monotonic() + SOAK
    while time.monotonic() < end:
        one(str(random.choice(list(TASKS))), int(random.integers(1, 9)))
    after = used()
    within(after[0] - before[0], GROWTH)
    within(after[1] - before[1], GROWTH)
