"""The error of the graphs in half precision against those in float32, measured by emulation.

onnxruntime's CPU provider has no bfloat16, and computes float16 in float32. So an emulation is run: the same graph in
float32, in which every value of half type is rounded to that type's significand, by arithmetic that graph optimisers do
not remove.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from ..engines import ExportError, Plan
from ..engines.betas import train_betas
from ..engines.manifest import HALVES, WEIGHTS
from ..engines.onnxruntime.engine import OnnxRuntimeEngine
from ..engines.weights import read_safetensors
from .lowering import OPSET
from .mixed import SHAPE, TINY, element_type
from .verify import LARGE, evaluate, shapes

DROPPED = {"fp16": 13, "bf16": 16}
"""Bits of float32's significand of 24 bits that the format lacks."""
NORMAL, LARGEST = 2.0**-14, 65520.0
"""Limits of float16: below NORMAL its numbers are multiples of 2^-24; from LARGEST on it rounds to infinity."""
TOLERANCE = {"fp16": 0.04, "bf16": 0.3}
"""The largest relative error accepted, about twice the largest measured; a wrong graph has about 1. Measured in fp16
and bf16 on celeba (largest at t = 0): outputs 7.5e-3 and 5.9e-2, gradients 8.8e-4 and 8.0e-3. On a random prior at
256x256: outputs 2.0e-3 and 1.8e-2, gradients 1.5e-2 and 0.14 (of a checkerboard; 0.09 at t = 0, 0.02 elsewhere). On
tiny random priors: outputs 3.4e-3 and 2.9e-2, gradients 6.6e-3 and 4.2e-2."""


def measured(plan: Plan) -> dict[str, Any]:
    """Return the manifest's `mixed` of a plan with graphs in half precision: `parity` or `refused` by precision.

    parity: for `output` and `gradient`, the largest relative root mean square error against the float32 graphs over
    `natural_cases`. refused: the reason, where a value is not finite or an error is beyond TOLERANCE.
    """
    want = _answers(plan, keep=True)
    found: dict[str, Any] = {}
    for precision, entry in plan.manifest["mixed"].items():
        try:
            found[precision] = {**entry, "parity": _errors(plan, precision, want)}
        except ExportError as error:
            found[precision] = {"refused": str(error)}
    return found


def natural_cases(plan: Plan) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield inputs like a sampler's: a label, x (1, C, H, W) float32, t (1,) int64, and a normally distributed v.

    x_t = sqrt(abar) x0 + sqrt(1 - abar) noise, of a smooth random x0 in [-1, 1], at timesteps across the training
    range; then a few difficult inputs of the same scale. There are fewer for images larger than LARGE, and for the
    second size of a plan for any size.
    """
    abar = np.cumprod(1 - train_betas(plan.manifest["schedule"]))
    random = np.random.default_rng(0)
    for shape in shapes(plan):
        few = max(shape[1:]) > LARGE or shape != plan.image_shape
        inputs = []
        for t in np.linspace(0, len(abar) - 1, 3 if few else 5).astype(np.int64):
            noise, smooth = random.standard_normal(shape), _smooth(shape, random)
            inputs.append((f"x_t at t = {t}", np.sqrt(abar[t]) * smooth + np.sqrt(1 - abar[t]) * noise, t))
        awkward = {
            "a checkerboard": np.indices(shape).sum(0) % 2 * 2.0 - 1,
            "zeros": np.zeros(shape),
            "a constant": np.full(shape, 0.7),
        }
        middle = len(abar) // 2
        inputs += [(f"{label} at t = {middle}", x, middle) for label, x in list(awkward.items())[: 1 if few else None]]
        for label, x, t in inputs:
            v = random.standard_normal((1, *shape), dtype=np.float32)
            yield label, x[None].astype(np.float32), np.array([t]), v


def _smooth(shape: tuple[int, int, int], random: np.random.Generator) -> np.ndarray:
    """Return a random sum of the four lowest cosines along each side, of largest magnitude 1."""
    rows, columns = (np.cos(np.pi * (np.arange(n)[:, None] + 0.5) / n * np.arange(4)) for n in shape[1:])
    picture = np.einsum("hi,cij,wj->chw", rows, random.standard_normal((shape[0], 4, 4)), columns)
    return np.asarray(picture / np.abs(picture).max())


def _answers(plan: Plan, keep: bool) -> list[dict[str, np.ndarray]]:
    """Run the plan's float32 graphs on each of `natural_cases`."""
    with contextlib.closing(OnnxRuntimeEngine(plan, arena=False, keep=keep)) as engine:  # one at a time: each holds GBs
        return [evaluate(engine, x, t, v) for _, x, t, v in natural_cases(plan)]


