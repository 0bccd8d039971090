"""The forward and pullback graphs in half precision, over the same float32 weights: from ONNX to ONNX.

They are for runtimes that take each value's type from the graph (TensorRT).

- In half: convolutions, matrix products, and the elementwise operations between them.
- In float32: every operation not listed here, such as normalisations, softmax, reductions, roots and quotients.
- In float32 too: elementwise operations that are connected to a reduction through elementwise operations alone. Such
  are the backward passes of group norm, where a value and its mean cancel, and of softmax, and values that are summed.
- Operations on shapes keep the type of their input. A value that is read in half alone is rounded before them. A weight
  is rounded by one cast, which runtimes fold when they load.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from ..engines import InputError
from ..engines.manifest import HALVES
from .lowering import OPSET

OPSETS = {"fp16": OPSET, "bf16": 22}
"""ONNX opsets by precision; 22 is the first whose Conv takes bfloat16."""
HEAVY = {"AveragePool", "Conv", "Gemm", "MatMul"}
ELEMENTWISE = {"Add", "Mul", "Sigmoid", "Sub"}
SHAPE = {"Concat", "DepthToSpace", "Expand", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Transpose"}
NORMALISED = {"InstanceNormalization", "Softmax"}
"""Operations computed in float32 whose results fit half precision."""
TINY = 1e-30
"""The smallest divisor of a row; a row of zeros is divided by it."""

Graphs = Mapping[str, tuple[bytes, dict[str, Any]]]
"""A graph's ONNX bytes and its entry in the manifest, by name."""


def parse_precisions(text: str) -> tuple[str, ...]:
    """Parse "fp16,bf16" to the precisions beside float32; "fp32" adds none. Raises InputError."""
    asked = tuple(dict.fromkeys(one.strip() for one in text.split(",")))
    return check_precisions([one for one in asked if one != "fp32"])


def check_precisions(precisions: Iterable[str]) -> tuple[str, ...]:
    """Return the precisions as a tuple. Raises InputError for an unknown one."""
    for one in precisions:
        if one not in HALVES:
            raise InputError(f"the precision {one!r} is not known; choose among fp32, {', '.join(HALVES)}")
    return tuple(precisions)


def say_mixed(entry: Mapping[str, Any]) -> str:
    """Describe the manifest's entry under `mixed` for a precision."""
    if "refused" in entry:
        return f"left out, {entry['refused']}"
    errors = ", ".join(f"{what} {error:.1e}" for what, error in entry.get("parity", {}).items())
    return f"relative error against float32: {errors or 'not measured'}"


def mixed_graphs(graphs: Graphs, precision: str) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Convert the graphs `forward` and `pullback` of `graphs_of` to `precision`, "fp16" or "bf16".

    x, embedding, v, the network's answers and the gradient stay float32. An activation that the forward graph hands to
    the pullback has one type in both. An entry's `types` names the inputs and outputs that are not float32. The weights
    are the same external initialisers. In "fp16" the pullback divides each row's v by its largest magnitude and
    multiplies the gradient by it: the pullback is linear, and a small v would underflow in float16.
    """
    import onnx

    made = {}
    held: Collection[str] = ()
    for name in ("forward", "pullback"):
        data, entry = graphs[name]
        model = onnx.ModelProto.FromString(data)
        halved = _halve(model, precision, held)
        _check(model)
        types = {one: HALVES[precision] for one in (*entry["inputs"], *entry["outputs"]) if one in halved}
        made[name] = (
            model.SerializeToString(deterministic=True),
            {**entry, "member": f"{name}.{precision}.onnx", "types": types},
        )
        held = types
    return made


def element_type(precision: str) -> int:
    """Return ONNX's code of the element type of `precision`."""
    from onnx import TensorProto

    return int(TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16)


