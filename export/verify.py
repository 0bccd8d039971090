"""Does the plan compute what the prior computes? Asked before anything is written."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..engines import ExportError, Plan
from ..engines.network import build_network, load_weights
from ..engines.onnxruntime import OnnxRuntimeEngine
from ..engines.torch import TorchEngine

TOLERANCE = 1e-4
"""Largest error accepted, relative to the larger of 1 and the output's magnitude. Measured on celeba: 2e-5."""
CEILING = 1e-2
ROUNDING = 4
"""Between TOLERANCE and CEILING, onnxruntime may be this many times as far from float64 as torch's own float32 is: a
constant input leaves a group norm hardly any variance to divide by, and there float32 itself is no better."""


def parity(plan: Plan) -> dict[str, float]:
    """The largest absolute and relative error of the plan's ONNX graph in onnxruntime against torch.

    Over batches of 1, 2 and 5, timesteps across the training range, and inputs chosen to be awkward: constant,
    huge, tiny, zero, a checkerboard. Raises ExportError if an output is not finite or further off than rounding.
    """
    ours, torch = OnnxRuntimeEngine(plan), TorchEngine(plan)
    worst = {"max_abs_error": 0.0, "max_rel_error": 0.0}
    for label, x, t in cases(plan):
        got, want = _stack(ours.predict(x, t)), _stack(torch.predict(x, t))
        if got.shape != want.shape:
            raise ExportError(f"parity failed on {label}: onnxruntime gives {got.shape}, torch {want.shape}")
        scale = max(1.0, float(np.abs(want).max()))
        error = _distance(got, want)
        rounding = error / scale <= TOLERANCE or (error / scale <= CEILING and _is_rounding(plan, x, t, got, want))
        if not rounding:
            raise ExportError(
                f"parity failed on {label}: onnxruntime is {error / scale:.1e} away from torch, {TOLERANCE:.0e} is "
                "allowed; nothing was written"
            )
        worst["max_abs_error"] = max(worst["max_abs_error"], error)
        worst["max_rel_error"] = max(worst["max_rel_error"], error / scale)
    return worst


def cases(plan: Plan) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Inputs to compare on: a label, x (B, C, H, W) float32, t (B,) int64."""
    image = plan.manifest["image"]
    shape = (image["channels"], image["height"], image["width"])
    last = plan.manifest["schedule"].get("num_train_timesteps", 1000) - 1
    random = np.random.default_rng(0)
    for batch in (1, 2, 5):
        x = random.standard_normal((batch, *shape), dtype=np.float32)
        yield f"noise, batch {batch}", x, np.linspace(0, last, batch).astype(np.int64)
    awkward = {
        "zeros": np.zeros(shape),
        "a constant": np.full(shape, 0.7),
        "huge values": 1e3 * random.standard_normal(shape),
        "tiny values": 1e-12 * random.standard_normal(shape),
        "a checkerboard": np.indices(shape).sum(0) % 2 * 2.0 - 1,
    }
    for label, one in awkward.items():
        for t in (0, last // 2, last):
            yield f"{label} at t = {t}", one[None].astype(np.float32), np.array([t])


def _stack(outputs: Any) -> np.ndarray:
    """The outputs of a call as one array; a missing variance is left out."""
    return np.concatenate([output for output in outputs if output is not None], axis=1)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def _is_rounding(plan: Plan, x: np.ndarray, t: np.ndarray, got: np.ndarray, want: np.ndarray) -> bool:
    """Whether onnxruntime is about as close to the network in float64 as torch in float32 is."""
    import torch

    module = build_network(plan.manifest["network"])
    load_weights(module, plan.tensors(), plan.source)
    with torch.inference_mode():
        out = module.double()(torch.tensor(x).double(), torch.tensor(t))
    exact = _stack(value.numpy() for value in (out if isinstance(out, tuple) else (out,)))
    return _distance(got, exact) <= ROUNDING * _distance(want, exact)