def _errors(plan: Plan, precision: str, want: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Return the largest errors of a precision. Raises ExportError with the reason where it is refused."""
    worst = {"output": 0.0, "gradient": 0.0}
    got = _answers(stand_in(plan, precision), keep=False)
    for (label, *_), ours, exact in zip(natural_cases(plan), got, want, strict=True):
        for what in worst:
            if not np.isfinite(ours[what]).all():
                raise ExportError(f"in {HALVES[precision]} its {what} is not finite on {label}")
            error = _rms(ours[what] - exact[what]) / max(_rms(exact[what]), TINY)  # an untrained network may give 0
            if not error <= TOLERANCE[precision]:
                raise ExportError(
                    f"in {HALVES[precision]} its {what} is {error:.1e} away from float32's on {label}, "
                    f"{TOLERANCE[precision]:.0e} is allowed"
                )
            worst[what] = max(worst[what], error)
    return worst


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def stand_in(plan: Plan, precision: str) -> Plan:
    """Return a plan of float32 graphs that round wherever the graphs of `precision` in `plan` do.

    Its weights are stored rounded: rounded in the graph, onnxruntime would fold them and hold each several times.
    """
    graphs, mixed = plan.manifest["graphs"], plan.manifest["mixed"][precision]["graphs"]
    once = {name for entry in mixed.values() for name in entry["weights"]} - {*graphs["embedding"]["weights"]}
    weights = bytearray(plan.member(WEIGHTS))
    for name, (view, _) in read_safetensors(memoryview(weights), plan.source).items():
        if name in once:
            view[...] = _rounded_weight(view, precision)
    members = {
        entry["member"]: rounded(bytes(plan.member(entry["member"])), precision, once) for entry in mixed.values()
    }
    member = graphs["embedding"]["member"]
    manifest = {key: value for key, value in plan.manifest.items() if key not in ("members", "mixed")}
    single = {name: {key: entry[key] for key in entry if key != "types"} for name, entry in mixed.items()}
    return Plan(
        {**manifest, "graphs": {"embedding": graphs["embedding"], **single}},
        {WEIGHTS: weights, member: plan.member(member), **members},
        plan.source,
    )


def _rounded_weight(x: np.ndarray, precision: str) -> np.ndarray:
    """Round to the nearest number of the format, ties to even."""
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def rounded(data: bytes, precision: str, weights: Collection[str] = ()) -> bytes:
    """Rewrite a graph of `mixed_graphs` in float32, with rounding of every value of half type.

    Results of operations on shapes are rounded already, and so are `weights`. Rounding to bfloat16 is exact below 5e33;
    above it gives NaN, which is refused like infinity.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto.FromString(data)
    graph, kind = model.graph, element_type(precision)
    halves = set()
    for one in (*graph.input, *graph.output):
        if one.type.tensor_type.elem_type == kind:
            one.type.tensor_type.elem_type = TensorProto.FLOAT
            halves.add(one.name)
    nodes: list[Any] = []
    given: dict[str, str] = {}
    for node in graph.node:
        name = node.output[0]
        if node.op_type == "Cast":
            if node.input[0] in weights:
                halves.add(node.input[0])
                given[name] = node.input[0]
            elif helper.get_node_attr_value(node, "to") == kind:
                halves.add(name)
                nodes += _round(node.input[0], name, precision)
            else:
                nodes.append(helper.make_node("Identity", node.input, node.output))
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [given.get(one, one) for one in node.input]
        nodes.append(copy)
        if copy.input[0] in halves:
            halves.update(node.output)
            if node.op_type not in SHAPE:
                copy.output[0] = f"{name}:exact"
                nodes += _round(copy.output[0], name, precision)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(_constants(precision))
    model.opset_import[0].version = OPSET
    return bytes(model.SerializeToString())


def _constants(precision: str) -> list[Any]:
    from onnx import numpy_helper

    values = {"split": 2.0 ** DROPPED[precision] + 1}
    if precision == "fp16":
        values |= {"normal": NORMAL, "raised": 0.75, "largest": LARGEST, "infinity": np.inf}
    return [numpy_helper.from_array(np.array(value, np.float32), f"round:{key}") for key, value in values.items()]


def _round(x: str, to: str, precision: str) -> list[Any]:
    """Return nodes that round `x` by Veltkamp's splitting: (x - p) + p, p = (2^s + 1) x, is x without its last s bits.

    For float16, p = x + 0.75 below NORMAL, which leaves multiples of 2^-24, and values from LARGEST on become infinite.
    """
    from onnx import helper

    nodes: list[Any] = []

    def node(kind: str, *inputs: str, out: str = "") -> str:
        nodes.append(helper.make_node(kind, inputs, [out or f"{to}:round:{len(nodes)}"]))
        return str(nodes[-1].output[0])

    p = node("Mul", x, "round:split")
    if precision == "bf16":
        node("Add", node("Sub", x, p), p, out=to)
        return nodes
    size = node("Abs", x)
    p = node("Where", node("Less", size, "round:normal"), node("Add", x, "round:raised"), p)
    near = node("Add", node("Sub", x, p), p)
    node("Where", node("Less", size, "round:largest"), near, node("Mul", x, "round:infinity"), out=to)
    return nodes