def _halve(model: Any, precision: str, held: Collection[str]) -> set[str]:
    """Convert a model to half precision in place; return its inputs and outputs in half.

    `held`: names of the pullback's inputs that the forward graph writes in half.
    """
    from onnx import TensorProto, helper

    graph, kind = model.graph, element_type(precision)
    public = {one.name for one in graph.input} & set(held)
    halves = _halves(graph, public)
    nodes: list[Any] = []
    casts: dict[tuple[str, bool], str] = {}
    renamed: dict[str, str] = {}

    def cast(name: str, half: bool) -> str:
        if (name, half) not in casts:
            casts[name, half] = f"{name}:{precision if half else 'fp32'}"
            to = kind if half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [casts[name, half]], to=to))
        return casts[name, half]

    for one in graph.input:
        if one.name in public:
            one.type.tensor_type.elem_type = kind
        else:  # cast the whole input once, not each of the pieces it is split into
            source = _unit_rows(graph, nodes) if (one.name, precision) == ("v", "fp16") else one.name
            renamed[one.name] = cast(source, True)
    answers = [one.name for one in graph.output if not one.name.startswith("kept:")]
    renamed |= {name: f"{name}:computed" for name in answers}
    halves |= {inner for name, inner in renamed.items() if name in halves}
    for node in graph.node:
        half = node.output[0] in halves
        data = 1 if node.op_type in SHAPE - {"Concat"} else len(node.input)  # the others are sizes and axes
        for i, name in enumerate(node.input[:data]):
            name = renamed.get(name, name)
            node.input[i] = name if (name in halves) == half or not name else cast(name, half)
        node.output[:] = [renamed.get(name, name) for name in node.output]
        nodes.append(node)
    for name in answers:
        if (name, precision) == ("gradient", "fp16"):
            single = cast(renamed[name], False) if name in halves else renamed[name]
            nodes.append(helper.make_node("Mul", [single, "v:scale"], [name]))
        else:
            nodes.append(helper.make_node("Cast", [renamed[name]], [name], to=TensorProto.FLOAT))
    for one in graph.output:
        if one.name in halves and one.name not in answers:
            one.type.tensor_type.elem_type = kind
            public.add(one.name)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]  # some belong to the list replaced
    del graph.node[:]
    graph.node.extend(copies)
    model.opset_import[0].version = OPSETS[precision]
    return public


def _halves(graph: Any, held: Collection[str]) -> set[str]:
    """Return the values in half, and the float32 inputs that are rounded at the graph's entry."""
    single = _beside_reductions(graph.node)

    def computed_in_half(node: Any) -> bool:
        return node.op_type in HEAVY or (node.op_type in ELEMENTWISE and node.output[0] not in single)

    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    asked: set[str] = set()  # results of operations on shapes that are read in half alone: rounded before them
    for node in reversed(graph.node):
        reading = [one for name in node.output for one in readers.get(name, [])]
        if node.op_type in SHAPE and all(computed_in_half(one) or one.output[0] in asked for one in reading):
            asked.update(node.output)
    halves = {one.name for one in graph.input} | set(held)
    for node in graph.node:
        moved = node.op_type in SHAPE and (node.output[0] in asked or any(name in halves for name in node.input))
        if moved or computed_in_half(node):
            halves.update(node.output)
    return halves


def _beside_reductions(nodes: Iterable[Any]) -> set[str]:
    """Return the names of elementwise results that are connected to a reduction, root or quotient by elementwise
    operations alone."""
    nodes = list(nodes)
    after: set[str] = set()
    for node in nodes:
        if _reduces(node) or (node.op_type in ELEMENTWISE and after & set(node.input)):
            after.update(node.output)
    before: set[str] = set()
    for node in reversed(nodes):
        if _reduces(node) or (node.op_type in ELEMENTWISE and before & set(node.output)):
            before.update(node.input)
    return {node.output[0] for node in nodes if node.op_type in ELEMENTWISE and node.output[0] in after | before}


def _reduces(node: Any) -> bool:
    """Return whether the node reduces. Upsampling's backward does not count: nothing cancels against its sums."""
    dropped = any(one.name == "keepdims" and one.i == 0 for one in node.attribute)
    return node.op_type not in HEAVY | ELEMENTWISE | SHAPE | NORMALISED and not dropped


def _unit_rows(graph: Any, nodes: list[Any]) -> str:
    """Divide each row of v by its largest magnitude, which is `v:scale`, (batch, 1, 1, 1); return the result's name."""
    from onnx import helper, numpy_helper

    added = {"v:axes": np.array([1, 2, 3]), "v:tiny": np.array(TINY, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in added.items())
    nodes += [
        helper.make_node("Abs", ["v"], ["v:magnitude"]),
        helper.make_node("ReduceMax", ["v:magnitude", "v:axes"], ["v:largest"], keepdims=1),
        helper.make_node("Max", ["v:largest", "v:tiny"], ["v:scale"]),
        helper.make_node("Div", ["v", "v:scale"], ["v:unit"]),
    ]
    return "v:unit"


def _check(model: Any) -> None:
    """Check a model by onnx's checker with inferred types and shapes; weights are inputs, as it reads no files."""
    import onnx
    from onnx import helper

    checked = onnx.ModelProto.FromString(model.SerializeToString())
    weights = [one for one in checked.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    checked.graph.input.extend(helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in weights)
    held = [one for one in checked.graph.initializer if one.data_location != onnx.TensorProto.EXTERNAL]
    del checked.graph.initializer[:]
    checked.graph.initializer.extend(held)
    onnx.checker.check_model(checked, full_check=True)
