"""The demo's claim, measured: `frugal` looks as good as DPS on the packaged portrait."""

import numpy as np
import onnxruntime
import pytest

from frugal_rt import Restorer
from frugal_rt.runtime.evaluation import demo


@pytest.mark.long
def test_frugal_is_as_close_as_dps_over_three_tasks_and_four_seeds(celeba_plan, data):
    """Mean LPIPS, frugal <= DPS + 0.01, T = 100, sigma 0.01. A batch holds the four seeds of a task."""
    restorer = Restorer.load(celeba_plan)
    lpips = onnxruntime.InferenceSession(str(data / "metrics" / "lpips_alex.onnx"), providers=["CPUExecutionProvider"])
    distance = {}
    for method in ("dps", "frugal"):
        rows = []
        for task in demo.SHOWN:
            measured = [demo.measure(restorer, task, seed) for seed in range(4)]
            y, clean = np.stack([m.y for m in measured]), np.stack([m.clean for m in measured])
            result = restorer.restore(y, measured[0].operator, sigma=demo.SIGMA, steps=100, method=method)
            rows.append(lpips.run(None, {"image": result.image, "reference": clean})[0])
        distance[method] = float(np.mean(rows))
        print(method, np.mean(rows, axis=1))
    assert distance["frugal"] <= distance["dps"] + 0.01
