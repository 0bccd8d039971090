"""Torch's engine on the CPU: what it says when memory runs out, calls that are ended within, and its half precision."""

from threading import Event, Thread, current_thread

import numpy as np
import pytest
import torch

from frugal_rt import BackendError, Plan
from frugal_rt.engines.embedded import embedded_plan
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import Stop, stoppable
from frugal_rt.engines.torch.engine import TorchEngine


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


def test_threads_share_an_engine_and_no_autocast(tiny_plan):
    """Each thread finds autocast as it was, also where a call begins in the caller's autocast during another call."""
    plan = Plan.open(tiny_plan)
    engine, x, t = TorchEngine(plan, precision="bf16"), np.zeros((1, *plan.image_shape), np.float32), np.array([5])
    under_way, ended, found, network = Event(), Event(), {}, engine._module

    def slow(*inputs):
        if current_thread() is not first:
            return network(*inputs)
        under_way.set()
        assert ended.wait(60)
        found["within"] = torch.is_autocast_enabled("cpu")
        return network(*inputs)

    def call():
        engine.pullback(x, t)
        found["after"] = torch.is_autocast_enabled("cpu")

    engine._module, first = slow, Thread(target=call)
    first.start()
    assert under_way.wait(60)
    with torch.autocast("cpu", torch.bfloat16):
        engine.pullback(x, t)
        assert torch.is_autocast_enabled("cpu")
    ended.set()
    first.join(60)
    assert found == {"within": True, "after": False}


class Counted:
    """Layers that an engine has begun, forward and backward; another thread asks a stop at one of them."""

    def __init__(self, engine: TorchEngine):
        self.begun, self.asks, self.stop = 0, 0, Stop()
        for layer in (layer for layer in engine._module.modules() if not [*layer.children()]):
            layer.register_forward_pre_hook(self.count)
            layer.register_forward_hook(self.watch)

    def watch(self, layer, inputs, out) -> None:
        if out.requires_grad:
            out.register_hook(self.count)

    def count(self, *_) -> None:
        self.begun += 1
        if self.begun == self.asks:
            thread = Thread(target=self.stop.ask)
            thread.start()
            thread.join()

    def ended(self, call, asks: int) -> int:
        """Layers that are begun after the one at which the stop is asked."""
        self.begun, self.asks, self.stop = 0, asks, Stop()
        with stoppable(self.stop), pytest.raises(Stopped):
            call()
        return self.begun - asks


def test_a_stop_ends_a_call_before_the_next_layer_forward_and_backward():
    plan = embedded_plan("celeba")
    engine, t = TorchEngine(plan), np.array([500, 3])
    x = np.random.default_rng(0).normal(size=(2, *plan.image_shape)).astype(np.float32)
    before, counted = engine.pullback(x, t)[1](x), Counted(engine)
    engine.predict(x, t)
    forward, counted.begun = counted.begun, 0
    engine.pullback(x, t)[1](x)
    both = counted.begun
    assert forward > 100
    assert both > 1.7 * forward  # the embedding of t has no gradient
    for asks in (1, forward // 2, forward - 1):
        assert counted.ended(lambda: engine.predict(x, t), asks) == 0
    for asks in (1, forward - 1, forward + 1, (forward + both) // 2, both - 1):
        assert counted.ended(lambda: engine.pullback(x, t)[1](x), asks) == 0
    counted.asks = 0
    np.testing.assert_array_equal(engine.pullback(x, t)[1](x), before)


@pytest.mark.parametrize("scales", [(1, 1), (1e-5, 1e-6), (1e4, 1e-8)], ids=str)
def test_gradients_in_fp16_do_not_underflow(scales):
    """Gradients of two rows with cotangents of these magnitudes; torch alone errs by 5% at 1e-5."""
    plan = embedded_plan("celeba")
    x, v = np.random.default_rng(0).standard_normal((2, 2, *plan.image_shape), dtype=np.float32)
    v *= np.array(scales, np.float32).reshape(-1, 1, 1, 1)
    t = np.array([100, 900])
    want, got = (TorchEngine(plan, precision=one).pullback(x, t)[1](v) for one in ("fp32", "fp16"))
    for a, b in zip(got, want, strict=True):
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) < 1e-3


def test_a_cotangent_of_zeros_has_a_gradient_of_zeros_in_fp16(tiny_plan):
    plan = Plan.open(tiny_plan)
    x = np.zeros((1, *plan.image_shape), np.float32)
    _, pull = TorchEngine(plan, precision="fp16").pullback(x, np.array([5]))
    np.testing.assert_array_equal(pull(x), x)
