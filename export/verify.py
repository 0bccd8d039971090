"""Comparison of a plan with its prior in torch, outputs and gradients, before the plan is written."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import Engine, ExportError, Plan
from ..engines.onnxruntime.engine import OnnxRuntimeEngine
from ..engines.torch.network import build_network, load_weights

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest error accepted, relative to the larger of 1 and the output's magnitude. Measured on celeba: 2e-5."""
CEILING = 0.1
ROUNDING = 4
"""Beyond TOLERANCE, onnxruntime's error against float64 may be this many times torch's own float32 error, and at most
CEILING. A constant input leaves a group norm hardly any variance to divide by, where float32 itself is inexact."""
LARGE = 128
"""Side of images in pixels above which fewer are compared, and torch recomputes activations, which are GBs an image."""
OTHER = (3, 10)
"""Height and width, in strides, of the second size at which graphs for any size are compared. A constant that holds one
size fails there."""
RUNS = 8
"""Pullbacks on a busy machine that must agree bit by bit: a race between threads shows only now and then."""


def parity(plan: Plan, runs: int = RUNS) -> dict[str, float]:
    """Return the largest relative errors of the plan's graphs in onnxruntime against torch, for outputs and gradients.

    They are compared with torch in float32, and beyond TOLERANCE with torch in float64. Inputs: batches of 1, 2 and 5
    (1 and 2 for images larger than LARGE), two sizes where the plan takes any, timesteps across the training range, and
    difficult images: constant, huge, tiny, zero, a checkerboard. Then `runs` pullbacks are repeated while more threads
    than cores work.

    Raises ExportError if a value is not finite, an error is larger than rounding explains, two runs differ, or a graph
    holds a ScatterND.
    """
    _refuse_scatter(plan)
    answers = in_onnxruntime(plan, runs)  # sessions are closed before torch begins: each holds GBs at 256x256
    single = network(plan, "float32")
    worst = {"output": 0.0, "gradient": 0.0}
    for (label, x, t, v), got in zip(cases(plan), answers, strict=True):
        want = row_by_row(single, x, t, v)
        exact: dict[str, np.ndarray] = {}
        for what in worst:
            if got[what].shape != want[what].shape:
                raise ExportError(
                    f"parity failed on {label}: onnxruntime's {what} is {got[what].shape}, torch's {want[what].shape}"
                )
            scale = max(1.0, float(np.abs(want[what]).max()))
            error = _distance(got[what], want[what])
            if not error / scale <= TOLERANCE:
                exact = exact or row_by_row(network(plan, "float64"), x, t, v)
                allowed = min(CEILING * scale, ROUNDING * _distance(want[what], exact[what]))
                error = _distance(got[what], exact[what])
                if not error <= max(TOLERANCE * scale, allowed):
                    raise ExportError(
                        f"parity failed on {label}: onnxruntime's {what} is {error / scale:.1e} away from torch's in "
                        f"float64, {max(TOLERANCE, allowed / scale):.0e} is allowed; nothing was written"
                    )
            worst[what] = max(worst[what], error / scale)
    return worst


def shapes(plan: Plan) -> list[tuple[int, int, int]]:
    """Return (C, H, W) of the images to compare on: the plan's, and for a plan of any size a second one."""
    own = plan.image_shape
    height, width = OTHER
    return [own] if plan.stride is None else [own, (own[0], height * plan.stride, width * plan.stride)]


def cases(plan: Plan) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield inputs to compare on: a label, x (B, C, H, W) float32, t (B,) int64, and the cotangent v, of x's shape.

    For images larger than LARGE, and for a second size, difficult images are taken at one timestep instead of three.
    """
    last = plan.manifest["schedule"].get("num_train_timesteps", 1000) - 1
    random = np.random.default_rng(0)

    def case(label: str, x: np.ndarray, t: np.ndarray) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        return label, x, t, np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)

    for shape in shapes(plan):
        few = max(shape[1:]) > LARGE or shape != plan.image_shape
        of = "" if shape == plan.image_shape else f", {shape[2]}x{shape[1]}"
        for batch in (1, 2) if few else (1, 2, 5):
            x = random.standard_normal((batch, *shape), dtype=np.float32)
            yield case(f"noise, batch {batch}{of}", x, np.linspace(0, last, batch).astype(np.int64))
        awkward = {
            "zeros": np.zeros(shape),
            "a constant": np.full(shape, 0.7),
            "huge values": 1e3 * random.standard_normal(shape),
            "tiny values": 1e-12 * random.standard_normal(shape),
            "a checkerboard": np.indices(shape).sum(0) % 2 * 2.0 - 1,
        }
        times = (0, last // 2, last)
        for i, (label, one) in enumerate(awkward.items()):
            for t in times[i % 3 :][:1] if few else times:
                yield case(f"{label} at t = {t}{of}", one[None].astype(np.float32), np.array([t]))


def in_onnxruntime(plan: Plan, runs: int) -> list[dict[str, np.ndarray]]:
    """Run the plan's graphs on each of `cases`, after `repeatable`."""
    with contextlib.closing(OnnxRuntimeEngine(plan, arena=False)) as engine:
        repeatable(plan, engine, runs)
        return [evaluate(engine, x, t, v) for _, x, t, v in cases(plan)]


def evaluate(engine: Engine, x: np.ndarray, t: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """Return an engine's outputs, (B, C or 2C, H, W), and the gradient for the cotangent v."""
    (out, variance), pull = engine.pullback(x, t)
    return {"output": _stack((out, variance)), "gradient": np.asarray(pull(v))}


def network(plan: Plan, dtype: str) -> "torch.nn.Module":
    """Build the prior's network in torch; for images larger than LARGE with gradient checkpointing."""
    import torch

    module: Any = build_network(plan.manifest["network"])
    load_weights(module, plan.tensors(), plan.source)
    if max(plan.image_shape[1:]) > LARGE:
        module.unet.enable_gradient_checkpointing()
    module = module.to(getattr(torch, dtype), memory_format=torch.channels_last)  # as the torch backend runs it
    placed: torch.nn.Module = module
    return placed


def row_by_row(module: "torch.nn.Module", x: np.ndarray, t: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same as `evaluate`, by torch's autograd through `module`, one row at a time."""
    import torch

    kind = next(module.parameters()).dtype
    rows = []
    for i in range(len(x)):
        leaf, time, cotangent = (torch.tensor(one[i : i + 1]) for one in (x, t, v))
        leaf = leaf.to(kind, memory_format=torch.channels_last).requires_grad_()
        result = module(leaf, time)
        outputs = result if isinstance(result, tuple) else (result,)
        (gradient,) = torch.autograd.grad(outputs[0], leaf, cotangent.to(kind))
        rows.append({"output": _stack([one.detach().numpy() for one in outputs]), "gradient": gradient.numpy()})
    return {what: np.concatenate([row[what] for row in rows]) for what in rows[0]}


def repeatable(plan: Plan, engine: Engine, runs: int) -> None:
    """Raise ExportError unless `runs` pullbacks of one input agree bit by bit while more threads than cores work."""
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
    """Keep `threads` threads multiplying matrices during the block."""
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
    """Concatenate the outputs of a call; a missing variance is left out."""
    return np.concatenate([output for output in outputs if output is not None], axis=1)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())
