"""onnxruntime's engine: what it loads, and rows that do not depend on their batch."""

import numpy as np
import pytest

from frugal_rt import Plan
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine

from ..calls import inputs


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
