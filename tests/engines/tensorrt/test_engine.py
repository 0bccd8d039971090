"""The engine's calls of TensorRT, on the CPU: onnxruntime computes at the addresses that a context was given."""

import ctypes
import gc
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frugal_rt import BackendError
from frugal_rt.engines import open_engine
from frugal_rt.engines.onnxruntime.sessions import Sessions
from frugal_rt.engines.tensorrt import engine, library

from .kept import H200, HERE, kept, needs_rtx


@needs_rtx
def test_a_backend_says_why_its_engine_does_not_fit(plan, gpu):
    kept(plan, replace(HERE, flavour="tensorrt-rtx", version="1.0.0.1"))
    with pytest.raises(BackendError, match=r"built by tensorrt-rtx 1\.0\.0\.1, and tensorrt-rtx [\d.]+ is here"):
        open_engine(plan, "tensorrt-rtx")


class FakeContext:
    def __init__(self, session):
        self.session = session
        self.addresses, self.shapes, self.profile = {}, {}, None

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        low, high = [(1, 1), (2, 4)][self.profile]
        self.shapes[name] = shape
        return low <= shape[0] <= high

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        wanted = next(one for one in self.session.get_outputs() if one.name == name).shape
        return [next(iter(self.shapes.values()))[0], *wanted[1:]]

    def execute_async_v3(self, stream):
        def at(name, shape):
            memory = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
            return np.frombuffer(memory, np.float32).reshape(shape)

        names = [one.name for one in self.session.get_outputs() if one.name in self.addresses]
        inputs = {one.name: at(one.name, self.shapes[one.name]) for one in self.session.get_inputs()}
        for name, value in zip(names, self.session.run(names, inputs), strict=True):
            at(name, value.shape)[...] = value
        return True


class FakeEngine:
    def __init__(self, session, wanted):
        self.session = session
        self.inputs = {one.name: one.shape for one in session.get_inputs()}
        self.outputs = {one.name: one.shape for one in session.get_outputs() if wanted(one.name)}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name):
        return [-1, *{**self.inputs, **self.outputs}[name][1:]]

    def create_execution_context(self, strategy):
        return FakeContext(self.session)


class FakeArrays:
    device, records, torch = "cpu", False, torch

    def __init__(self, what, device): ...

    def asarray(self, x):
        return torch.as_tensor(x, dtype=torch.float32)

    def upload(self, array):
        return lambda: self.asarray(array)

    def capture(self, work):
        return None

    def throttle(self): ...

    @contextmanager
    def queue(self):
        yield SimpleNamespace(cuda_stream=7, synchronize=lambda: None)

    memory = closing = nullcontext


@pytest.fixture
def wired(plan, gpu, monkeypatch):
    """Replace TensorRT by onnxruntime, with engines for batches of 1 and 4."""
    sessions = Sessions(plan, "cpu")

    def deserialize(data):
        name = {b"pred": "predict", b"forw": "forward", b"pull": "pullback"}[bytes(data)]
        session = sessions.open("pullback" if name == "pullback" else "forward", "cpu")
        return FakeEngine(session, lambda output: name != "predict" or not output.startswith("kept:"))

    rt = SimpleNamespace(
        name="tensorrt",
        version=HERE.version,
        flavour=library.FLAVOURS["tensorrt"],
        runtime=SimpleNamespace(deserialize_cuda_engine=deserialize),
        trt=SimpleNamespace(
            TensorIOMode=SimpleNamespace(INPUT="in"),
            ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE=1),
        ),
        errors=["the log's last line"],
    )
    rt.need = lambda result, what: library.TensorRT.need(rt, result, what)
    rt.need_device = lambda: H200
    monkeypatch.setattr(library, "load", lambda name: rt)
    monkeypatch.setattr(engine, "TorchArrays", FakeArrays)
    kept(plan)
    return open_engine(plan, "tensorrt")


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("as_torch", [False, True])
def test_calls_of_any_size_are_onnxruntime_s(plan, wired, batch, as_torch):
    random = np.random.default_rng(0)
    x, v = random.standard_normal((2, batch, *plan.image_shape)).astype(np.float32)
    t = random.integers(0, 1000, batch)
    given = [torch.from_numpy(one) if as_torch else one for one in (x, t, v)]
    reference = open_engine(plan, "cpu")
    (want, _), want_pull = reference.pullback(x, t)
    np.testing.assert_allclose(np.asarray(wired.predict(*given[:2]).out), want, atol=1e-5)
    (out, variance), pull = wired.pullback(*given[:2])
    assert variance is None
    assert isinstance(out, torch.Tensor) == as_torch
    np.testing.assert_allclose(np.asarray(out), want, atol=1e-5)
    np.testing.assert_allclose(np.asarray(pull(given[2])), want_pull(v), atol=1e-4)


def test_what_a_context_refuses_is_an_error_with_the_log_s_last_lines(plan, wired, monkeypatch):
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda self, stream: False)
    x = np.zeros((1, *plan.image_shape), np.float32)
    with pytest.raises(BackendError, match=r"could not run in the predict engine: the log's last line"):
        wired.predict(x, np.array([3]))


def test_a_closed_engine_lets_its_contexts_go_and_says_so(plan, wired):
    x, t = np.zeros((1, *plan.image_shape), np.float32), np.array([3])
    (out, _), pull = wired.pullback(x, t)
    wired.predict(x, t)
    gc.collect()
    gc.disable()
    try:
        left = [weakref.ref(context) for context in wired._predict._contexts.values()]
        assert left
        wired.close()
        wired.close()
        assert [context() for context in left] == [None]
    finally:
        gc.enable()
    for call in (
        lambda: wired.prepare(gradients=False),
        lambda: wired.asarray(x),
        lambda: wired.can_capture,
        lambda: wired.predict(x, t),
        lambda: wired.pullback(x, t),
        lambda: pull(out),
    ):
        with pytest.raises(BackendError, match=r"^this engine has been closed; load the plan again$"):
            call()


def test_a_name_says_version_and_precision(wired):
    assert wired.name == "tensorrt 11.4.0.12 (cuda, fp32)"
