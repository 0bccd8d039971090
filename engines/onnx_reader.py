"""A strict reader of ONNX graphs, without the onnx package: a graph is checked before a runtime loads it.

A protocol buffers message is a sequence of fields: a tag (number << 3 | wire type), then a varint, 4 or 8 bytes, or a
length and that many bytes. Protobuf is lenient where this reader is strict, so that no runtime can read a graph
differently: `read_graph` takes the fields that frugal-rt's exporter writes and no others.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .errors import PlanError

FLOAT, INT64, FLOAT16, BFLOAT16 = 1, 7, 10, 16
"""ONNX's codes of element types."""
EXTERNAL = 1
"""The `data_location` of a tensor whose values lie in a separate file."""
DEEPEST = 100
"""The deepest nesting of messages that protobuf accepts."""
LARGEST = 4 << 20
"""The most bytes of a graph without its weights; celeba's largest has 93 kB."""

Message = dict[int, tuple[str, Any]]
"""A field's name and kind by its number. Kinds are `int`, `float`, `str`, `bytes` and Message, in a list if
repeated."""
_WIRES = {int: 0, float: 5, str: 2, bytes: 2}
"""The wire type of each kind; a Message has that of bytes."""

_PAIR: Message = {1: ("key", str), 2: ("value", str)}
_OPSET: Message = {1: ("domain", str), 2: ("version", int)}
_TENSOR: Message = {
    1: ("dims", [int]),
    2: ("data_type", int),
    8: ("name", str),
    9: ("raw_data", bytes),
    13: ("external_data", [_PAIR]),
    14: ("data_location", int),
}
_ATTRIBUTE: Message = {
    1: ("name", str),
    2: ("f", float),
    3: ("i", int),
    4: ("s", bytes),
    8: ("ints", [int]),
    20: ("type", int),
}
_NODE: Message = {1: ("input", [str]), 2: ("output", [str]), 4: ("op_type", str), 5: ("attribute", [_ATTRIBUTE])}
_SHAPE: Message = {1: ("dim", [{1: ("dim_value", int), 2: ("dim_param", str)}])}
_VALUE: Message = {1: ("name", str), 2: ("type", {1: ("tensor_type", {1: ("elem_type", int), 2: ("shape", _SHAPE)})})}
_GRAPH: Message = {
    1: ("node", [_NODE]),
    2: ("name", str),
    5: ("initializer", [_TENSOR]),
    11: ("input", [_VALUE]),
    12: ("output", [_VALUE]),
}
_MODEL: Message = {
    1: ("ir_version", int),
    2: ("producer_name", str),
    7: ("graph", _GRAPH),
    8: ("opset_import", [_OPSET]),
}
"""Fields that the exporter writes: no functions, no graphs or tensors as attributes, no sparse tensors, no domains."""

_ANY_TENSOR: Message = {13: ("external_data", [_PAIR])}
_ANY_SPARSE: Message = {1: ("values", [_ANY_TENSOR]), 2: ("indices", [_ANY_TENSOR])}
_ANY_ATTRIBUTE: Message = {}
_ANY_NODE: Message = {5: ("attribute", [_ANY_ATTRIBUTE])}
_ANY_GRAPH: Message = {
    1: ("node", [_ANY_NODE]),
    5: ("initializer", [_ANY_TENSOR]),
    15: ("sparse_initializer", [_ANY_SPARSE]),
}
_ANY_ATTRIBUTE |= {
    5: ("t", [_ANY_TENSOR]),
    6: ("g", [_ANY_GRAPH]),
    10: ("tensors", [_ANY_TENSOR]),
    11: ("graphs", [_ANY_GRAPH]),
    22: ("sparse_tensor", [_ANY_SPARSE]),
    23: ("sparse_tensors", [_ANY_SPARSE]),
}
_ANY_MODEL: Message = {
    7: ("graph", [_ANY_GRAPH]),
    20: ("training_info", [{1: ("initialization", [_ANY_GRAPH]), 2: ("algorithm", [_ANY_GRAPH])}]),
    25: ("functions", [{7: ("node", [_ANY_NODE]), 11: ("attribute_proto", [_ANY_ATTRIBUTE])}]),
}
"""Every path to a tensor in any ONNX model. All fields are repeated, as protobuf merges a field that comes twice."""


class Initialiser(NamedTuple):
    """A tensor of a graph: its values, or the place where they lie."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    held: int | None
    """Bytes of the values in the graph itself; None where it holds none."""
    external: dict[str, str] | None
    """`location`, `offset` and `length` of values outside the graph; None where it refers to none."""


class Node(NamedTuple):
    """One operation."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Value(NamedTuple):
    """An input or output."""

    name: str
    data_type: int
    dims: tuple[int | str, ...]
    """Sizes along the axes; a name where the size is free."""


