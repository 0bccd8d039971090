"""The reader of ONNX agrees with the onnx package, on the exporter's graphs and on damaged ones."""

import random
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

import frugal_rt
from frugal_rt import PlanError
from frugal_rt.engines.graphs import OPERATIONS
from frugal_rt.engines.onnx_reader import LARGEST, Graph, Initialiser, Node, Value, external_files, read_graph
from frugal_rt.export import build_plan, read_prior

RESNET = {"down_block_types": ["ResnetDownsampleBlock2D"] * 2, "up_block_types": ["ResnetUpsampleBlock2D"] * 2}
PRIORS = {
    "attention": ({"in_channels": 12, "out_channels": 12}, {}),
    "resnet, learned": ({**RESNET, "out_channels": 6}, {"variance_type": "learned_range"}),
}


@pytest.fixture(scope="module", params=PRIORS)
def plan(request, make_prior):
    """In every precision."""
    return build_plan(read_prior(make_prior(*PRIORS[request.param]), request.param))


def by_onnx(data: bytes) -> Graph:
    """Read the same as `read_graph`, by the onnx package."""
    graph = onnx.load_from_string(data).graph

    def initialiser(one) -> Initialiser:
        pairs = {pair.key: pair.value for pair in one.external_data}
        clear = one.data_location == TensorProto.EXTERNAL and len(pairs) == len(one.external_data)
        inside = one.data_location == TensorProto.DEFAULT and not one.external_data
        held = len(one.raw_data) if one.HasField("raw_data") else None
        return Initialiser(one.name, tuple(one.dims), one.data_type, held, None if inside else pairs if clear else {})

    def value(one) -> Value:
        tensor = one.type.tensor_type
        dims = (dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in tensor.shape.dim)
        return Value(one.name, tensor.elem_type, tuple(dims))

    return Graph(
        tuple(Node(node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node),
        tuple(map(initialiser, graph.initializer)),
        tuple(map(value, graph.input)),
        tuple(map(value, graph.output)),
    )


def read(data: bytes) -> Graph:
    return read_graph(memoryview(data), "a.plan: forward.onnx")


def refused(data: bytes) -> str:
    """Return the error that refuses the bytes."""
    with pytest.raises(PlanError) as error:
        read(data)
    sentence = str(error.value)
    assert sentence.startswith("a.plan: forward.onnx ")
    assert "\n" not in sentence
    return sentence


def test_every_graph_of_the_exporter_is_read_as_onnx_reads_it(plan):
    names = [name for name in plan.members if name.endswith(".onnx")]
    assert len(names) == 7  # three in float32, two each in fp16 and bf16
    for name in names:
        data = bytes(plan.member(name))
        found = read(data)
        assert found == by_onnx(data)
        assert {node.operation for node in found.nodes} <= OPERATIONS
        assert len(found.nodes) > 10
        assert set(external_files(memoryview(data), name)) == {"weights.safetensors"}
    plan.check()


def test_the_embedded_prior_s_graphs_too(celeba_plan):
    plan = frugal_rt.Plan.open(celeba_plan)
    for name in plan.members:
        if name.endswith(".onnx"):
            assert read(bytes(plan.member(name))) == by_onnx(bytes(plan.member(name)))
    plan.check()


def test_the_operations_are_those_that_the_exporter_writes():
    """Compare OPERATIONS with the exporter's source: with fewer an export fails, with more a plan may hold others."""
    folder = Path(frugal_rt.__file__).parent / "export"
    sources = [(folder / f"{name}.py").read_text() for name in ("graph", "lowering", "pullback", "mixed", "rounding")]
    written = {name for source in sources for name in re.findall(r'node\(\s*"([A-Z]\w+)"', source)}
    assert written == OPERATIONS


# Graphs that no exporter writes.


@pytest.fixture(scope="module")
def small() -> bytes:
    """A model of two nodes, an initialiser in it and one outside."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    outside = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "weights.safetensors"), ("offset", "64"), ("length", "12")):
        outside.external_data.add(key=key, value=text)
    inside = numpy_helper.from_array(np.array([-1, 2**40]), "constant:0")
    nodes = [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("ReduceSum", ["a", "constant:0"], ["b"])]
    graph = helper.make_graph(nodes, "g", [value], [value], [inside, outside])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def agrees(data: bytes) -> bool:
    """Return whether the bytes are read; then they must be read as by onnx. Any other error than PlanError fails."""
    try:
        found = read(data)
    except PlanError:
        return False
    assert found == by_onnx(data)
    return True


def test_every_cut_is_refused_or_read_as_onnx_reads_it(small):
    assert agrees(small)
    taken = sum(agrees(small[:length]) for length in range(len(small)))
    assert taken < 10  # between two fields of the model


def test_flipped_bits_are_refused_or_read_as_onnx_reads_them(small):
    taken = 0
    for offset in range(len(small)):
        for bit in range(8):
            taken += agrees(small[:offset] + bytes([small[offset] ^ 1 << bit]) + small[offset + 1 :])
    assert 0.1 < taken / (8 * len(small)) < 0.9  # names and values may be others


def test_what_chance_makes_of_a_graph_is_refused_or_read_as_onnx_reads_it(plan):
    """Bytes changed, cut out, doubled and put elsewhere, one to four times over."""
    data, chance, taken = bytes(plan.member("embedding.onnx")), random.Random(0), 0
    for _ in range(600):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(changed))
            piece = changed[start : start + chance.randint(1, 40)]
            kind = chance.randrange(4)
            if kind == 0:
                changed[start] = chance.randrange(256)
            elif kind == 1:
                del changed[start : start + len(piece)]
            else:
                place = start if kind == 2 else chance.randrange(len(changed))
                changed[place:place] = piece
        taken += agrees(bytes(changed))
    assert taken > 10


def field(number: int, wire: int, payload: bytes) -> bytes:
    return varint(number << 3 | wire) + payload


def varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def message(number: int, payload: bytes) -> bytes:
    return field(number, 2, varint(len(payload)) + payload)


GRAPH, INITIALISER, OPSET = 7, 5, message(8, field(2, 0, varint(18)))


def tensor(*parts: bytes) -> bytes:
    """A model of one initialiser."""
    return OPSET + message(GRAPH, message(INITIALISER, b"".join(parts)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not a single graph of ONNX's own operations"),
        (OPSET, "is not a single graph"),
        (
            message(8, message(1, b"com.microsoft")) + message(GRAPH, b""),
            "is not a single graph of ONNX's own operations",
        ),
        (
            OPSET + message(8, message(1, b"custom")) + message(GRAPH, b""),
            "is not a single graph of ONNX's own operations",
        ),
        (tensor(b"\x80"), "its bytes end within a field"),
        (tensor(field(9, 2, varint(5)), b"abcd"), "its bytes end within a field"),
        (tensor(field(9, 2, varint(1 << 63))), "its bytes end within a field"),
        (tensor(field(2, 0, b"\x81\x00")), "takes more bytes than it needs"),
        (tensor(field(2, 0, b"\x80" * 9 + b"\x00")), "takes more bytes than it needs"),
        (tensor(field(2, 0, b"\xff" * 9 + b"\x02")), "takes more bytes than it needs"),
        (tensor(field(2, 0, b"\xff" * 10 + b"\x01")), "takes more bytes than it needs"),
        (tensor(b"\x8a\x80\x00"), "takes more bytes than it needs"),
        (tensor(field(0, 0, b"\x01")), "has no number that there is"),
        (tensor(field(1 << 29, 0, b"\x01")), "has no number that there is"),
        (tensor(field(3, 3, b"") + field(3, 4, b"")), "is of a type that ONNX does not use"),
        (tensor(field(2, 6, b"")), "is of a type that ONNX does not use"),
        (tensor(field(2, 5, b"abcd")), "its field data_type is not of ONNX's type"),
        (tensor(field(9, 0, b"\x01")), "its field raw_data is not of ONNX's type"),
        (tensor(field(9, 5, b"abcd")), "its field raw_data is not of ONNX's type"),
        (tensor(message(8, b"a"), message(8, b"b")), "its field name comes twice"),
        (OPSET + message(GRAPH, b"") * 2, "its field graph comes twice"),
        (tensor(message(8, b"\xff\xfe")), "a name in it is no text"),
        (tensor(message(4, b"abcd")), "has a field 4, which no graph of frugal-rt's has"),
        (OPSET + message(GRAPH, message(15, b"")), "has a field 15"),
        (OPSET + message(GRAPH, b"") + message(25, b""), "has a field 25"),
        (OPSET + message(GRAPH, message(1, message(5, message(6, b"")))), "has a field 6"),
        (OPSET + message(GRAPH, message(1, message(7, b"ai.onnx.ml"))), "has a field 7"),
        (b"PK\x03\x04" + bytes(40), "is no ONNX graph that frugal-rt can read"),
        (message(GRAPH, b"") + bytes(LARGEST), "and no graph of frugal-rt's has over"),
    ],
)
def test_each_oddity_has_its_sentence(data, why):
    assert why in refused(data)


def test_numbers_are_signed_and_may_be_packed():
    separate = tensor(*(field(1, 0, varint(n % (1 << 64))) for n in (3, -1, 2**62)))
    packed = tensor(message(1, b"".join(varint(n % (1 << 64)) for n in (3, -1, 2**62))))
    assert separate != packed
    assert read(separate) == read(packed) == by_onnx(packed)
    assert read(packed).initialisers[0].dims == (3, -1, 2**62)


def test_what_a_tensor_says_twice_of_its_place_is_not_taken():
    pair = message(13, message(1, b"location") + message(2, b"a"))
    (found,) = read(tensor(field(14, 0, b"\x01"), pair, pair)).initialisers
    assert found.external == {}


# Where a tensor may hide.


def elsewhere(name: str = "w") -> TensorProto:
    found = TensorProto(name=name, dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    found.external_data.add(key="location", value="../passwd")
    return found


def model(*nodes, **more) -> ModelProto:
    return helper.make_model(helper.make_graph(list(nodes), "g", [], [], **more))


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=elsewhere(), dims=[1])


def with_function() -> ModelProto:
    found = model()
    node = helper.make_node("Constant", [], ["a"], value=elsewhere())
    found.functions.append(helper.make_function("d", "f", [], ["a"], [node], [helper.make_opsetid("", 18)]))
    return found


def with_training() -> ModelProto:
    found = model()
    found.training_info.add().algorithm.initializer.append(elsewhere())
    return found


def nested(depth: int) -> bytes:
    """A model of so many graphs within graphs."""
    graph = helper.make_graph([], "inner", [], [], [elsewhere()]).SerializeToString()
    for _ in range(depth):
        graph = message(1, message(5, message(6, graph)))
    return message(GRAPH, graph)


@pytest.mark.parametrize(
    "hidden",
    [
        model(initializer=[elsewhere()]),
        model(sparse_initializer=[sparse()]),
        model(helper.make_node("Constant", [], ["a"], value=elsewhere())),
        model(helper.make_node("Odd", [], ["a"], many=[elsewhere(), elsewhere()])),
        model(helper.make_node("Constant", [], ["a"], sparse_value=sparse())),
        with_function(),
        with_training(),
        ModelProto.FromString(nested(1)),
        ModelProto.FromString(nested(20)),
    ],
    ids=["initialiser", "sparse", "attribute", "attributes", "sparse attribute", "function", "training", "if", "ifs"],
)
def test_a_tensor_from_another_file_is_found_wherever_it_stands(hidden):
    assert set(external_files(memoryview(hidden.SerializeToString()), "it")) == {"../passwd"}


def test_a_model_that_holds_all_its_tensors_takes_no_file():
    held = model(initializer=[numpy_helper.from_array(np.ones(3), "w")])
    assert external_files(memoryview(held.SerializeToString()), "it") == []


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x3a\xff"])
def test_what_is_no_model_is_one_sentence(data):
    with pytest.raises(PlanError, match=r"^it (is no ONNX graph that frugal-rt can read: .*|holds no graph)$"):
        external_files(memoryview(data), "it")


def test_graphs_within_graphs_end_where_protobuf_ends():
    with pytest.raises(DecodeError):
        onnx.load_from_string(nested(40))
    for depth in (40, 10_000):
        with pytest.raises(PlanError, match="it is nested too deeply"):
            external_files(memoryview(nested(depth)), "it")
