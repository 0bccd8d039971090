"""Three forms of a compiled DPS gradient, on one engine: what each costs. The choice is in docs/decisions/times.md.

python tests/studies/forms.py --model celeba

handed over: a forward graph that gives its activations to a pullback graph (what plans hold); any operator.
recomputed:  a pullback graph that computes the forward pass again; any operator.
inside:      one graph of the forward pass, the operator (super-resolution x4), the norm and the gradient.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import onnxruntime
from safetensors.numpy import save

from frugal_rt.engines import Plan
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine
from frugal_rt.engines.onnxruntime.sessions import Sessions
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.engines.torch.network import build_network, load_weights
from frugal_rt.engines.weights import read_safetensors
from frugal_rt.export import build_plan, find_prior, read_prior
from frugal_rt.export.graph import conditions_of, serialise, take_conditions, width
from frugal_rt.export.lowering import Emitter, upsample
from frugal_rt.export.pullback import PullbackEmitter, reverse
from frugal_rt.export.sizes import BATCH
from frugal_rt.export.trace import Value, trace

SCALE = 4
SCALAR = (BATCH, 1, 1, 1)


class Joint(PullbackEmitter):
    """Keeps nothing: whatever the pullback needs is computed in the same graph."""

    def emit(self, value: Value) -> str:
        return Emitter.emit(self, value)


@click.command(help=__doc__)
@click.option("--model", default="celeba", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="A prior's folder instead.")
@click.option("--batch", default=1, show_default=True)
@click.option("--rounds", default=30, show_default=True)
def main(model: str, weights: Path | None, batch: int, rounds: int) -> None:
    prior = read_prior(weights) if weights else find_prior(model)
    plan = build_plan(prior, precisions=())
    forms = joint_plans(plan)
    engine = OnnxRuntimeEngine(plan)
    engine.prepare(gradients=True)
    shape = prior.image_shape
    random = np.random.default_rng(0)
    x, t = random.standard_normal((batch, *shape), dtype=np.float32), np.full(batch, 400)
    y = random.uniform(-1, 1, (batch, shape[0], shape[1] // SCALE, shape[2] // SCALE)).astype(np.float32)
    embedding = engine._embed(t)
    root = {"x0_x": np.full((batch, 1, 1, 1), 0.5, np.float32), "x0_out": np.full((batch, 1, 1, 1), 0.8, np.float32)}
    sessions = {name: engine_session(one, name) for name, one in forms.items()}

    def outside(out: np.ndarray) -> np.ndarray:
        raw = root["x0_x"] * x - root["x0_out"] * out
        x0hat = np.clip(raw, -1, 1)
        c, h, w = y.shape[1:]
        r = y - x0hat.reshape(batch, c, h, SCALE, w, SCALE).mean((3, 5))
        norm = np.sqrt((r * r).sum((1, 2, 3), keepdims=True))
        reach = -(r / norm).repeat(SCALE, 2).repeat(SCALE, 3) / SCALE**2
        return (np.abs(raw) <= 1) * reach

    def handed_over() -> np.ndarray:
        (out, _), pull = engine.pullback(x, t)
        cotangent = outside(out)
        return root["x0_x"] * cotangent - pull(root["x0_out"] * cotangent)

    def recomputed() -> np.ndarray:
        cotangent = outside(engine.predict(x, t).out)
        feed = {"x": x, "embedding": embedding, "v": root["x0_out"] * cotangent}
        return root["x0_x"] * cotangent - sessions["recomputed"].run(["gradient"], feed)[0]

    def inside() -> np.ndarray:
        return sessions["inside"].run(["out", "gradient"], {"x": x, "embedding": embedding, "y": y, **root})[1]

    def forward() -> np.ndarray:
        return engine.predict(x, t).out

    timed: dict[str, Callable[[], np.ndarray]] = {
        "forward": forward, "handed over": handed_over, "recomputed": recomputed, "inside": inside
    }  # fmt: skip
    want = handed_over()
    for name in ("recomputed", "inside"):
        error = np.abs(timed[name]() - want).max() / np.abs(want).max()
        if not error < 1e-4:
            raise click.ClickException(f"{name} differs by {error:.1e}")
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    click.echo(f"{prior.name}, batch {batch}, {rounds} rounds\n\n| form | ms (least..most) | forwards |")
    click.echo("| --- | --- | --- |")
    base = np.array(times["forward"])
    for name, values in times.items():
        ms = 1e3 * np.array(values)
        ratio = np.median(np.array(values) / base)
        click.echo(f"| {name} | {np.median(ms):.2f} ({ms.min():.2f}..{ms.max():.2f}) | {ratio:.2f} |")


def joint_plans(plan: Plan) -> dict[str, Plan]:
    """A plan for each of the other two forms, of one graph each."""
    module = build_network(plan.manifest["network"])
    load_weights(module, plan.tensors(), "the plan")
    traced = trace(module, plan.image_shape)
    conditions = conditions_of(traced)
    tensors = read_safetensors(memoryview(save(plan.tensors())), "the plan")
    x, out = traced.x, traced.outputs[0]
    given: dict[str, Any] = {"x": ("x", x.shape), "embedding": ("embedding", (BATCH, width(conditions)))}

    def start() -> Joint:
        e = Joint()
        e.names[x] = "x"
        take_conditions(e, conditions)
        return e

    e = start()
    gradient = reverse(e, traced, "v")
    built = {"recomputed": (e, {**given, "v": ("v", out.shape)}, {"gradient": (gradient, x.shape)})}

    e = start()
    raw = e.node("Sub", e.node("Mul", "x", "x0_x"), e.node("Mul", e(out), "x0_out"))
    limits = e.constant(-1, np.float32), e.constant(1, np.float32)
    x0hat = e.node("Clip", raw, *limits)
    seen = e.node("AveragePool", x0hat, kernel_shape=[SCALE] * 2, strides=[SCALE] * 2)
    r = e.node("Sub", seen, "y")
    norm = e.node("ReduceL2", r, e.ints(1, 2, 3), keepdims=1)
    reach = e.node("Mul", e.node("Div", r, norm), e.constant(1 / SCALE**2, np.float32))
    c, h, w = (int(n or 0) for n in out.shape[1:])
    side = SCALE
    while side > 1:
        reach = upsample(e, reach, (BATCH, c, h // side, w // side))
        side //= 2
    open_ = e.node("Cast", e.node("LessOrEqual", e.node("Abs", raw), limits[1]), to=1)
    cotangent = e.node("Mul", open_, reach)
    pulled = reverse(e, traced, e.node("Mul", cotangent, "x0_out"))
    gradient = e.node("Sub", e.node("Mul", cotangent, "x0_x"), pulled)
    inputs = {**given, "y": ("y", (BATCH, c, h // SCALE, w // SCALE)), "x0_x": ("x0_x", SCALAR)}
    inputs |= {"x0_out": ("x0_out", SCALAR)}
    built["inside"] = (e, inputs, {"out": (e(out), out.shape), "gradient": (gradient, x.shape)})

    plans = {}
    for name, parts in built.items():
        onnx, entry = serialise(name, *parts, tensors)
        manifest = {**plan.manifest, "graphs": {name: entry}}
        del manifest["members"]
        plans[name] = Plan(manifest, {WEIGHTS: save(plan.tensors()), entry["member"]: onnx}, name)
    return plans


def engine_session(plan: Plan, graph: str) -> onnxruntime.InferenceSession:
    """A session made just as the engine makes its own."""
    sessions = Sessions(plan, "cpu", arena=True, keep=True)
    KEPT.append(sessions)
    with patch("frugal_rt.engines.plan.check_graph"):  # it refuses operations that no plan has, such as Clip
        return sessions.open(graph, "cpu")


KEPT: list[Sessions] = []
"""The owners of the weights that sessions point into."""


if __name__ == "__main__":
    main()
