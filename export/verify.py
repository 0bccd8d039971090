"""Does the plan compute what the prior computes, and its gradient? Asked before anything is written."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..engines import Engine, ExportError, Plan
from ..engines.network import build_network, load_weights
from ..engines.onnxruntime import OnnxRuntimeEngine
from ..engines.torch import TorchEngine

TOLERANCE = 1e-4
"""Largest error accepted, relative to the larger of 1 and the output's magnitude. Measured on celeba: 2e-5."""
CEILING = 1e-2
ROUNDING = 4
"""Between TOLERANCE and CEILING, onnxruntime may be this many times as far from float64 as torch's own float32 is: a
constant input leaves a group norm hardly any variance to divide by, and there float32 itself is no better."""
LARGE = 128
"""Side of the images from which on a batch of 5 is too much: a pullback keeps more than 1 GB an image at 256x256."""
RUNS = 8
"""Pullbacks on a busy machine that must all agree: a race between threads shows now and then, not at once."""


def parity(plan: Plan, runs: int = RUNS) -> dict[str, float]:
    """The largest relative errors of the plan's graphs in onnxruntime against torch: of outputs, and of gradients.

    Over batches of 1, 2 and 5 (3 of images larger than LARGE), timesteps across the training range, and inputs chosen
    to be awkward: constant, huge, tiny, zero, a checkerboard; then `runs` pullbacks with more threads than cores at
    work. Raises ExportError if a value is not finite, further off than rounding, not the same in each run, or if a
    graph holds a ScatterND.
    """
    _refuse_scatter(plan)
    ours, torch = OnnxRuntimeEngine(plan), TorchEngine(plan)
    worst = {"output": 0.0, "gradient": 0.0}
    for label, x, t in cases(plan):
        v = np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
        got, want = evaluate(ours, x, t, v), row_by_row(functools.partial(evaluate, torch), x, t, v)
        exact: dict[str, np.ndarray] = {}
        for what in worst:
            if got[what].shape != want[what].shape:
                raise ExportError(
                    f"parity failed on {label}: onnxruntime's {what} is {got[what].shape}, torch's {want[what].shape}"
                )
            scale = max(1.0, float(np.abs(want[what]).max()))
            error = _distance(got[what], want[what])
            if not error / scale <= TOLERANCE:
                exact = exact or row_by_row(functools.partial(in_float64, plan), x, t, v)
                rounding = ROUNDING * _distance(want[what], exact[what])
                if not error / scale <= CEILING or _distance(got[what], exact[what]) > rounding:
                    raise ExportError(
                        f"parity failed on {label}: onnxruntime's {what} is {error / scale:.1e} away from torch's, "
                        f"{TOLERANCE:.0e} is allowed; nothing was written"
                    )
            worst[what] = max(worst[what], error / scale)
    repeatable(plan, ours, runs)
    return worst


def cases(plan: Plan) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Inputs to compare on: a label, x (B, C, H, W) float32, t (B,) int64."""
    shape, last = plan.image_shape, plan.manifest["schedule"].get("num_train_timesteps", 1000) - 1
    random = np.random.default_rng(0)
    for batch in (1, 2, 5 if shape[1] <= LARGE else 3):
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


def evaluate(engine: Engine, x: np.ndarray, t: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """An engine's outputs, (B, C or 2C, H, W), and the gradient for the cotangent v."""
    (out, variance), pull = engine.pullback(x, t)
    return {"output": _stack((out, variance)), "gradient": pull(v)}


def row_by_row(
    evaluate: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]],
    x: np.ndarray,
    t: np.ndarray,
    v: np.ndarray,
) -> dict[str, np.ndarray]:
    """What `evaluate` gives for each row alone: autograd keeps every activation, GBs of them an image at 256x256."""
    rows = [evaluate(x[i : i + 1], t[i : i + 1], v[i : i + 1]) for i in range(len(x))]
    return {what: np.concatenate([row[what] for row in rows]) for what in rows[0]}


def in_float64(plan: Plan, x: np.ndarray, t: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """The same by torch in float64."""
    import torch

    module = build_network(plan.manifest["network"])
    load_weights(module, plan.tensors(), plan.source)
    leaf = torch.tensor(x).double().requires_grad_()
    result = module.double()(leaf, torch.tensor(t))
    outputs = result if isinstance(result, tuple) else (result,)
    (gradient,) = torch.autograd.grad(outputs[0], leaf, torch.tensor(v).double())
    return {"output": _stack([one.detach().numpy() for one in outputs]), "gradient": gradient.numpy()}


def repeatable(plan: Plan, engine: Engine, runs: int) -> None:
    """Raises ExportError unless `runs` pullbacks of one input agree bit by bit while more threads than cores work."""
    x = np.random.default_rng(2).standard_normal((1, *plan.image_shape), dtype=np.float32)
    t = np.array([plan.manifest["schedule"].get("num_train_timesteps", 1000) // 3])
    with _busy((os.cpu_count() or 1) + 1):
        first = evaluate(engine, x, t, x)
        for run in range(1, runs):
            again = evaluate(engine, x, t, x)
            for what, value in first.items():
                if not np.array_equal(value, again[what]):
                    raise ExportError(
                        f"the {what} differs between two runs on the same input by "
                        f"{_distance(value, again[what]):.1e} (run {run} of {runs}); nothing was written"
                    )


@contextlib.contextmanager
def _busy(threads: int) -> Iterator[None]:
    """With so many threads multiplying matrices beside."""
    done = threading.Event()
    matrix = np.ones((192, 192), np.float32)

    def work() -> None:
        while not done.is_set():
            matrix @ matrix

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        done.set()
        for worker in workers:
            worker.join()


def _refuse_scatter(plan: Plan) -> None:
    import onnx

    for entry in plan.manifest["graphs"].values():
        model = onnx.load_from_string(bytes(plan.member(entry["member"])))
        found = {node.op_type for node in model.graph.node if node.op_type.startswith("Scatter")}
        if found:
            raise ExportError(
                f"{entry['member']} holds {', '.join(found)}, whose duplicate indices race between threads in "
                "onnxruntime; nothing was written"
            )


def _stack(outputs: Any) -> np.ndarray:
    """The outputs of a call as one array; a missing variance is left out."""
    return np.concatenate([output for output in outputs if output is not None], axis=1)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())
