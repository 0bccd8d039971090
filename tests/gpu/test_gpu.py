"""Every backend of a CUDA machine against float32 torch on its CPU: `make test-gpu`, or pytest -m gpu tests/gpu.

Times are measured by tests/gpu/figures.py; here is only what is right or wrong.
"""

import os
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch

from frugal_rt import Plan, Restorer
from frugal_rt.engines import PRECISIONS, BackendError, Engine, cuda, open_engine, tensorrt_build, tensorrt_module
from frugal_rt.engines.torch import TorchEngine
from frugal_rt.runtime.demo import PORTRAIT
from frugal_rt.runtime.images import read_photo
from frugal_rt.runtime.metrics import psnr
from frugal_rt.runtime.suite import TASKS, measure

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.trouble() is not None, reason=f"needs a CUDA machine: {cuda.trouble()}"),
]

BACKENDS = [
    "cuda",
    *(f"{name}:{precision}" for name in ("tensorrt", "tensorrt-rtx", "torch") for precision in PRECISIONS),
]
ERROR = {"fp32": 5e-3, "fp16": 2e-2, "bf16": 8e-2}
"""Root mean square of an answer's error over its own, at most: torch's fp32 convolutions on a GPU are TF32."""
DECIBELS = 0.05
SOAK = float(os.environ.get("FRUGAL_RT_SOAK", "600"))
"""Seconds."""
GROWTH = 64 << 20
"""Bytes that memory may grow by after a soak's first tenth, on the device and on the host."""


@pytest.fixture(scope="module")
def plan(celeba_plan) -> Plan:
    return Plan.open(celeba_plan)


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request, plan) -> Iterator[Engine]:
    """One backend of this machine, its TensorRT engines built first. Skips with the reason where it cannot run."""
    name, _, precision = request.param.partition(":")
    try:
        if name in tensorrt_module.FLAVOURS:
            tensorrt_build.build(plan, name, precision=precision)
        yield open_engine(plan, request.param)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reference(plan) -> TorchEngine:
    return TorchEngine(plan, "cpu")


def precision_of(engine: Engine) -> str:
    return next((one for one in ("fp16", "bf16") if one in engine.name), "fp32")


def inputs(plan: Plan, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(batch)
    x, v = random.standard_normal((2, batch, *plan.image_shape), dtype=np.float32)
    return x, np.linspace(5, 995, batch).astype(np.int64), v


def distance(got: object, want: np.ndarray) -> float:
    got = np.asarray(got.cpu() if hasattr(got, "cpu") else got, np.float64)
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


@pytest.mark.parametrize("batch", [1, 3, 4, 16, 21])
def test_answers_and_gradients_are_torch_s(engine, reference, plan, batch):
    x, t, v = inputs(plan, batch)
    (want, _), want_pull = reference.pullback(x, t)
    engine.prepare(gradients=True, batch=batch)
    on_device = engine.asarray(x)
    (out, _), pull = engine.pullback(on_device, t)
    assert out.device.type == "cuda" if isinstance(out, torch.Tensor) else engine.name.startswith("onnxruntime")
    limit = ERROR[precision_of(engine)]
    assert distance(engine.predict(on_device, t).out, want) < limit
    assert distance(out, want) < limit
    assert distance(pull(engine.asarray(v)), want_pull(v)) < 2 * limit


def test_one_input_gives_one_answer(engine, plan):
    x, t, v = inputs(plan, 4)
    x, v = engine.asarray(x), engine.asarray(v)
    found = []
    for _ in range(30):
        (out, _), pull = engine.pullback(x, t)
        found.append((np.asarray(out.cpu()), np.asarray(pull(v).cpu())) if hasattr(out, "cpu") else (out, pull(v)))
    for out, gradient in found[1:]:
        if engine.name.startswith("torch"):  # cuDNN's gradients add up in any order
            assert distance(gradient, found[0][1]) < 1e-2
        else:
            np.testing.assert_array_equal(out, found[0][0])
            np.testing.assert_array_equal(gradient, found[0][1])


def portraits(plan: Plan) -> np.ndarray:
    pixels = read_photo(PORTRAIT).pixels
    return np.stack([pixels, pixels[:, :, ::-1]]).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_restorations_are_as_good_as_the_cpu_s(engine, plan, task):
    clean = portraits(plan)
    operator, sigma = TASKS[task].operator(plan.image_shape), TASKS[task].sigma
    y = measure(operator, clean, sigma, seed=0)
    settings = {"sigma": sigma, "steps": 50, "switch": 25, "batch": 2}
    ours, cpu = (
        Restorer(plan, one).restore(y, operator, **settings).image for one in (engine, open_engine(plan, "cpu"))
    )
    assert abs(psnr(ours, clean).mean() - psnr(cpu, clean).mean()) <= DECIBELS


@pytest.mark.parametrize("switch", ["never", "always", "auto", 8])
def test_recorded_steps_are_steps(engine, plan, monkeypatch, switch):
    if not engine.records:
        pytest.skip(f"{engine.name} records nothing")
    clean = portraits(plan)
    operator = TASKS["box"].operator(plan.image_shape)
    y = measure(operator, clean, 0.01, seed=0)
    restorer = Restorer(plan, engine)
    settings = {"steps": 20, "switch": switch, "batch": 2}
    recorded = restorer.restore(y, operator, **settings)
    monkeypatch.setattr(engine, "record", lambda work: None)
    stepped = restorer.restore(y, TASKS["box"].operator(plan.image_shape), **settings)
    assert recorded.k == stepped.k
    np.testing.assert_allclose(recorded.image, stepped.image, atol=2e-2 if engine.name.startswith("torch") else 1e-5)
    again = restorer.restore(y, operator, **settings)
    np.testing.assert_allclose(again.image, recorded.image, atol=2e-2 if engine.name.startswith("torch") else 0)


def test_rows_that_come_and_go_are_what_they_would_be_alone(engine, plan):
    operator = TASKS["sr4"].operator(plan.image_shape)
    y = measure(operator, portraits(plan), 0.01, seed=0)
    restorer = Restorer(plan, engine)
    alone = np.concatenate(
        [restorer.restore(y[i : i + 1], operator, steps=20, switch=10, sample=i).image for i in (0, 1)]
    )
    together = restorer.restore(y, operator, steps=20, switch=10, batch=2).image
    assert np.abs(alone - together).mean() < 0.02


@pytest.mark.slow
def test_memory_does_not_grow(engine, plan):
    """A soak: batches of every size, operators that come and go, one restoration after the other."""
    random, started = np.random.default_rng(0), time.monotonic()
    restorer, host, first = Restorer(plan, engine), psutil.Process(), None
    clean, seconds = portraits(plan), SOAK / len(BACKENDS)
    while (elapsed := time.monotonic() - started) < seconds:
        task, count = TASKS[random.choice(list(TASKS))], int(random.integers(1, 9))
        operator = task.operator(plan.image_shape)
        y = measure(operator, clean[random.integers(0, 2, count)], task.sigma, seed=int(random.integers(100)))
        restorer.restore(y, operator, sigma=task.sigma, steps=10, batch=count)
        free, _ = torch.cuda.mem_get_info()
        if elapsed > seconds / 2 and first is None:
            first = free, host.memory_info().rss
    assert first is not None
    assert first[0] - free < GROWTH
    assert host.memory_info().rss - first[1] < GROWTH
