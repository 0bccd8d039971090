"""Embeddings of timesteps are kept."""

import numpy as np

from frugal_rt import Plan
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine

from .calls import inputs


def test_a_timestep_is_embedded_once(tiny_plan, monkeypatch):
    engine = OnnxRuntimeEngine(Plan.open(tiny_plan))
    x, _ = inputs(3)
    first = engine.predict(x, np.array([5, 900, 5])).out
    monkeypatch.setattr(engine._embed, "_compute", None)
    np.testing.assert_array_equal(engine.predict(x, np.array([5, 900, 5])).out, first)
