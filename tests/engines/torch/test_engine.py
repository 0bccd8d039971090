"""Torch's engine says that memory ran out."""

import numpy as np
import pytest
import torch

from frugal_rt import BackendError, Plan
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