class Graph(NamedTuple):
    """A graph's nodes and tensors, each in the order of the file."""

    nodes: tuple[Node, ...]
    initialisers: tuple[Initialiser, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(data: memoryview, label: str) -> Graph:
    """Read the graph of an ONNX model in the form that frugal-rt's exporter writes. `label` is its name in messages.

    Raises PlanError for any other bytes.
    """
    if len(data) > LARGEST:
        raise PlanError(f"{label} has {len(data)} bytes, and no graph of frugal-rt's has over {LARGEST}")
    model = _read(data, _MODEL, label)
    if [one.get("domain", "") for one in model["opset_import"]] != [""] or "graph" not in model:
        raise PlanError(f"{label} is not a single graph of ONNX's own operations; it was not written by frugal-rt")
    graph = model["graph"]
    return Graph(
        nodes=tuple(Node(one.get("op_type", ""), tuple(one["input"]), tuple(one["output"])) for one in graph["node"]),
        initialisers=tuple(map(_initialiser, graph["initializer"])),
        inputs=tuple(map(_graph_value, graph["input"])),
        outputs=tuple(map(_graph_value, graph["output"])),
    )


def _graph_value(one: Mapping[str, Any]) -> Value:
    tensor = one.get("type", {}).get("tensor_type", {})
    dims = tuple(dim.get("dim_param", dim.get("dim_value", 0)) for dim in tensor.get("shape", {}).get("dim", ()))
    return Value(one.get("name", ""), tensor.get("elem_type", 0), dims)


def external_files(data: memoryview, label: str) -> list[str]:
    """List the files from which any ONNX model reads tensors. Raises PlanError for bytes that are no model."""
    model = _read(data, _ANY_MODEL, label, strict=False)
    if not model["graph"]:
        raise PlanError(f"{label} holds no graph")
    return [pair.get("value", "") for pair in _pairs(model) if pair.get("key") == "location"]


def _initialiser(tensor: Mapping[str, Any]) -> Initialiser:
    values, pairs, place = tensor.get("raw_data"), tensor["external_data"], tensor.get("data_location", 0)
    told = {one.get("key", ""): one.get("value", "") for one in pairs}
    clear = place == EXTERNAL and len(told) == len(pairs)  # a runtime may take either value of a doubled key
    return Initialiser(
        name=tensor.get("name", ""),
        dims=tuple(tensor["dims"]),
        data_type=tensor.get("data_type", 0),
        held=None if values is None else len(values),
        external=None if place == 0 and not pairs else told if clear else {},
    )


def _pairs(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the external data of every tensor in a message."""
    for name, values in message.items():
        if name == "external_data":
            yield from values
        else:
            for one in values:
                yield from _pairs(one)


def _read(data: memoryview, message: Message, label: str, strict: bool = True) -> dict[str, Any]:
    try:
        return _decoded(data, message, strict)
    except IndexError:
        why = "its bytes end within a field"
    except _Unreadable as error:
        why = str(error)
    raise PlanError(f"{label} is no ONNX graph that frugal-rt can read: {why}")


class _Unreadable(Exception):
    """An error whose message says what is wrong with the bytes."""


def _decoded(data: memoryview, message: Message, strict: bool, depth: int = 0) -> dict[str, Any]:
    """Decode a message's fields by name. Fields unknown to `message` are refused if `strict`, otherwise skipped."""
    if depth > DEEPEST:
        raise _Unreadable("it is nested too deeply")
    found: dict[str, Any] = {name: [] for name, kind in message.values() if isinstance(kind, list)}
    for number, wire, value in _fields(data):
        if number not in message:
            if strict:
                raise _Unreadable(f"a message in it has a field {number}, which no graph of frugal-rt's has")
            continue
        name, kind = message[number]
        one = kind[0] if isinstance(kind, list) else kind
        if kind == [int] and wire == _WIRES[bytes]:
            found[name] += _packed(value)
        elif wire != (_WIRES[bytes] if isinstance(one, dict) else _WIRES[one]):
            raise _Unreadable(f"its field {name} is not of ONNX's type")
        elif isinstance(kind, list):
            found[name].append(_value(value, one, strict, depth))
        elif name in found:
            raise _Unreadable(f"its field {name} comes twice")
        else:
            found[name] = _value(value, one, strict, depth)
    return found


def _value(value: Any, kind: Any, strict: bool, depth: int) -> Any:
    if isinstance(kind, dict):
        return _decoded(value, kind, strict, depth + 1)
    if kind is str:
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise _Unreadable("a name in it is no text") from None
    return _signed(value) if kind is int else value


def _packed(data: memoryview) -> list[int]:
    """Decode a packed field: repeated varints in one run of bytes."""
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield the number, wire type and value of each field. A value is a whole number or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise _Unreadable("a field in it has no number that there is")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _Unreadable("a field in it is of a type that ONNX does not use")
        if size > len(data) - at:
            raise IndexError(at)
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Decode a varint (below 2^64, groups of 7 bits, the lowest first); return it and its end. Raises IndexError."""
    if data[at] < 0x80:  # the commonest case
        return data[at], at + 1
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if 0 < byte < 0x80 and not value >> 64:
            return value, at
        shift += 7
        if byte < 0x80 or shift > 63:
            raise _Unreadable("a number in it takes more bytes than it needs")
