"""Network calls of the tiny prior on random states."""

import numpy as np

from frugal_rt import Plan
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine


def inputs(batch: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(batch)
    return random.standard_normal((batch, 3, 16, 16), dtype=np.float32), random.integers(0, 1000, batch)


def answers(plan_path) -> list[np.ndarray]:
    engine = OnnxRuntimeEngine(Plan.open(plan_path))
    (out, _), pull = engine.pullback(*inputs(2))
    return [out, pull(out)]
