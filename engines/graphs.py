"""Check that a plan's graph holds nothing but the exporter's operations and references to the plan's own weights.

A runtime looks for a missing tensor in the working directory, and takes either of two tensors of one name. So every
initialiser is checked before a runtime reads the graph.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from .errors import PlanError
from .onnx_reader import BFLOAT16, FLOAT, FLOAT16, INT64, Graph, Initialiser, Value, read_graph

_NAMES = (
    "Abs Add AveragePool Cast Concat Conv Cos DepthToSpace Div Expand Flatten Identity InstanceNormalization "
    "Less MatMul Max Mul Pad Reciprocal ReduceMax ReduceMean ReduceSum Reshape Sigmoid Sin Slice Softmax SpaceToDepth "
    "Sqrt Sub Transpose Where"
)
OPERATIONS = frozenset(_NAMES.split())
"""Operations that the exporter writes, and those that emulate half precision when its error is measured. None of them
contains a graph or reads a file."""
_HELD = re.compile(r"constant:\d+|v:(axes|tiny)|round:[a-z]+")
"""Names of the small tensors that the exporter writes into a graph; the name of a weight has no colon."""
_SIZES = {FLOAT: 4, INT64: 8}
"""Bytes of an element of those tensors, by type."""
_TYPES = {"float16": FLOAT16, "bfloat16": BFLOAT16}
"""Element types of half precision, by their names in the manifest."""


def check_graph(
    data: memoryview,
    entry: Mapping[str, Any],
    weights: Mapping[str, tuple[np.ndarray, int]],
    file: str,
    label: str,
) -> None:
    """Raise PlanError unless an ONNX graph matches its `entry` in the manifest.

    It must have the inputs and outputs of the entry, and take exactly the listed weights, from `file`. `weights`: each
    tensor of `file`, with its offset there. `label` is the graph's name in messages.
    """
    graph = read_graph(data, label)
    faults = (
        _surprises(graph),
        _misplaced(graph, weights, file),
        _unlisted(graph, entry["weights"]),
        _unsaid(graph, entry),
    )
    wrong = next(chain(*faults), None)
    if wrong is not None:
        raise PlanError(f"{label} {wrong}; it was not written by frugal-rt and is not opened")


def _surprises(graph: Graph) -> Iterator[str]:
    """Yield the predicate of a sentence ("holds ...") for each operation or tensor that should not be in the graph."""
    for node in graph.nodes:
        if node.operation not in OPERATIONS:
            yield f"computes {node.operation!r}, an operation that no plan needs"
    seen: set[str] = set()
    computed = [name for node in graph.nodes for name in node.outputs]
    for name in [*(one.name for one in graph.inputs), *(one.name for one in graph.initialisers), *computed]:
        if name in seen:
            yield f"has {name!r} twice"
        seen.add(name)
    for one in graph.initialisers:
        if one.external is None and not _is_constant(one):
            yield f"holds values of {one.name!r}, where graphs point at the weights"


def _is_constant(one: Initialiser) -> bool:
    size = _SIZES.get(one.data_type, 0)
    return bool(_HELD.fullmatch(one.name)) and min(one.dims, default=0) >= 0 and one.held == math.prod(one.dims) * size


def _misplaced(graph: Graph, weights: Mapping[str, tuple[np.ndarray, int]], file: str) -> Iterator[str]:
    """Yield a predicate for each initialiser that does not refer to exactly the bytes of the weight of its name."""
    for one in graph.initialisers:
        if one.external is None:
            continue
        if one.external.get("location") != file:
            yield f"takes {one.name!r} from outside of the plan, {one.external.get('location', 'nowhere')!r}"
            continue
        array, offset = weights.get(one.name, (None, 0))
        if array is None:
            yield f"takes {one.name!r} from the weights, which do not have it"
            continue
        place = {"location": file, "offset": str(offset), "length": str(array.nbytes)}
        as_there = one.dims == array.shape and one.data_type == FLOAT and array.dtype == np.float32
        if one.external != place or one.held is not None or not as_there:
            yield f"takes {one.name!r} with another place, type or shape than the weights have it"


def _unlisted(graph: Graph, listed: Sequence[Any]) -> Iterator[str]:
    """Yield a predicate for each weight that only one of the graph and the manifest's list has."""
    taken = sorted(one.name for one in graph.initialisers if one.external is not None)
    names = [name for name in listed if isinstance(name, str)]
    if len(names) != len(listed) or sorted(names) != taken:
        others = ", ".join(map(repr, sorted(set(names) ^ set(taken))[:3]))
        yield f"takes other weights than the manifest lists for it ({others or 'one of them twice'})"


def _unsaid(graph: Graph, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield a predicate for each input or output whose name, type or shape is not the manifest's."""
    types = entry.get("types", {})
    for kind, there in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        said = {
            Value(name, INT64 if name == "t" else _TYPES.get(types.get(name), FLOAT), tuple(shape))
            for name, shape in entry[kind].items()
        }
        if {*there} != said:
            others = ", ".join(sorted({repr(one.name) for one in {*there} ^ said})[:3])
            yield f"has other {kind} than the manifest says of it ({others})"
