"""A traced network as a plan's three ONNX graphs over one set of weights: embedding, forward and pullback."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import ExportError, MissingExtra
from ..engines.plan import WEIGHTS
from ..engines.weights import read_safetensors
from .lowering import OPSET, Emitter
from .pullback import PullbackEmitter, reverse
from .reach import reach_of
from .sizes import BATCH, Shape, known, written
from .trace import Trace, Value, trace

if TYPE_CHECKING:
    import torch

IR_VERSION = 10


def graphs_of(
    module: "torch.nn.Module",
    shape: tuple[int, int, int],
    outputs: list[str],
    weights: bytes | bytearray,
    stride: int | None = None,
) -> tuple[dict[str, tuple[bytes, dict[str, Any]]], int | None]:
    """Return each graph's ONNX bytes and its entry in the manifest, by name; and the reach, or None without a `stride`.

    Graphs take any batch size; with a `stride` also images of any sides, multiples of the stride.

    embedding: t (batch,) int64 to `embedding` (batch, K), everything that the network computes from t alone.
    forward: x (batch, C, H, W) and embedding to `outputs` and the activations that the pullback reads.
    pullback: those activations, embedding where it is read, and v, the cotangent of the first output, to `gradient`,
    the cotangent of x.

    Every parameter is an external initialiser that refers to the member WEIGHTS, whose bytes are `weights`.
    Raises MissingExtra without onnx, ExportError if the network cannot be exported.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Exporting", "onnx", "export") from error
    traced = trace(module, shape, stride)
    if len(traced.outputs) != len(outputs):
        raise ExportError(f"the network has {len(traced.outputs)} outputs, its config says {len(outputs)}")
    tensors = read_safetensors(memoryview(weights), "the export")
    conditions = conditions_of(traced)
    pullback, kept = _pullback(traced, conditions)
    built = {
        "embedding": _embedding(traced, conditions),
        "forward": _forward(traced, conditions, outputs, kept),
        "pullback": pullback,
    }
    graphs = {name: serialise(name, *parts, tensors) for name, parts in built.items()}
    return graphs, None if stride is None else reach_of(traced)


Built = tuple[Emitter, dict[str, tuple[str, Shape]], dict[str, tuple[str, Shape]]]
"""An emitter with its inputs and outputs: by public name, the name in the graph and the shape."""


def conditions_of(traced: Trace) -> list[Value]:
    """Return the values that depend on t alone and are read by values that depend on x."""
    read = (one for value in traced.values if value.active for one in value.inputs)
    return list(dict.fromkeys(one for one in read if one.varies and not one.active))


def width(values: Sequence[Value]) -> int:
    return sum(int(np.prod([known(n) for n in value.shape[1:]])) for value in values)


def _embedding(traced: Trace, conditions: list[Value]) -> Built:
    e = Emitter()
    e.names[traced.t] = "t"
    flat = [e.node("Flatten", e(value), axis=1) for value in conditions]
    out = e.node("Concat", *flat, axis=1)
    return e, {"t": ("t", (BATCH,))}, {"embedding": (out, (BATCH, width(conditions)))}


def take_conditions(e: Emitter, conditions: list[Value]) -> None:
    """Split the input `embedding` into the values that it concatenates."""
    start = 0
    for value in conditions:
        stop = start + width([value])
        e.names[value] = e.reshape(e.slice("embedding", 1, start, stop), value.shape)
        start = stop


def _forward(traced: Trace, conditions: list[Value], outputs: list[str], kept: list[Value]) -> Built:
    e = Emitter()
    e.names[traced.x] = "x"
    take_conditions(e, conditions)
    for value in traced.values:  # in order: recursion from the outputs would exceed Python's stack in a deep network
        if value.active:
            e(value)
    results = {name: (e(value), value.shape) for name, value in zip(outputs, traced.outputs, strict=True)}
    results |= {f"kept:{value.name}": (e(value), value.shape) for value in kept}
    return e, {"x": ("x", traced.x.shape), "embedding": ("embedding", (BATCH, width(conditions)))}, results


def _pullback(traced: Trace, conditions: list[Value]) -> tuple[Built, list[Value]]:
    e = PullbackEmitter()
    take_conditions(e, conditions)
    out = traced.outputs[0]
    gradient = reverse(e, traced, "v")
    inputs = {e(value): (e(value), value.shape) for value in e.kept}
    inputs |= {"embedding": ("embedding", (BATCH, width(conditions))), "v": ("v", out.shape)}
    used = {name for node in e.nodes for name in node.input}
    inputs = {public: found for public, found in inputs.items() if found[0] in used}
    return (e, inputs, {"gradient": (gradient, traced.x.shape)}), e.kept


def serialise(
    graph: str,
    e: Emitter,
    inputs: dict[str, tuple[str, Shape]],
    outputs: dict[str, tuple[str, Shape]],
    tensors: dict[str, tuple[np.ndarray, int]],
) -> tuple[bytes, dict[str, Any]]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    renamed = {inner: public for public, (inner, _) in outputs.items()}
    if len(renamed) != len(outputs):
        raise ExportError("the network gives one result under two names, which frugal-rt cannot export yet")
    for node in _reachable(e.nodes, set(renamed)):
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    kept = _reachable(e.nodes, set(outputs))
    read = {name for node in kept for name in node.input}

    def info(name: str, shape: Shape) -> Any:
        kind = TensorProto.INT64 if name == "t" else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, written(shape))

    constants = [numpy_helper.from_array(a, name) for name, a in e.constants.items() if name in read]
    weights = sorted(e.weights & read)
    model = helper.make_model(
        helper.make_graph(
            kept,
            graph,
            [info(name, shape) for name, (_, shape) in inputs.items()],
            [info(name, shape) for name, (_, shape) in outputs.items()],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="frugal-rt",
    )
    checked = onnx.ModelProto.FromString(model.SerializeToString())
    checked.graph.input.extend(info(name, tensors[name][0].shape) for name in weights)  # the checker reads no weights
    onnx.checker.check_model(checked, full_check=True)
    model.graph.initializer.extend(external(name, *tensors[name]) for name in weights)
    entry = {
        "member": f"{graph}.onnx",
        "inputs": {name: written(shape) for name, (_, shape) in inputs.items()},
        "outputs": {name: written(shape) for name, (_, shape) in outputs.items()},
        "weights": weights,
    }
    return model.SerializeToString(deterministic=True), entry


def _reachable(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """Return the nodes that the values `wanted` depend on, in order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted = wanted | set(node.input)
    return kept[::-1]


def external(name: str, view: np.ndarray, offset: int) -> Any:
    """Return an external initialiser that refers to its tensor in the safetensors bytes."""
    import onnx

    tensor = onnx.TensorProto(name=name, dims=view.shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": WEIGHTS, "offset": offset, "length": view.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
